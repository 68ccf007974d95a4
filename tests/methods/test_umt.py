"""Distillation from mono-modal teachers against a loss written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import ModulatedModel, MultiLabel, Regression
from gradmod.methods import UMT
from gradmod.models.psp import PositiveSamplePropagation
from networks import NAMES, batch, network
from properties import (
    assert_is_joint_training,
    assert_only_the_full_pass_moves_buffers,
    assert_same,
    gradients,
    step_gradients,
    weights,
)

TWO, THREE = NAMES[:2], NAMES[:3]


def taught(
    net: nn.Module, other: Any, modalities: tuple[str, ...], **settings: Any
) -> ModulatedModel:
    model = ModulatedModel(net, UMT(modalities, **settings))
    model.take_teachers({m: other.encoders[m] for m in modalities})
    return model


@pytest.mark.parametrize("layer", ["plain", "batch-norm", "dropout"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_the_loss_is_the_one_written_out(
    modalities: tuple[str, ...], late: bool, layer: str
) -> None:
    net, other = (network(modalities, layer=layer, late=late, seed=seed) for seed in (0, 1))
    inputs, target = batch(modalities, 8, 3)
    with torch.no_grad():  # running statistics that are not those of the beginning
        other.train()(inputs)
    by_hand = copy.deepcopy(net)
    torch.manual_seed(0)
    found = step_gradients(taught(net, other, modalities, weight=7.0), inputs, target)

    torch.manual_seed(0)
    features = {m: by_hand.encode(m, inputs[m]) for m in modalities}
    loss = F.cross_entropy(by_hand.head(by_hand.fuse(features)), target)
    other.eval()
    for m in modalities:
        teacher = other.encoders[m](inputs[m]).detach()
        loss = loss + 7.0 * sum(
            (features[m][row, k] - teacher[row, k]) ** 2 for row in range(8) for k in range(6)
        ) / (8 * 6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert_same(
        {name.removeprefix("model."): value for name, value in found.items()}, gradients(by_hand)
    )


def test_a_teacher_that_is_the_encoder_teaches_nothing() -> None:
    net = network(TWO, layer="plain", late=True)
    inputs, target = batch(TWO, 8, 3)
    model = taught(net, copy.deepcopy(net), TWO)
    with model.in_training_step():
        output = model.read_output(model(inputs, target))
    assert set(output.losses) == {"distillation.audio", "distillation.visual"}
    assert not any(loss.detach().any() for loss in output.losses.values())


def test_teachers_stay_as_they_are() -> None:
    net, other = (network(TWO, layer="batch-norm", late=False, seed=seed) for seed in (0, 1))
    before = copy.deepcopy(other.state_dict())
    model = taught(net, other, TWO)
    kept = {name: tensor.clone() for name, tensor in model.method.store.items()}
    modes = {name: module.training for name, module in net.named_modules()}
    for seed in range(3):
        step_gradients(model, *batch(TWO, 8, 3, seed=seed))
    assert_same(other.state_dict(), before, 0)
    assert_same(model.method.store, kept, 0)
    assert {f"{m}.{name}" for m in TWO for name in other.encoders[m].state_dict()} == set(kept)
    assert not any(tensor.requires_grad for tensor in model.method.store.values())
    assert all(p.grad is None for p in other.parameters())
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert not any(name.startswith("method.") for name in weights(model))


def test_only_the_full_pass_moves_running_statistics() -> None:
    net, other = (network(TWO, layer="batch-norm", late=True, seed=seed) for seed in (0, 1))
    assert_only_the_full_pass_moves_buffers(taught(net, other, TWO))


@pytest.mark.parametrize("late", [True, False])
def test_weight_zero_is_joint_training_and_needs_no_teachers(late: bool) -> None:
    net = network(TWO, layer="batch-norm", late=late)
    assert_is_joint_training(UMT(TWO, weight=0), net)


def test_an_encoder_is_taught_by_its_own_modality_alone() -> None:
    """The distillation's gradient of one encoder does not change with the other's input, to the bit."""
    net, other = (network(TWO, layer="plain", late=False, seed=seed) for seed in (0, 1))
    inputs, target = batch(TWO, 8, 3)
    found = []
    for scale in (1.0, -3.0):
        model = taught(copy.deepcopy(net), other, TWO)
        with model.in_training_step():
            shown = {**inputs, "visual": inputs["visual"] * scale}
            output = model.read_output(model(shown, target))
        torch.stack(list(output.losses.values())).sum().backward()
        found.append(gradients(model.model))
    for name, gradient in found[0].items():
        if "encoders.audio" in name:
            assert torch.equal(gradient, found[1][name])
            assert gradient.any()
        if "encoders." not in name:
            assert not gradient.any()


def test_samples_that_lack_a_modality_are_not_taught_it() -> None:
    net, other = (network(TWO, layer="plain", late=False, seed=seed) for seed in (0, 1))
    inputs, target = batch(TWO, 4, 3)
    has = torch.tensor([True, False, True, True])
    found = []
    for junk in (7.0, float("nan")):
        model = taught(copy.deepcopy(net), other, TWO, weight=1.0)
        shown = {**inputs, "audio": torch.where(has[:, None], inputs["audio"], junk)}
        with model.in_training_step():
            found.append(model.read_output(model(shown, target, {"audio": has})).losses)
    own, theirs = (of.encoders["audio"](inputs["audio"][has]) for of in (net, other))
    for losses in found:
        torch.testing.assert_close(losses["distillation.audio"], (own - theirs).square().mean())
    none = {"audio": torch.zeros(4, dtype=torch.bool)}
    moved = step_gradients(taught(copy.deepcopy(net), other, TWO), inputs, target, none)
    assert all(value.isfinite().all() for value in moved.values())


def test_a_resumed_model_needs_no_teachers() -> None:
    net, other = (network(TWO, layer="batch-norm", late=True, seed=seed) for seed in (0, 1))
    model = taught(net, other, TWO)
    again = ModulatedModel(network(TWO, layer="batch-norm", late=True, seed=5), UMT(TWO))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    for seed in range(2):
        inputs, target = batch(TWO, 8, 3, seed=seed)
        assert_same(step_gradients(again, inputs, target), step_gradients(model, inputs, target), 0)


@pytest.mark.parametrize("task", [MultiLabel(), Regression()])
def test_any_task(task: Any) -> None:
    net, other = (network(TWO, layer="plain", late=True, seed=seed) for seed in (0, 1))
    inputs, _ = batch(TWO, 8, 3)
    target = torch.rand(8, 3, dtype=torch.float64).round()
    model = ModulatedModel(net, UMT(TWO), task=task)
    model.take_teachers({m: other.encoders[m] for m in TWO})
    assert all(value.isfinite().all() for value in step_gradients(model, inputs, target).values())


def test_what_is_refused() -> None:
    net = network(TWO, layer="plain", late=True)
    inputs, target = batch(TWO, 6, 3)
    model = ModulatedModel(net, UMT(TWO))
    with pytest.raises(RuntimeError, match="UMT has losses"):
        model(inputs, target)
    with pytest.raises(RuntimeError, match="UMT begins with encoders that"):
        model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.1))
    for wrong in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="weight is"):
            UMT(TWO, weight=wrong)


def test_networks_whose_modalities_attend_to_each_other() -> None:
    """AVE's network: the features before the propagation, the teachers' weights in both encoders."""
    torch.manual_seed(0)
    nets = [
        PositiveSamplePropagation(
            classes=4, audio=3, visual=5, positions=4, width=8, hidden=8, dropout=0.0
        )
        for _ in range(2)
    ]
    inputs = {"audio": torch.randn(3, 2, 3), "visual": torch.randn(3, 2, 2, 2, 5)}
    assert isinstance(nets[0].encoders["audio"], nn.ModuleList)
    model = ModulatedModel(nets[0], UMT(("audio", "visual"), weight=1.0))
    model.take_teachers(nets[1].encoders)
    target = torch.randint(4, (3, 2))
    event = {"event": torch.ones(3, 2)}
    with model.in_training_step():
        losses = model.read_output(model({**inputs, **event}, target)).losses
    expected = {}
    features: list[dict[str, Tensor]] = []
    for net in (nets[0], nets[1].eval()):
        heard = net.audio_in(inputs["audio"])
        seen = net.visual_in(net.attention(heard, inputs["visual"].flatten(2, 3)))
        features.append(
            {"audio": net.audio_sequence(heard)[0], "visual": net.visual_sequence(seen)[0]}
        )
    for m in ("audio", "visual"):
        expected[m] = (features[0][m] - features[1][m]).square().mean()
        torch.testing.assert_close(losses[f"distillation.{m}"], expected[m])
