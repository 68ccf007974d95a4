"""MSLR against numbers worked out by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F

from gradmod import MSLR, ModulatedModel
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import ValidationFigures
from networks import batch, network

TWO = ("audio", "visual")


def figures(
    audio: float, visual: float, lower_is_better: bool = False
) -> dict[str, ValidationFigures]:
    return {
        m: ValidationFigures(0.0, value, lower_is_better)
        for m, value in (("audio", audio), ("visual", visual))
    }


def assert_factors(method: MSLR, audio: float, visual: float) -> None:
    assert method.learning_rate_factors() == pytest.approx(
        {"audio": audio, "visual": visual}, abs=1e-15
    )


def test_keep() -> None:
    method = MSLR(TWO, {"audio": 1.3, "visual": 0.7}, rule="keep")
    method.after_epoch(Epoch(1, validation=figures(0.1, 0.9)))
    assert_factors(method, 1.3, 0.7)


def test_smooth_goes_to_one_in_equal_steps() -> None:
    method = MSLR(TWO, {"audio": 3.0, "visual": 0.5}, rule="smooth", window=4)
    for audio, visual in (
        (3.0, 0.5),
        (2.5, 0.625),
        (2.0, 0.75),
        (1.5, 0.875),
        (1.0, 1.0),
        (1.0, 1.0),
    ):
        assert_factors(method, audio, visual)
        method.after_epoch(Epoch(1, validation=figures(0.1, 0.9)))


def test_dynamic_follows_the_validation() -> None:
    """Over the mean of the last three: 0.2/0.2, 0.4/0.3, 0.6/0.4, 0.3/((0.4+0.6+0.3)/3); visual stands still."""
    method = MSLR(TWO, {"audio": 2.0}, window=3)
    assert_factors(method, 2.0, 1.0)
    for accuracy, factor in ((0.2, 1.0), (0.4, 4 / 3), (0.6, 1.5), (0.3, 9 / 13)):
        method.after_epoch(Epoch(1, validation=figures(accuracy, 0.5)))
        assert_factors(method, 2.0 * factor, 1.0)


def test_an_error_counts_by_its_reciprocal() -> None:
    """Errors 2 then 1: 1 / mean(1/2, 1) = 4/3."""
    method = MSLR(TWO)
    for audio in (2.0, 1.0):
        method.after_epoch(Epoch(1, validation=figures(audio, 1.0, lower_is_better=True)))
    assert_factors(method, 4 / 3, 1.0)


def test_an_accuracy_of_zero_changes_nothing() -> None:
    method = MSLR(TWO)
    for _ in range(3):
        method.after_epoch(Epoch(1, validation=figures(0.0, 0.4)))
    assert_factors(method, 1.0, 1.0)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_they_are_learning_rates_under_any_optimizer(kind: type[torch.optim.Optimizer]) -> None:
    """One step moves a modality's parameters `factor` times as far as joint training does, weight decay included."""
    inputs, target = batch(TWO, 8, 3)
    net = network(TWO, late=True, layer="layer-norm")
    joint = copy.deepcopy(net)
    optimizer = kind(joint.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
    F.cross_entropy(joint(inputs), target).backward()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer.step()
    model = ModulatedModel(net, MSLR(TWO, {"audio": 2.0, "visual": 0.25}, rule="keep"))
    optimizer = kind(model.parameter_groups(), lr=0.5, weight_decay=0.1)  # type: ignore[call-arg]
    model.set_learning_rate(optimizer, 0.01)
    F.cross_entropy(model(inputs, target), target).backward()
    optimizer.step()
    plain = dict(joint.named_parameters())
    for name, parameter in net.named_parameters():
        factor = 2.0 if ".audio." in name else 0.25 if ".visual." in name else 1.0
        torch.testing.assert_close(parameter - before[name], (plain[name] - before[name]) * factor)


def test_factors_that_the_optimizer_does_not_have_are_noticed() -> None:
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), MSLR(TWO, {"audio": 2.0}))
    with pytest.raises(RuntimeError, match=r"make it from model\.parameter_groups\(\)"):
        model(inputs, target)
    with pytest.raises(ValueError, match="the optimizer has no groups"):
        model.set_learning_rate(torch.optim.SGD(model.parameters(), 0.1), 0.1)
    optimizer = torch.optim.SGD(model.parameter_groups(), 0.1)
    model.set_learning_rate(optimizer, 0.1)
    model(inputs, target)
    model.after_epoch(figures(0.5, 0.5))
    with pytest.raises(RuntimeError, match="after every"):
        model(inputs, target)
    model.set_learning_rate(optimizer, 0.1)
    model(inputs, target)
    assert model.last_step is not None
    assert model.last_step.by_modality(TWO) == {"coefficients": {"audio": 2.0, "visual": 1.0}}


def test_groups_hold_every_parameter_once() -> None:
    net = network(TWO, late=False, layer="batch-norm")
    groups = ModulatedModel(net, MSLR(TWO)).parameter_groups()
    assert [group["modality"] for group in groups] == ["", "audio", "visual"]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(map(id, net.parameters()))


def test_its_memory_is_saved() -> None:
    one, other = (
        ModulatedModel(network(TWO, late=True, layer="plain"), MSLR(TWO, window=3))
        for _ in range(2)
    )
    for accuracy in (0.3, 0.5):
        one.after_epoch(figures(accuracy, 0.4))
    other.load_state_dict(one.state_dict())
    factors: list[Mapping[str, float]] = []
    for model in (one, other):
        model.after_epoch(figures(0.6, 0.2))
        factors.append(model.method.learning_rate_factors())
    assert factors[0] == factors[1] != {"audio": 1.0, "visual": 1.0}


def test_loaded_factors_are_not_those_of_the_optimizer() -> None:
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(
        network(TWO, late=True, layer="plain"), MSLR(TWO, {"audio": 2.0}, window=3)
    )
    optimizer = torch.optim.SGD(model.parameter_groups(), 0.1)
    model.set_learning_rate(optimizer, 0.1)
    model(inputs, target)
    assert model.last_step is not None
    other = copy.deepcopy(model)
    for accuracy in (0.2, 0.4):
        other.after_epoch(figures(accuracy, 0.5))
    model.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="the optimizer does not have yet"):
        model(inputs, target)
    model.set_learning_rate(optimizer, 0.1)
    model(inputs, target)
    assert model.last_step.by_modality(TWO)["coefficients"] == pytest.approx(
        {"audio": 8 / 3, "visual": 1.0}
    )
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.8 / 3, 0.1])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"modalities": ("audio",)}, "there is one, 'audio'"),
        ({"initial": {"smell": 2.0}}, "initial names 'smell'"),
        ({"initial": {"audio": 0.0}}, "factor of 'audio' is 0"),
        ({"rule": "fast"}, "rule is 'fast'"),
        ({"window": 1}, "window is 1"),
        ({"rule": "keep"}, "this is joint training"),
        ({"rule": "smooth", "initial": {"audio": 1.0}}, "this is joint training"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MSLR(**{"modalities": TWO, **settings})  # type: ignore[arg-type]
