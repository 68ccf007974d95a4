"""Diagnosing & Re-learning, and what stands behind it: epochs that are told once, and tensors that are kept."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradmod import Method, ModulatedModel, Regression
from gradmod.methods import DiagnosingRelearning, Epoch, SplitFeatures
from gradmod.models import MLP, SumFusion
from networks import NAMES, SIZES, batch, network

TWO = NAMES[:2]


def made(layer: str = "plain", **settings: Any) -> ModulatedModel:
    return ModulatedModel(
        network(TWO, late=False, layer=layer), DiagnosingRelearning(TWO, **settings)
    )


def weights(model: nn.Module, kind: str = "parameters") -> list[Tensor]:
    return [tensor.detach().clone() for tensor in getattr(model, kind)()]


def splits(size: int = 30) -> dict[str, Any]:
    return {
        "train": [batch(TWO, size, 3, seed=1), batch(TWO, size, 3, seed=2)],
        "validation": [batch(TWO, size, 3, seed=3)],
    }


def trained(model: ModulatedModel, epochs: int, **loaders: Any) -> list[bool]:
    """Train for some epochs of one step; whether each began with a change."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    changes = []
    for epoch in range(1, epochs + 1):
        changes.append(model.before_epoch(epoch, **(loaders or splits())))
        torch.manual_seed(epoch)  # of dropout
        model.training_step(*batch(TWO, 7, 3, seed=epoch), optimizer)
    return changes


def test_encoders_go_back_by_alpha_and_nothing_else_does() -> None:
    model = made("batch-norm", every=2, strength=5.0)
    first = [weights(model.model.encoders[m]) for m in TWO]  # type: ignore[union-attr, index]
    trained(model, 2)
    before, buffers = copy.deepcopy(model), weights(model, "buffers")
    assert model.before_epoch(3, **splits())
    (found,) = model.method.diagnoses  # type: ignore[union-attr]
    assert found["epoch"] == 3
    for m, start in zip(TWO, first, strict=True):
        gap = abs(found[m]["train"] - found[m]["validation"])
        assert found[m]["alpha"] == pytest.approx(math.tanh(5 * gap))
        assert 0 < found[m]["alpha"] < 1
        trained_to = weights(before.model.encoders[m])  # type: ignore[union-attr, index]
        now = weights(model.model.encoders[m])  # type: ignore[union-attr, index]
        for a, b, c in zip(start, trained_to, now, strict=True):
            torch.testing.assert_close(c, found[m]["alpha"] * a + (1 - found[m]["alpha"]) * b)
    for name, old in before.named_parameters():
        if "encoders" not in name:
            assert torch.equal(old, model.get_parameter(name)), name
    assert all(map(torch.equal, buffers, weights(model, "buffers")))


def test_without_a_gap_nothing_moves_and_with_a_wide_one_all_begins_anew() -> None:
    same = [batch(TWO, 30, 3, seed=1)]
    model = made(every=1)
    trained(model, 1, train=same, validation=same)
    before = weights(model)
    model.before_epoch(2, train=same, validation=same)
    assert all(map(torch.equal, before, weights(model)))
    model = made(every=1, strength=1e6)
    first = weights(model.model.encoders)  # type: ignore[arg-type]
    trained(model, 1)
    assert not all(map(torch.equal, first, weights(model.model.encoders)))  # type: ignore[arg-type]
    model.method.begin_epoch(Epoch(2, splits=clean_and_useless()))
    for a, b in zip(first, weights(model.model.encoders), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(a, b)


def test_when_it_acts() -> None:
    assert trained(made(every=2, times=2), 8) == [False, False, True, False, True] + [False] * 3
    assert trained(made(every=1, times=9), 3) == [False, True, True]


def clean_and_useless() -> dict[str, Any]:
    """Features of the training split stand in three far corners; those of the validation split say nothing."""
    target = torch.arange(60) % 3
    corners = 10.0 * torch.eye(3)[target] + 0.01 * torch.randn(60, 3)
    return {
        "train": lambda: SplitFeatures(dict.fromkeys(TWO, corners), target),
        "validation": lambda: SplitFeatures(dict.fromkeys(TWO, torch.zeros(60, 3)), target),
    }


def test_the_purities_are_those_of_clean_clusters() -> None:
    model = made(every=1)
    trained(model, 1)
    model.method.begin_epoch(Epoch(2, splits=clean_and_useless()))
    (found,) = model.method.diagnoses  # type: ignore[union-attr]
    assert found["audio"]["train"] == 1.0
    assert found["audio"]["validation"] == pytest.approx(1 / 3)


def test_every_number_of_a_feature_counts_alike() -> None:
    """One is a thousand times as large as those that tell the classes, and says nothing."""
    target = torch.arange(60) % 3
    loud = (
        1000
        * torch.linspace(0, 1, 60)[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    )
    split = SplitFeatures(
        dict.fromkeys(TWO, torch.cat([torch.eye(3)[target], loud[:, None]], 1)), target
    )
    model = made(every=1)
    trained(model, 1)
    model.method.begin_epoch(Epoch(2, splits=dict.fromkeys(("train", "validation"), lambda: split)))
    assert model.method.diagnoses[0]["audio"]["train"] == 1.0  # type: ignore[union-attr, index]


def test_a_modalitys_own_head_does_not_go_back() -> None:
    net = SumFusion({m: MLP(SIZES[m], hidden=(6,)) for m in TWO}, 3).double()
    model = ModulatedModel(net, DiagnosingRelearning(TWO, every=1, strength=1e6))
    first = weights(net.encoders)
    trained(model, 1)
    heads = weights(net.heads)
    model.method.begin_epoch(Epoch(2, splits=clean_and_useless()))
    assert all(map(torch.equal, heads, weights(net.heads)))
    for a, b in zip(first, weights(net.encoders), strict=True):
        torch.testing.assert_close(a, b)


def test_only_samples_that_have_a_modality_and_a_class_are_looked_at() -> None:
    target = torch.arange(60) % 3
    target[:6] = -100
    corners = 10.0 * torch.eye(3)[target.clamp(min=0)]
    corners[6:12] = torch.randn(6, 3)
    has = torch.ones(60, dtype=torch.bool)
    has[6:12] = False
    model = made(every=1)
    trained(model, 1)
    split = SplitFeatures(dict.fromkeys(TWO, corners), target, {"audio": has, "visual": has})
    model.method.begin_epoch(Epoch(2, splits=dict.fromkeys(("train", "validation"), lambda: split)))
    assert model.method.diagnoses[0]["audio"]["train"] == 1.0  # type: ignore[union-attr, index]


def test_reading_the_splits_changes_nothing() -> None:
    model = made("dropout", every=1)
    trained(model, 1)
    inputs, target = batch(TWO, 40, 3)
    rows = [({m: x[i] for m, x in inputs.items()}, target[i]) for i in range(40)]
    loader: DataLoader[Any] = DataLoader(rows, batch_size=16, shuffle=True)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].sum()  # type: ignore[index, union-attr]
    model.train()
    model.before_epoch(2, train=loader, validation=loader)
    assert model.training
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].sum()  # type: ignore[index, union-attr]


