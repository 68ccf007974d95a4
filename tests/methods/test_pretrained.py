"""Mono-modal pre-training against joint training of a network into which the weights were put by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, Joint, ModulatedModel, adapt
from gradmod.methods import Pretrained
from gradmod.models import MLP, LateFusion
from networks import NAMES, batch, network
from properties import assert_same

TWO, THREE = NAMES[:2], NAMES[:3]


def pair(modalities: tuple[str, ...], layer: str, late: bool) -> tuple[Any, Any]:
    """A network, and another one of the same form: its encoders are the teachers."""
    net, other = (network(modalities, layer=layer, late=late, seed=seed) for seed in (0, 1))
    return net, other


def teachers(other: Any) -> dict[str, dict[str, Tensor]]:
    return {m: encoder.state_dict() for m, encoder in other.encoders.items()}


def trained(model: ModulatedModel, modalities: tuple[str, ...], steps: int = 4) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameter_groups(), 0.1, momentum=0.9, weight_decay=0.1)
    model.set_learning_rate(optimizer, 0.1)
    for step in range(steps):
        torch.manual_seed(step)
        inputs, target = batch(modalities, 12, 3, seed=step)
        model.training_step(inputs, target, optimizer)
    return model.model


@pytest.mark.parametrize("layer", ["batch-norm", "dropout"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("modalities", [TWO, THREE])
def test_it_is_joint_training_from_the_teachers_weights(
    modalities: tuple[str, ...], late: bool, layer: str
) -> None:
    net, other = pair(modalities, layer, late)
    by_hand = copy.deepcopy(net)
    for m, state in teachers(other).items():
        by_hand.encoders[m].load_state_dict(state)
    model = ModulatedModel(net, Pretrained(modalities))
    model.take_teachers(teachers(other))
    expected = trained(ModulatedModel(by_hand, Joint(modalities)), modalities)
    assert_same(trained(model, modalities).state_dict(), expected.state_dict(), 0)


@pytest.mark.parametrize("late", [True, False])
def test_frozen_encoders_are_a_fixed_input(late: bool) -> None:
    """The slow way: features computed once, in eval mode, and what is behind them trained on those alone."""
    net, other = pair(TWO, "batch-norm", late)
    by_hand = copy.deepcopy(net)
    other.eval()
    model = ModulatedModel(net, Pretrained(TWO, encoder_lr=0))
    model.take_teachers({m: other.encoders[m] for m in TWO})
    before = copy.deepcopy(other.encoders.state_dict())
    trained(model, TWO)
    assert_same(net.encoders.state_dict(), before, 0)
    rest = [p for name, p in by_hand.named_parameters() if not name.startswith("encoders.")]
    optimizer = torch.optim.SGD(rest, 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        torch.manual_seed(step)
        inputs, target = batch(TWO, 12, 3, seed=step)
        features = {m: other.encoders[m](inputs[m]).detach() for m in TWO}
        F.cross_entropy(by_hand.head(by_hand.fuse(features)), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    ours, expected = (
        {name: value for name, value in of.state_dict().items() if "encoders." not in name}
        for of in (net, by_hand)
    )
    assert_same(ours, expected, 1e-12)
    assert all(p.grad is None and not p.requires_grad for p in net.encoders.parameters())


def test_encoders_learn_more_slowly_than_the_rest() -> None:
    net, other = pair(TWO, "plain", late=True)
    start = copy.deepcopy(other.encoders.state_dict())
    slow, fast = copy.deepcopy(net), copy.deepcopy(net)
    for of, encoder_lr in ((slow, 0.1), (fast, 1.0)):
        model = ModulatedModel(of, Pretrained(TWO, encoder_lr=encoder_lr))
        model.take_teachers(teachers(other))
        trained(model, TWO, steps=1)
    for name, value in start.items():
        moved = (fast.encoders.state_dict()[name] - value) * 0.1
        torch.testing.assert_close(slow.encoders.state_dict()[name] - value, moved)
    assert torch.equal(slow.out.weight, fast.out.weight)
    model = ModulatedModel(copy.deepcopy(net), Pretrained(TWO, encoder_lr=0.1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"make it from model.parameter_groups\(\)"):
        model.set_learning_rate(optimizer, 0.1)


def test_a_network_of_somebody_else_whose_encoders_are_several_modules() -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ears, self.hearing, self.eyes = nn.Linear(5, 6), nn.Linear(6, 3), nn.Linear(4, 3)
            self.out = nn.Linear(6, 2)

        def forward(self, sound: Tensor, image: Tensor) -> Tensor:
            heard = self.hearing(self.ears(sound).relu())
            return self.out(torch.cat([heard, self.eyes(image)], 1))

    net, other = Foreign(), Foreign()

    def adapted(of: Foreign) -> Any:
        return adapt(
            of,
            lambda net, x: net(x["sound"], x["image"]),
            encoders={"sound": [of.ears, of.hearing], "image": of.eyes},
        )

    model = ModulatedModel(adapted(net), Pretrained(("sound", "image"), encoder_lr=0))
    model.take_teachers(adapted(other).encoders)
    assert torch.equal(net.ears.weight, other.ears.weight)
    assert torch.equal(net.eyes.weight, other.eyes.weight)
    assert not torch.equal(net.out.weight, other.out.weight)


def test_a_state_that_is_loaded_needs_no_teachers() -> None:
    net, other = pair(TWO, "batch-norm", late=True)
    model = ModulatedModel(net, Pretrained(TWO))
    model.take_teachers(teachers(other))
    again = ModulatedModel(pair(TWO, "batch-norm", late=True)[0], Pretrained(TWO))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert_same(trained(again, TWO).state_dict(), trained(model, TWO).state_dict(), 0)


def test_what_is_refused() -> None:
    net, other = pair(TWO, "plain", late=True)
    inputs, target = batch(TWO, 6, 3)
    model = ModulatedModel(net, Pretrained(TWO))
    with pytest.raises(RuntimeError, match=r"and was given none: call model.take_teachers"):
        model(inputs, target)
    with pytest.raises(
        ValueError, match=r"teachers are given for \['audio'\]; expected one for each"
    ):
        model.take_teachers({"audio": other.encoders["audio"]})
    whole = {m: other.state_dict() for m in TWO}
    with pytest.raises(ValueError, match=r"the teacher of 'audio' lacks \['0.weight'"):
        model.take_teachers(whole)
    swapped = {"audio": other.encoders["visual"], "visual": other.encoders["audio"]}
    with pytest.raises(
        ValueError, match=r"0.weight of the teacher of 'audio' is \[6, 4\]; expected \[6, 5\]"
    ):
        model.take_teachers(swapped)
    with pytest.raises(ValueError, match="AGM has no use for teachers"):
        ModulatedModel(copy.deepcopy(net), AGM(TWO)).take_teachers(teachers(other))
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="encoder_lr is"):
            Pretrained(TWO, encoder_lr=wrong)
    bare = LateFusion({m: MLP(3, hidden=(4,)) for m in TWO}, 2)
    bare.head.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing would be trained"):
        ModulatedModel(bare, Pretrained(TWO, encoder_lr=0))
