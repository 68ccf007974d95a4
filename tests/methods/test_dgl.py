"""Disentangled gradients: who learns from what, against two plain backward passes on copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmod
from gradmod import ModulatedModel, MultiLabel, Regression
from gradmod.methods import DGL
from networks import NAMES, batch, network
from properties import (
    assert_only_the_full_pass_moves_buffers,
    assert_same,
    gradients,
    step_gradients,
)

TWO, THREE = NAMES[:2], NAMES[:3]


def ours(net: nn.Module, inputs: Any, target: Tensor, **settings: Any) -> dict[str, Tensor]:
    """Gradients of one step on a copy of `net`."""
    model = ModulatedModel(copy.deepcopy(net), DGL(tuple(inputs), **settings))
    torch.manual_seed(0)
    found = step_gradients(model, inputs, target)
    return {name.removeprefix("model."): gradient for name, gradient in found.items()}


def by_hand(
    net: Any, inputs: Any, target: Tensor, weights: dict[str, float], hidden: str
) -> dict[str, Tensor]:
    """Joint training for fusion and head; then, on copies in eval mode, one pass for each modality alone."""
    joint = copy.deepcopy(net)
    torch.manual_seed(0)
    F.cross_entropy(joint(inputs), target).backward()  # type: ignore[no-untyped-call]
    found = gradients(joint)
    for m, weight in weights.items():
        single = copy.deepcopy(net)
        features = {}
        for j in weights:
            single.eval()
            x = inputs[j] if j == m else torch.zeros_like(inputs[j])
            features[j] = single.encode(j, x)
            if j != m and hidden == "features":
                features[j] = torch.zeros_like(features[j])
        logits = single.head(
            single.fuse({j: f if j == m else f.detach() for j, f in features.items()})
        )
        (weight * F.cross_entropy(logits, target)).backward()
        for name, gradient in gradients(single).items():
            if f"encoders.{m}." in name:
                found[name] = gradient
    return found


@pytest.mark.parametrize("hidden", ["features", "inputs"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("modalities", [TWO, THREE, NAMES])
def test_it_is_two_backward_passes_written_out(
    modalities: tuple[str, ...], late: bool, hidden: str
) -> None:
    net = network(modalities, late=late, layer="layer-norm")
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs, target = batch(modalities, 8, 3)
    weights = {m: 0.5 + n for n, m in enumerate(modalities)}
    found = ours(net, inputs, target, weight=weights, hidden=hidden)
    assert_same(found, by_hand(net, inputs, target, weights, hidden))


@pytest.mark.parametrize("late", [True, False])
def test_an_encoder_does_not_see_the_other_modality(late: bool) -> None:
    net = network(TWO, late=late, layer="plain")
    inputs, target = batch(TWO, 8, 3)
    other = {"audio": inputs["audio"], "visual": 5 - 3 * inputs["visual"]}
    one, two = ours(net, inputs, target), ours(net, other, target)
    for name in one:
        if "encoders.audio" in name:
            torch.testing.assert_close(one[name], two[name], rtol=1e-12, atol=1e-12)
    assert any(not torch.equal(one[name], two[name]) for name in one if "encoders" not in name)


def test_the_head_learns_as_in_joint_training() -> None:
    net = network(TWO, late=True, layer="batch-norm")
    inputs, target = batch(TWO, 8, 3)
    joint = copy.deepcopy(net)
    F.cross_entropy(joint(inputs), target).backward()  # type: ignore[no-untyped-call]
    expected, found = gradients(joint), ours(net, inputs, target)
    torch.testing.assert_close(found["out.weight"], expected["out.weight"])
    assert not torch.allclose(found["encoders.audio.0.weight"], expected["encoders.audio.0.weight"])


@pytest.mark.parametrize("hidden", ["features", "inputs"])
def test_a_network_that_only_names_its_encoders_runs_whole_for_each(hidden: str) -> None:
    net = network(TWO, late=False, layer="layer-norm")
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs, target = batch(TWO, 8, 3)
    opaque = gradmod.adapt(net, lambda net, x: net(x), encoders=dict(net.encoders.items()))
    found = ours(opaque, inputs, target, hidden=hidden)
    expected = ours(net, inputs, target, hidden=hidden)
    assert_same({name.removeprefix("net."): tensor for name, tensor in found.items()}, expected)


def test_batch_norm_sees_the_full_pass_alone_and_parameters_are_as_before() -> None:
    model = ModulatedModel(network(TWO, late=False, layer="batch-norm"), DGL(TWO))
    frozen = next(iter(model.model.out.parameters()))  # type: ignore[union-attr]
    frozen.requires_grad_(False)
    assert_only_the_full_pass_moves_buffers(model)
    assert not frozen.requires_grad
    assert sum(not p.requires_grad for p in model.parameters()) == 1


@pytest.mark.parametrize(
    ("task", "target"),
    [(Regression(), torch.randn(6, 3).double()), (MultiLabel(), torch.randint(2, (6, 3)).double())],
)
def test_other_tasks(task: Any, target: Tensor) -> None:
    net = network(TWO, late=True, layer="plain")
    model = ModulatedModel(net, DGL(TWO), task=task)
    before = copy.deepcopy(net.state_dict())
    model.training_step(batch(TWO, 6, 3)[0], target, torch.optim.SGD(model.parameters(), 0.1))
    assert all(not torch.equal(before[name], now) for name, now in net.state_dict().items())


def test_what_is_refused() -> None:
    with pytest.raises(
        ValueError, match="weight is 0 for audio, whose encoder would learn nothing"
    ):
        DGL(TWO, weight={"audio": 0.0})
    with pytest.raises(ValueError, match="hidden is 'zeros'; expected one of features, inputs"):
        DGL(TWO, hidden="zeros")
    with pytest.raises(ValueError, match="does not say which they are"):
        ModulatedModel(nn.Linear(2, 2), DGL(TWO))
