"""Modality dropout: what is shown, how often, and that nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmod import ModulatedModel
from gradmod.methods import ModalityDropout, modality_dropout
from gradmod.models import MLP, LateFusion
from networks import NAMES, batch, network
from properties import assert_is_joint_training, assert_leaves_random_numbers

TWO, THREE = NAMES[:2], NAMES[:3]


class Seen(nn.Module):
    """Says which of its inputs are not masked."""

    def __init__(self, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.modalities = modalities
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.weight * torch.stack([inputs[m][:, 0] for m in self.modalities], 1)


def shown(method: ModalityDropout, samples: int, steps: int = 1, present: Any = None) -> Tensor:
    """[steps * B, M] what a network saw."""
    model = ModulatedModel(Seen(method.modalities), method, check=False)
    inputs = {m: torch.ones(samples, 2) for m in method.modalities}
    target = torch.zeros(samples).long()
    return torch.cat([model(inputs, target, present).detach() for _ in range(steps)]) > 0


def test_how_often_a_modality_is_shown() -> None:
    p = {"audio": 0.5, "visual": 0.2}
    seen = shown(ModalityDropout(THREE, p=p), 4000, steps=5)
    assert bool(seen.any(1).all())
    frequency = seen.double().mean(0)
    expected = torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64)  # text is always there
    torch.testing.assert_close(frequency, expected, rtol=0, atol=0.02)
    pairs = shown(ModalityDropout(TWO, p=0.5), 4000, steps=5)
    both, audio, visual = (
        (pairs == torch.tensor(mask)).all(1).double().mean()
        for mask in ([True, True], [True, False], [False, True])
    )
    for share in (both, audio, visual):  # each of three equally likely, given that one is shown
        assert abs(float(share) - 1 / 3) < 0.02


@given(st.floats(0, 0.95), st.integers(1, 6), st.integers(1, 20), st.booleans(), st.integers(0, 99))
@settings(max_examples=40)
def test_no_sample_is_left_with_nothing(
    p: float, count: int, samples: int, by_batch: bool, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    names = NAMES[:count]
    has = {m: torch.rand(samples, generator=draws) > 0.4 for m in names}
    method = ModalityDropout(names, p=p, by_batch=by_batch, seed=seed)
    table = torch.stack(list(has.values()), 1)
    seen = shown(method, samples, present=has)
    assert not bool((seen & ~table).any())
    assert torch.equal(seen.any(1), table.any(1))


def test_one_draw_for_the_batch() -> None:
    method = ModalityDropout(THREE, p=0.5, by_batch=True)
    steps = shown(method, 7, steps=40).split(7)
    assert all(bool((seen == seen[0]).all()) for seen in steps)
    assert len({tuple(seen[0].tolist()) for seen in steps}) == 7


def test_with_p_0_it_is_joint_training_to_the_last_bit() -> None:
    net = network(TWO, late=False, layer="dropout")
    assert_is_joint_training(ModalityDropout(TWO, p=0.0), net)


def test_it_is_the_networks_forward_on_masked_inputs() -> None:
    model = ModulatedModel(network(TWO, late=False, layer="layer-norm"), ModalityDropout(TWO, 0.5))
    inputs, target = batch(TWO, 9, 3)
    kept = copy.deepcopy(inputs)
    table = copy.deepcopy(model.method)._draw(9, None)  # type: ignore[operator]
    hidden = {m: x * table[:, n, None] for n, (m, x) in enumerate(inputs.items())}
    torch.manual_seed(0)
    ours = model(inputs, target)
    torch.manual_seed(0)
    assert torch.equal(ours, model.model(hidden))
    assert all(torch.equal(kept[m], inputs[m]) for m in TWO)
    assert not torch.equal(model.eval()(inputs), model(hidden))


def test_the_draws_are_its_own_and_go_on_where_they_were() -> None:
    method = ModalityDropout(TWO, p=0.5, seed=3)
    assert_leaves_random_numbers(lambda: copy.deepcopy(method)._draw(50, None))
    first, second = method._draw(50, None), method._draw(50, None)
    assert not torch.equal(first, second)
    again = ModalityDropout(TWO, p=0.5, seed=3)
    again._draw(50, None)
    resumed = ModalityDropout(TWO, p=0.5, seed=3)
    resumed.load_state_dict(again.state_dict())
    assert torch.equal(resumed._draw(50, None), second)
    assert not torch.equal(ModalityDropout(TWO, p=0.5, seed=4)._draw(50, None), first)


def test_processes_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    for process in (0, 1):
        monkeypatch.setattr(modality_dropout, "process_number", lambda process=process: process)
        draws.append(ModalityDropout(TWO, p=0.5, seed=3)._draw(50, None))
    assert not torch.equal(*draws)


def test_rescaling_keeps_the_mean_of_what_is_shown() -> None:
    """With masks of zeros and encoders without bias, the mean over many draws is the feature itself."""
    net = LateFusion({m: MLP(3, hidden=(4,)) for m in TWO}, classes=2)
    with torch.no_grad():
        for m in TWO:
            net.encoders[m] = nn.Linear(3, 4, bias=False)
    model = ModulatedModel(net, ModalityDropout(TWO, p={"audio": 0.5, "visual": 0.3}, rescale=True))
    inputs = {m: torch.randn(1, 3).expand(20000, 3) for m in TWO}
    mean = model(inputs, torch.zeros(20000).long()).detach().mean(0)
    torch.testing.assert_close(mean, model.eval()(inputs)[0].detach(), rtol=0, atol=0.02)


def test_what_is_refused() -> None:
    for p, said in (
        (1.0, "from 0 on and below 1"),
        (-0.1, "from 0 on"),
        ({"smell": 0.1}, "'smell'"),
    ):
        with pytest.raises(ValueError, match=said):
            ModalityDropout(TWO, p=p)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not say which they are"):
        ModulatedModel(Seen(TWO), ModalityDropout(TWO, rescale=True))
