"""Every method with its strength at 0 is joint training, to the last bit; or says at once that it would be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from gradmod import Joint, Method, ModulatedModel
from gradmod.experiments.methods import METHODS, method_class
from gradmod.methods import (
    AGM,
    MCR,
    MSES,
    OGM,
    OGMGE,
    OPM,
    UMT,
    DiagnosingRelearning,
    ModalityDropout,
    UniModalLosses,
)
from networks import NAMES, batch, network

TWO, THREE = NAMES[:2], NAMES[:3]
OFF: tuple[tuple[Any, dict[str, Any]], ...] = (
    (AGM, {"alpha": 0.0}),
    (AGM, {"alpha": 2.0, "epochs": (2, None)}),
    (OGM, {"epochs": (2, None)}),
    (OGM, {"alpha": 0.0}),
    (OGMGE, {"alpha": 0.0, "noise": False}),
    (UniModalLosses, {"weight": 0.0}),
    (UMT, {"weight": 0.0}),
    (OGMGE, {"epochs": (2, None)}),
    (OPM, {"often": 1.0, "epochs": (2, None)}),
    (OPM, {"often": 1e-12}),
    (ModalityDropout, {"p": 0.0}),
    (ModalityDropout, {"p": 0.0, "rescale": True, "by_batch": True}),
    (MCR, {"strength": 0.0, "weight": 0.0}),
    (MSES, {}),  # before the end of an epoch
    (DiagnosingRelearning, {"every": 1}),  # in the first epoch
)
"""What a method does nothing with."""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mmpareto": ({"gamma": 0.0}, "gamma is 0"),
    "dgl": ({"weight": 0.0}, "would learn nothing"),
    "mlb": ({"strength": 0.0}, "strength is 0"),
    "ogm-ge": ({"alpha": 0.0}, "alpha is 0"),
    "opm": ({"q": 0.0}, "q is 0"),
    "mslr": ({"rule": "keep"}, "this is joint training"),
    "diagnosing-relearning": ({"strength": 0.0}, "strength is 0"),
}
"""A 0 that a method takes for a mistake."""
NEITHER = {"joint", "tcmax", "mla", "pretrained", "gblending"}
"""They have no strength: what they do stands in the place of joint training."""


def test_every_method_is_looked_at() -> None:
    off = {kind for kind, _ in OFF}
    assert {name for name in METHODS if method_class(name) not in off} - REFUSED.keys() == NEITHER
    assert METHODS.keys() >= REFUSED.keys() | NEITHER


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    settings, said = REFUSED[name]
    with pytest.raises(ValueError, match=said):
        method_class(name)(TWO, **settings)


def trained(net: Any, method: Method, **more: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Weights and buffers after five steps with momentum, and the random numbers that come next."""
    model = ModulatedModel(copy.deepcopy(net), method)
    optimizer = torch.optim.SGD(model.parameter_groups(), 0.1, momentum=0.9, weight_decay=0.01)
    splits = [batch(method.modalities, 6, 3)]
    model.before_epoch(1, train=splits, validation=splits)
    model.set_learning_rate(optimizer, 0.1)
    torch.manual_seed(0)
    for seed in range(5):
        inputs, target = batch(method.modalities, 6, 3, seed=seed)
        model.training_step(inputs, target, optimizer, clip_norm=0.5, **more)
    state = model.model.state_dict()
    return {name: tensor.clone() for name, tensor in state.items()}, torch.rand(3)


@pytest.mark.parametrize("modalities", [TWO, THREE])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("layer", ["batch-norm", "dropout"])
@pytest.mark.parametrize("some_lack", [False, True])
@pytest.mark.parametrize(("kind", "settings"), OFF)
def test_it_is_joint_training_to_the_last_bit(
    kind: Any,
    settings: dict[str, Any],
    some_lack: bool,
    layer: str,
    late: bool,
    modalities: tuple[str, ...],
) -> None:
    net = network(modalities, late=late, layer=layer)
    has = {"audio": torch.tensor([True, False, True, True, False, True])}
    more = {"present": has} if some_lack else {}
    ours, drawn = trained(net, kind(modalities, **settings), **more)
    joint, expected = trained(net, Joint(modalities), **more)
    assert ours.keys() == joint.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, joint[name]), name
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("layer", ["batch-norm", "dropout"])
def test_a_modality_without_a_loss_of_its_own_has_the_joint_gradient(layer: str) -> None:
    """Of uni-modal losses, whose weight may be 0 for some: to the last bit too, in the first step."""
    net = network(TWO, late=False, layer=layer)
    found = []
    for method in (UniModalLosses(TWO, weight={"audio": 0.0, "visual": 2.0}), Joint(TWO)):
        model = ModulatedModel(copy.deepcopy(net), method)
        model.give_heads_their_sizes(batch(TWO, 6, 3)[0])
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model.training_step(*batch(TWO, 6, 3), optimizer)
        found.append(model.model.state_dict())
    ours, joint = found
    different = {name for name in ours if not torch.equal(ours[name], joint[name])}
    assert different
    assert all("encoders.visual" in name for name in different), different