def test_a_run_that_goes_on_in_the_middle_of_an_epoch_is_not_diagnosed_twice() -> None:
    whole, broken = made(every=1), made(every=1)
    for model in (whole, broken):
        trained(model, 2)
    resumed = made(every=1)
    resumed.load_state_dict(broken.state_dict())
    assert resumed.before_epoch(2, **splits()) is False
    assert resumed.method.diagnoses == whole.method.diagnoses  # type: ignore[union-attr]
    for model in (whole, resumed):
        assert model.before_epoch(3, **splits())
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)


def test_what_is_refused() -> None:
    inputs, target = batch(TWO, 4, 3)
    with pytest.raises(RuntimeError, match=r"not told of one: call model\.before_epoch"):
        made()(inputs, target)
    model = made(every=1)
    trained(model, 1)
    with pytest.raises(RuntimeError, match="features of the train split"):
        model.before_epoch(2)
    for settings, said in (({"every": 0}, "every is 0"), ({"strength": 0.0}, "strength is 0")):
        with pytest.raises(ValueError, match=said):
            DiagnosingRelearning(TWO, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the task is Regression"):
        ModulatedModel(
            network(TWO, late=True, layer="plain"), DiagnosingRelearning(TWO), task=Regression()
        )
    with pytest.raises(ValueError, match="epoch is 0"):
        model.before_epoch(0)
    with pytest.raises(ValueError, match="gave no batch"):
        model.before_epoch(3, train=[], validation=[])
    with pytest.raises(TypeError, match="a batch of the split is int"):
        model.before_epoch(4, train=[1], validation=[1])
    soft = torch.full((4, 3), 1 / 3)
    with pytest.raises(ValueError, match="expected a whole number, the class"):
        model.before_epoch(5, train=[(inputs, soft)], validation=[(inputs, soft)])


class Keeps(Method):
    """Keeps tensors of free shapes."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_the_store_goes_with_the_state_whatever_it_holds(dtype: torch.dtype) -> None:
    one, other = (
        ModulatedModel(network(TWO, late=True, layer="plain"), Keeps(TWO)) for _ in range(2)
    )
    one.method.store = {"a.b": torch.ones(2, 3).to(dtype), "c": torch.zeros(()).to(dtype)}
    other.method.store = {"old": torch.ones(7)}
    other.load_state_dict(one.state_dict())
    assert other.method.store.keys() == one.method.store.keys()
    for name, tensor in one.method.store.items():
        assert torch.equal(tensor, other.method.store[name])
        assert tensor.data_ptr() != other.method.store[name].data_ptr()
    twin = copy.deepcopy(one)
    twin.method.store["c"].fill_(1)
    assert not one.method.store["c"].any()
    one.method.store["gone"] = torch.ones(1)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network(TWO, late=True, layer="plain").load_state_dict(one.state_dict())


def test_the_store_moves_with_the_module_and_statistics_stay_in_64_bits() -> None:
    method = Keeps(TWO)
    method.store = {"weights": torch.ones(2), "statistics": torch.ones(2, dtype=torch.float64) / 3}
    method.half()
    assert method.store["weights"].dtype == torch.float16
    assert torch.equal(method.store["statistics"], torch.ones(2, dtype=torch.float64) / 3)
    method.to("meta")
    assert {tensor.device.type for tensor in method.store.values()} == {"meta"}
