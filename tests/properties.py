"""Properties that many tests assert, and what they are asserted of: weights, gradients, runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradmod import Joint, Method, ModulatedModel
from gradmod.experiments.runs.checkpoints import read_checkpoint
from networks import batch


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, as it is now."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def saved_weights(folder: Path, checkpoint: str = "last") -> dict[str, Tensor]:
    """What a checkpoint of a run holds of its model."""
    model = read_checkpoint(folder / "checkpoints" / f"{checkpoint}.pt")["model"]
    return {name: tensor for name, tensor in model.items() if isinstance(tensor, Tensor)}


def step_gradients(
    model: ModulatedModel, inputs: Any, target: Tensor, present: Any = None
) -> dict[str, Tensor]:
    """What one optimizer step of the method moves the parameters by, at a learning rate of 1; the model has moved."""
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = weights(model)
    model.training_step(inputs, target, optimizer, present=present)
    return {name: before[name] - now for name, now in weights(model).items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter by name; 0 where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of any entry."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def assert_same(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], rtol: float = 1e-9, atol: float = 1e-12
) -> None:
    """The same tensors under the same names, up to rounding."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=rtol, atol=atol, msg=name)


def assert_is_joint_training(method: Method, net: nn.Module, *, epoch: int = 1) -> None:
    """Three steps of the method are those of joint training, to the last bit, random layers included."""
    ours, joint = (
        ModulatedModel(copy.deepcopy(net), kind) for kind in (method, Joint(method.modalities))
    )
    for model in (ours, joint):
        model.before_epoch(epoch)
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for seed in range(3):
            inputs, target = batch(method.modalities, 6, 3, seed=seed)
            model.training_step(inputs, target, optimizer)
    found, expected = weights(ours.model), weights(joint.model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def assert_only_the_full_pass_moves_buffers(model: ModulatedModel) -> None:
    """A step moves running statistics as one forward of the network in train mode does."""
    plain = copy.deepcopy(model.model).train()
    names = model.method.modalities
    inputs, target = batch(names, 8, 3)
    torch.manual_seed(0)
    plain(inputs)
    torch.manual_seed(0)
    model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.0))
    moved = list(plain.buffers())
    assert moved
    for one, other in zip(moved, model.model.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def assert_leaves_random_numbers(draw: Callable[[], object]) -> None:
    """What is called draws nothing from torch's own generator."""
    state = torch.get_rng_state()
    draw()
    assert torch.equal(state, torch.get_rng_state())
