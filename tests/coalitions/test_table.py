"""Logits of every coalition, against passes through the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradmod import adapt
from gradmod.coalitions.table import coalition_logits
from networks import NAMES, SIZES, Network


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("reuse", [True, False])
def test_every_row_is_a_pass_with_the_others_masked(count: int, reuse: bool) -> None:
    torch.manual_seed(count)
    names = NAMES[:count]
    network = Network(names, "batch-norm", 3, segments=2).eval()
    model = network if reuse else adapt(network, call=lambda net, inputs: net(inputs)).eval()
    inputs = {m: torch.randn(5, SIZES[m]) for m in names}
    found = coalition_logits(model, inputs, names)
    assert not found.requires_grad
    for code in range(1 << count):
        shown = {m: x if code >> bit & 1 else torch.zeros_like(x) for bit, (m, x) in enumerate(inputs.items())}
        torch.testing.assert_close(found[code], network(shown))


def test_each_encoder_runs_twice_however_many_coalitions() -> None:
    names = NAMES[:4]
    model = Network(names, "plain", 3).eval()
    calls: list[nn.Module] = []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda module, *_: calls.append(module))
    coalition_logits(model, {m: torch.randn(5, SIZES[m]) for m in names}, names)
    assert len(calls) == 16


def test_what_is_refused() -> None:
    model = Network(NAMES[:2], "plain", 3)
    with pytest.raises(ValueError, match="inputs lack 'visual'"):
        coalition_logits(model, {"audio": torch.zeros(2, 5)}, NAMES[:2])
    many = [f"m{i}" for i in range(11)]
    with pytest.raises(ValueError, match="2048 coalitions"):
        coalition_logits(model, dict.fromkeys(many, torch.zeros(2, 5)), many)
