"""The sequence encoder against its published sizes and an independent computation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import AGM, ModulatedModel
from gradmod.coalitions.choice import choose_strategy
from gradmod.experiments.training.network import build_model
from gradmod.models.fusion import LateFusion
from gradmod.models.transformer import SequenceEncoder

UR_FUNNY = {"visual": (371,), "audio": (81,), "text": (300,)}


def by_hand(
    state: dict[str, Tensor], x: Tensor, mask: Tensor | None, layers: int, heads: int
) -> Tensor:
    """The encoder in eval mode, sample by sample and head by head, from its parameters alone."""
    results = []
    for number in range(len(x)):
        sequence = x[number] @ state["project.weight"].T
        width = sequence.shape[1]
        for layer in range(layers):
            p = {
                k.split(f"layers.layers.{layer}.")[1]: v
                for k, v in state.items()
                if f"layers.layers.{layer}." in k
            }
            qkv = sequence @ p["self_attn.in_proj_weight"].T + p["self_attn.in_proj_bias"]
            query, key, value = qkv.split(width, 1)
            heard = []
            for head in range(heads):
                part = slice(head * width // heads, (head + 1) * width // heads)
                scores = query[:, part] @ key[:, part].T / math.sqrt(width // heads)
                if mask is not None:
                    scores[:, ~mask[number]] = -math.inf
                heard.append(scores.softmax(1) @ value[:, part])
            attended = (
                torch.cat(heard, 1) @ p["self_attn.out_proj.weight"].T
                + p["self_attn.out_proj.bias"]
            )
            sequence = F.layer_norm(
                sequence + attended, (width,), p["norm1.weight"], p["norm1.bias"]
            )
            hidden = (sequence @ p["linear1.weight"].T + p["linear1.bias"]).relu()
            fed = hidden @ p["linear2.weight"].T + p["linear2.bias"]
            sequence = F.layer_norm(sequence + fed, (width,), p["norm2.weight"], p["norm2.bias"])
        results.append(sequence[0])
    return torch.stack(results)


@pytest.mark.parametrize("masks_padding", [True, False])
def test_it_equals_an_independent_computation(masks_padding: bool) -> None:
    torch.manual_seed(0)
    encoder = (
        SequenceEncoder(5, width=8, layers=2, heads=4, hidden=12, masks_padding=masks_padding)
        .double()
        .eval()
    )
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4]])
    expected = by_hand(encoder.state_dict(), x, mask if masks_padding else None, 2, 4)
    torch.testing.assert_close(encoder({"x": x, "mask": mask}), expected, rtol=1e-10, atol=1e-10)


def test_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        late = build_model(UR_FUNNY, 2, "transformer", "late")
        early = build_model(UR_FUNNY, 2, "transformer", "early")
    assert sum(p.numel() for p in late.parameters()) == 132_917_762
    assert late.head.in_features == 2304
    assert early.head.in_features == 1024


def test_padding_changes_nothing_where_it_is_masked() -> None:
    torch.manual_seed(0)
    encoder = SequenceEncoder(3, width=8, layers=2, heads=2, hidden=8).double().eval()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    longer = torch.cat([x, torch.randn(2, 3, 3, dtype=torch.float64)], 1)
    there = torch.ones(2, 4, dtype=torch.bool)
    padded = torch.cat([there, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(
        encoder({"x": x, "mask": there}), encoder({"x": longer, "mask": padded})
    )


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("masks_padding", [True, False])
def test_strategies_agree_on_padded_batches(dropout: float, masks_padding: bool) -> None:
    torch.manual_seed(0)
    sizes = {"visual": 5, "text": 3}
    encoders = {m: SequenceEncoder(n, 8, 1, 2, 8, dropout, masks_padding) for m, n in sizes.items()}
    net = LateFusion(encoders, 2).double()
    lengths = torch.tensor([[4], [2], [3]])
    inputs = {
        m: {"x": torch.randn(3, 4, n, dtype=torch.float64), "mask": torch.arange(4) < lengths}
        for m, n in sizes.items()
    }
    evaluations = []
    for name in ("looped", "batched", "reuse", "additive"):
        torch.manual_seed(1)
        evaluations.append(
            choose_strategy(net, tuple(sizes), name).evaluate(net, inputs, tuple(sizes))
        )
    for other in evaluations[1:]:
        torch.testing.assert_close(
            other.responses, evaluations[0].responses, rtol=1e-10, atol=1e-10
        )
    assert ModulatedModel(net, AGM(tuple(sizes))).strategy.name == "additive"


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="width a multiple of heads"):
        SequenceEncoder(3, width=10, heads=4)
