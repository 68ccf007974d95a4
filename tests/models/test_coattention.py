"""The network for CMU-MOSEI against its published size and an independent computation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradmod import AGM, ModulatedModel
from gradmod.coalitions.choice import choose_strategy
from gradmod.models.coattention import CoAttention

FEATURES = {"audio": 5, "visual": 3}
LENGTHS = {"text": 6, "audio": 4, "visual": 5}


def small(masks_padding: bool = True) -> CoAttention:
    torch.manual_seed(0)
    return CoAttention(
        3,
        torch.randn(9, 7),
        FEATURES,
        LENGTHS,
        width=8,
        hidden=10,
        layers=2,
        heads=2,
        masks_padding=masks_padding,
    ).double()


def batch(samples: int = 3) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 4, (samples, 1), generator=generator)
    inputs = {
        "text": {
            "tokens": torch.randint(9, (samples, 6), generator=generator),
            "mask": torch.arange(6) < lengths,
        }
    }
    for m, size in FEATURES.items():
        x = torch.randn(samples, LENGTHS[m], size, generator=generator, dtype=torch.float64)
        inputs[m] = {"x": x, "mask": torch.arange(LENGTHS[m]) < lengths + 1}
    return inputs


def by_hand(
    net: CoAttention, inputs: dict[str, dict[str, Tensor]], sample: int, masks_padding: bool
) -> Tensor:
    """Logits of one sample in eval mode, from the parameters alone."""
    p = net.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        rows = [
            (row - row.mean()) / ((row - row.mean()).square().sum().div(len(row) - 1).sqrt() + 1e-6)
            for row in x
        ]
        return p[f"{name}.weight"] * torch.stack(rows) + p[f"{name}.bias"]

    def attend(name: str, x: Tensor, to: Tensor, there: Tensor | None) -> Tensor:
        w, b = p[f"{name}.attention.in_proj_weight"], p[f"{name}.attention.in_proj_bias"]
        q, k, v = (
            s @ w[8 * i : 8 * i + 8].T + b[8 * i : 8 * i + 8] for i, s in enumerate((x, to, to))
        )
        parts = []
        for head in range(2):
            cut = slice(4 * head, 4 * head + 4)
            scores = q[:, cut] @ k[:, cut].T / 2
            if there is not None:
                scores[:, ~there] = -math.inf
            parts.append(scores.softmax(1) @ v[:, cut])
        return norm(f"{name}.norm", x + linear(f"{name}.attention.out_proj", torch.cat(parts, 1)))

    def mlp(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.3", linear(f"{name}.0", x).relu())

    def flatten(name: str, x: Tensor, there: Tensor | None) -> Tensor:
        scores = mlp(f"{name}.scores", x)
        if there is not None:
            scores[~there] = -math.inf
        return scores.softmax(0).T @ x

    h = c = torch.zeros(8, dtype=torch.float64)
    steps = []
    for word in p["embedding.weight"][inputs["text"]["tokens"][sample]]:
        gates = p["words.weight_ih_l0"] @ word + p["words.weight_hh_l0"] @ h
        i, f, g, o = (gates + p["words.bias_ih_l0"] + p["words.bias_hh_l0"]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        steps.append(h)
    x = {"text": torch.stack(steps)} | {
        m: linear(f"inputs.{m}", inputs[m]["x"][sample]) for m in FEATURES
    }
    for block in range(2):
        name = f"blocks.{block}"
        used = masks_padding or block == 0
        there = {m: inputs[m]["mask"][sample] if used else None for m in x}
        new = {}
        for m in x:
            y = attend(f"{name}.own.{m}", x[m], x[m], there[m])
            if m != "text":
                y = attend(f"{name}.guided.{m}", y, x["text"], there["text"])
            y = norm(
                f"{name}.forward_parts.{m}.norm", y + mlp(f"{name}.forward_parts.{m}.layers", y)
            )
            new[m] = y + x[m]
        if block == 0:
            new = {
                m: norm(f"{name}.norms.{m}", y + flatten(f"{name}.flattening.{m}", y, there[m]))
                for m, y in new.items()
            }
        x = new
    last = {m: inputs[m]["mask"][sample] if masks_padding else None for m in x}
    total = sum(linear(f"outputs.{m}", flatten(f"flattening.{m}", x[m], last[m])) for m in x)
    return linear("head", norm("norm", total))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("masks_padding", [True, False])
def test_it_equals_an_independent_computation(masks_padding: bool) -> None:
    net, inputs = small(masks_padding).eval(), batch()
    expected = torch.stack([by_hand(net, inputs, sample, masks_padding) for sample in range(3)])
    torch.testing.assert_close(net(inputs), expected, rtol=1e-9, atol=1e-9)


def test_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = CoAttention(2, torch.empty(5, 300), {"audio": 80}, {"text": 60, "audio": 60})
    total = sum(parameter.numel() for parameter in net.parameters())
    assert total - net.embedding.weight.numel() == 41_237_596


def test_what_is_padding_changes_nothing() -> None:
    net, inputs = small().eval(), batch()
    before = net(inputs)
    inputs["text"]["tokens"][~inputs["text"]["mask"]] = 4
    inputs["audio"]["x"][~inputs["audio"]["mask"]] = 9.0
    torch.testing.assert_close(net(inputs), before)


def test_hidden_modalities_keep_their_padding_and_strategies_agree() -> None:
    net, inputs = small(), batch()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    hidden = net.mask("text", inputs["text"])
    assert not hidden["tokens"].any()
    assert torch.equal(hidden["mask"], inputs["text"]["mask"])
    names = ("text", "audio", "visual")
    first, second = (
        choose_strategy(net, names, s).evaluate(net, inputs, names) for s in ("looped", "batched")
    )
    torch.testing.assert_close(first.responses, second.responses, rtol=1e-10, atol=1e-10)
    assert ModulatedModel(net, AGM(names)).strategy.name == "batched"


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="width 10; expected a multiple of heads, 4"):
        CoAttention(2, torch.zeros(3, 4), {"audio": 2}, {"text": 3, "audio": 3}, width=10)
