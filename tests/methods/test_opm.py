"""OPM: the probabilities by hand, what is dropped, and that nothing is where nobody is ahead."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmod
from gradmod import ModulatedModel
from gradmod.methods import OGM, OGMGE, OPM, opm
from networks import NAMES, batch, network
from properties import (
    assert_is_joint_training,
    assert_leaves_random_numbers,
    assert_only_the_full_pass_moves_buffers,
)

TWO, THREE = NAMES[:2], NAMES[:3]


def made(modalities: tuple[str, ...] = TWO, **settings: Any) -> ModulatedModel:
    settings = {"often": 1.0, **settings}
    return ModulatedModel(
        network(modalities, late=False, layer="layer-norm"), OPM(modalities, **settings)
    )


def probabilities(net: Any, inputs: Any, target: Tensor, q: float, strength: float) -> list[float]:
    """Each modality alone on a copy in eval mode."""
    copied = copy.deepcopy(net).eval()
    sure = []
    for m in inputs:
        shown = {j: x if j == m else torch.zeros_like(x) for j, x in inputs.items()}
        said = F.softmax(copied(shown).detach(), -1)
        sure.append(float(said[torch.arange(len(target)), target].mean()))
    found = []
    for n, own in enumerate(sure):
        others = [c for j, c in enumerate(sure) if j != n]
        rho = own * len(others) / sum(others)
        found.append(min(q * (1 + strength * math.tanh(rho - 1)), 1.0) if rho > 1 else 0.0)
    return found


@pytest.mark.parametrize("modalities", [TWO, THREE, NAMES])
def test_the_probabilities_by_hand(modalities: tuple[str, ...]) -> None:
    model = made(modalities, q=0.6, strength=0.9)
    inputs, target = batch(modalities, 9, 3)
    expected = probabilities(model.model, inputs, target, 0.6, 0.9)
    model(inputs, target)
    assert model.last_step is not None
    assert (1 - model.last_step.coefficients).tolist() == pytest.approx(expected)
    assert 0 < sum(value > 0 for value in expected) < len(modalities)


class Open(nn.Module):
    """Its logits show what the fusion got; which modality is ahead is said."""

    def __init__(self, ahead: str, sizes: dict[str, int]) -> None:
        super().__init__()
        self.modalities, self.ahead = tuple(sizes), ahead
        self.encoders = nn.ModuleDict({m: nn.Identity() for m in sizes})
        self.weight = nn.Parameter(torch.ones(()))

    def encode(self, m: str, x: Tensor) -> Any:
        return self.encoders[m](x)

    def fuse(self, features: Any) -> Tensor:
        return torch.stack([features[m][:, 0] for m in self.modalities], 1)

    def head(self, joint: Tensor) -> Tensor:
        lead = joint[:, [self.modalities.index(self.ahead)]] if self.ahead else 0 * joint[:, :1]
        return self.weight * torch.cat([joint, lead], 1)

    def forward(self, inputs: Any) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self.modalities}))


def fused(model: ModulatedModel, samples: int, present: Any = None) -> Tensor:
    """[B, M] what the fusion got of features of ones."""
    net: Any = model.model
    inputs = {m: torch.ones(samples, 3 if m == "audio" else 1) for m in net.modalities}
    # The class that the leading one speaks for.
    target = torch.full((samples,), len(net.modalities))
    return model(inputs, target, present).detach()[:, : len(net.modalities)]


def opened(ahead: str, **settings: Any) -> ModulatedModel:
    settings = {"often": 1.0, **settings}
    return ModulatedModel(Open(ahead, {"audio": 3, "visual": 1}), OPM(TWO, **settings))


def test_the_leading_modality_alone_is_dropped_and_all_are_scaled() -> None:
    model = opened("audio")
    seen = fused(model, 20_000)
    assert model.last_step is not None
    q = 1 - float(model.last_step.coefficients[0])
    assert 0.5 < q < 0.75
    assert float(model.last_step.coefficients[1]) == 1.0
    assert abs(float((seen[:, 0] == 0).double().mean()) - q) < 0.02
    theta = (3 * q + 1 * 0) / 4
    torch.testing.assert_close(seen[:, 1], torch.full((20_000,), 1 / (1 - theta)))
    kept = seen[:, 0][seen[:, 0] != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - theta)))
    # The concatenation, 3 numbers and 1, has the mean that it has without dropping.
    assert abs(float((3 * seen[:, 0] + seen[:, 1]).mean()) / 4 - 1) < 0.02


def test_a_probability_is_1_at_most() -> None:
    model = opened("audio", q=0.9, strength=5.0)
    seen = fused(model, 50)
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [0.0, 1.0]
    assert not bool(seen[:, 0].any())
    torch.testing.assert_close(seen[:, 1], torch.full((50,), 4.0))  # theta is 3 / 4


def test_a_sample_that_has_the_leading_modality_alone_keeps_it() -> None:
    present = {"visual": torch.tensor([False] * 500 + [True] * 500)}
    seen = fused(opened("audio", q=1.0), 1000, present)
    assert bool((seen[:500, 0] > 0).all())
    assert not bool((seen[500:, 0] > 0).all())


def test_how_often_it_acts() -> None:
    model = opened("audio", often=0.3)
    acted = [bool((fused(model, 4)[:, 1] != 1).any()) for _ in range(400)]
    assert abs(sum(acted) / 400 - 0.3) < 0.07


def test_where_nobody_is_ahead_or_outside_the_window_it_is_joint_training() -> None:
    net = network(TWO, late=False, layer="dropout")
    assert_is_joint_training(OPM(TWO, often=1.0, epochs=(5, None)), net)
    assert_is_joint_training(OPM(TWO, often=1e-12), net)
    model = ModulatedModel(copy.deepcopy(net), OPM(TWO, often=1.0))
    with torch.no_grad():
        model.model.out.weight.zero_()  # type: ignore[union-attr]
    inputs, target = batch(TWO, 6, 3)
    torch.manual_seed(0)
    ours = model(inputs, target)
    torch.manual_seed(0)
    assert torch.equal(ours, model.model(inputs))
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [1.0, 1.0]


def test_in_eval_mode_nothing_is_dropped_and_draws_are_its_own() -> None:
    model = made()
    inputs, target = batch(TWO, 9, 3)
    assert_leaves_random_numbers(model.method._generators)  # type: ignore[arg-type]
    model(inputs, target)
    assert torch.equal(model.eval()(inputs), model.model(inputs))


def test_processes_act_together_and_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it acts is the same on all, which features are dropped is not; a resumed run goes on."""
    method = OPM(TWO, seed=3)
    state = copy.deepcopy(method.state_dict())
    draws = []
    for process in (0, 1):
        monkeypatch.setattr(opm, "process_number", lambda process=process: process)
        method.load_state_dict(state)
        draws.append(
            [torch.rand(9, generator=one) for _ in range(2) for one in method._generators()]
        )
    (always, own, later, _), (same, other, same_later, _) = draws
    assert torch.equal(always, same)
    assert torch.equal(later, same_later)
    assert not torch.equal(own, other)
    for one, two in ((always, own), (always, later), (same, other)):
        assert not torch.equal(one, two)


