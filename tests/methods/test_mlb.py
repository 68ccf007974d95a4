"""MLB: coefficients and gradients by hand, on both sides."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmod import ModulatedModel, UniModalLosses
from gradmod.methods import MLB
from gradmod.models import MLP, SumFusion
from networks import NAMES, SIZES, batch, network
from properties import step_gradients

TWO, THREE = NAMES[:2], NAMES[:3]


def made(modalities: tuple[str, ...] = TWO, **settings: Any) -> ModulatedModel:
    model = ModulatedModel(
        network(modalities, late=True, layer="layer-norm"), MLB(modalities, **settings)
    )
    torch.manual_seed(1)
    model.give_heads_their_sizes(batch(modalities, 3, 3)[0])
    return model


def factor(others: float, own: float, strength: float, fastest: float) -> float:
    r = others / own
    if r <= 1:
        return 1 + math.tanh(strength * (r - 1))
    return 1 + (fastest - 1) * math.tanh(strength * (r - 1))


@pytest.mark.parametrize("modalities", [TWO, THREE, NAMES])
def test_it_is_scaled_gradients_of_the_sum_of_all_losses(modalities: tuple[str, ...]) -> None:
    model = made(modalities, strength=0.8, fastest=4.0)
    plain = copy.deepcopy(model)
    net, heads = plain.model, plain.heads
    inputs, target = batch(modalities, 8, 3)
    model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 1.0))
    features = {m: net.encoders[m](inputs[m]) for m in modalities}  # type: ignore[union-attr, operator, index]
    logits = net(inputs)
    own = heads(features, logits)  # type: ignore[misc]
    loss = F.cross_entropy(logits, target) + sum(F.cross_entropy(one, target) for one in own)
    loss.backward()
    sure = [float(F.softmax(one.detach(), -1)[torch.arange(8), target].mean()) for one in own]
    expected = []
    for n, m in enumerate(modalities):
        others = [c for j, c in enumerate(sure) if j != n]
        expected.append(factor(sum(others) / len(others), sure[n], 0.8, 4.0))
        for parameter in net.encoders[m].parameters():  # type: ignore[union-attr, index]
            parameter.grad *= expected[-1]
    assert model.last_step is not None
    torch.testing.assert_close(
        model.last_step.coefficients, torch.tensor(expected, dtype=torch.float64)
    )
    assert min(expected) < 1 < max(expected)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        start = theirs.detach() - (torch.zeros_like(theirs) if theirs.grad is None else theirs.grad)
        torch.testing.assert_close(ours.detach(), start, rtol=1e-9, atol=1e-12, msg=name)


def coefficients(sure: list[float], **settings: Any) -> Tensor:
    """Of heads that are `sure` of the target, two classes."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modalities = NAMES[: len(sure)]
            self.encoders = nn.ModuleDict({m: nn.Linear(1, 1) for m in self.modalities})
            self.head = nn.Linear(len(sure), 2)

        def encode(self, m: str, x: Tensor) -> Any:
            return self.encoders[m](x)

        def fuse(self, features: Any) -> Tensor:
            return torch.cat([features[m] for m in self.modalities], 1)

        def mono_logits(self, features: Any) -> Tensor:
            odds = torch.tensor([math.log(c / (1 - c)) for c in sure], dtype=torch.float64)
            rows = torch.stack([odds, torch.zeros_like(odds)], 1)
            return rows[:, None] + 0 * features[self.modalities[0]].double()

        def forward(self, inputs: Any) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self.modalities}))

    model = ModulatedModel(Fixed(), MLB(NAMES[: len(sure)], **settings))
    inputs = {m: torch.ones(2, 1) for m in NAMES[: len(sure)]}
    model.training_step(inputs, torch.zeros(2).long(), torch.optim.SGD(model.parameters(), 0.0))
    assert model.last_step is not None
    return model.last_step.coefficients


@given(st.lists(st.floats(0.05, 0.95), min_size=2, max_size=4), st.floats(0.1, 3), st.floats(1, 10))
def test_the_coefficients(sure: list[float], strength: float, fastest: float) -> None:
    found = coefficients(sure, strength=strength, fastest=fastest)
    for n, k in enumerate(found.tolist()):
        others = [c for j, c in enumerate(sure) if j != n]
        expected = factor(sum(others) / len(others), sure[n], strength, fastest)
        assert k == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert 0 < k <= fastest * (1 + 1e-6)


def test_at_equal_sureness_nothing_changes_and_with_fastest_1_nothing_is_sped_up() -> None:
    assert coefficients([0.4, 0.4, 0.4]).tolist() == pytest.approx([1.0] * 3)
    slowed = coefficients([0.8, 0.3], fastest=1.0).tolist()
    assert slowed[0] < 1
    assert slowed[1] == 1.0
    both = coefficients([0.8, 0.3]).tolist()
    assert both[::-1] == pytest.approx(coefficients([0.3, 0.8]).tolist())


def test_a_head_of_the_networks_own_is_scaled_too() -> None:
    torch.manual_seed(0)
    net = SumFusion({m: MLP(SIZES[m], hidden=(4,)) for m in TWO}, classes=3).double()
    inputs, target = batch(TWO, 8, 3)
    plain = step_gradients(ModulatedModel(copy.deepcopy(net), UniModalLosses(TWO)), inputs, target)
    model = ModulatedModel(net, MLB(TWO))
    scaled = step_gradients(model, inputs, target)
    assert model.last_step is not None
    assert bool((model.last_step.coefficients != 1).all())
    assert any(".heads." in name for name in scaled)
    for coefficient, m in zip(model.last_step.coefficients, TWO, strict=True):
        for name in (name for name in scaled if f".{m}." in name):
            torch.testing.assert_close(scaled[name], coefficient * plain[name], msg=name)


def test_a_batch_with_samples_of_one_modality_alone_changes_nothing() -> None:
    model = made()
    inputs, target = batch(TWO, 4, 3)
    present = {"visual": torch.zeros(4, dtype=torch.bool)}
    model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.1), present=present)
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [1.0, 1.0]


def test_what_is_refused() -> None:
    for settings, said in (
        ({"strength": 0.0}, "strength is 0"),
        ({"fastest": 0.5}, r"fastest is 0\.5; expected a finite number >= 1"),
    ):
        with pytest.raises(ValueError, match=said):
            MLB(TWO, **settings)
    with pytest.raises(ValueError, match="there is one, 'audio'"):
        MLB(TWO[:1])
    with pytest.raises(RuntimeError, match=r"model\.training_step"):
        made()(*batch(TWO, 4, 3))