def test_batch_norm_is_moved_by_the_full_pass_alone() -> None:
    net = network(TWO, late=False, layer="batch-norm")
    assert_only_the_full_pass_moves_buffers(ModulatedModel(net, OPM(TWO, often=1e-9)))


def test_what_is_refused() -> None:
    for settings, said in (
        ({"q": 0.0}, "q is 0"),
        ({"often": 1.5}, r"often is 1\.5"),
        ({"strength": -1.0}, "strength is -1"),
    ):
        with pytest.raises(ValueError, match=said):
            OPM(TWO, **settings)
    late = network(TWO, late=True, layer="plain")
    opaque = gradmod.adapt(late, lambda net, x: net(x), encoders=dict(late.encoders.items()))
    with pytest.raises(ValueError, match="OPM fuses features itself"):
        ModulatedModel(opaque, OPM(TWO))

    class Prepares(Open):
        def forward(self, inputs: Any) -> Tensor:
            return super().forward({m: x / 2 for m, x in inputs.items()})

    model = ModulatedModel(Prepares("audio", {"audio": 3, "visual": 1}), OPM(TWO), check=False)
    with pytest.raises(RuntimeError, match="encodes another input of 'audio'"):
        fused(model, 4)


def test_ogm_is_ogm_ge_without_noise() -> None:
    net = network(TWO, late=True, layer="plain")
    found = []
    for method in (OGM(TWO, alpha=0.7), OGMGE(TWO, alpha=0.7, noise=False)):
        model = ModulatedModel(copy.deepcopy(net), method)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for seed in range(3):
            model.training_step(*batch(TWO, 6, 3, seed=seed), optimizer)
        found.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *found))
