"""Apple's GPUs (MPS) have no float64. There is none here: a stand-in says that it is one, and refuses as it does."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from gradmod import (
    AGM,
    MSES,
    MSLR,
    OGMGE,
    Method,
    ModulatedModel,
    MultiLabel,
    Regression,
    Task,
    functional,
)
from gradmod.experiments.training.history import EpochHistory
from gradmod.methods.record import StepRecord
from networks import NAMES, batch, network

TWO = NAMES[:2]
MPS, CPU = torch.device("mps"), torch.device("cpu")
MOVES = {"to", "cpu", "copy_", "as_subclass"}


class OnMPS(torch.Tensor):
    """A tensor of the CPU that says that it is on MPS, inside `Stand`."""


class Stand(TorchFunctionMode):
    """Every function of torch: no float64 on MPS, and no tensor of the CPU (but numbers) beside one on MPS."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        here = [leaf for leaf in leaves if isinstance(leaf, OnMPS)]
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return MPS if isinstance(args[0], OnMPS) else CPU
        asked = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.device)]
        place = CPU if name == "cpu" else asked[0] if asked else MPS if here else CPU
        alone = name in MOVES or name.startswith("_")
        if (
            here
            and not alone
            and any(leaf.dim() > 0 and not isinstance(leaf, OnMPS) for leaf in leaves)
        ):
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, mps and cpu"
            )
        args, kwargs = tree_map(
            lambda leaf: CPU if isinstance(leaf, torch.device) else leaf, (args, kwargs)
        )
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        return tree_map(lambda leaf: _placed(leaf, place), result)


def _placed(leaf: Any, place: torch.device) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    with torch._C.DisableTorchFunction():
        if place == MPS and leaf.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
        if (place == MPS) != isinstance(leaf, OnMPS):
            return leaf.as_subclass(OnMPS if place == MPS else Tensor)
    return leaf


@contextmanager
def standing() -> Iterator[None]:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Stand():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def pair(method: Method, task: Task | None) -> tuple[ModulatedModel, ModulatedModel]:
    """The same model on the CPU and on the stand-in."""
    net = network(TWO, late=True, layer="layer-norm").float()
    # The stand-in has no random numbers to set aside.
    whole = ModulatedModel(net, method, task=task, check=False)
    moved = copy.deepcopy(whole)
    moved._apply(lambda tensor: tensor.to(MPS))
    whole.method.learning_rates_are_set()
    moved.method.learning_rates_are_set()
    return whole, moved


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize(
    "task", [None, MultiLabel(), Regression()], ids=["classes", "labels", "regression"]
)
@pytest.mark.parametrize(
    "method",
    [AGM(TWO), OGMGE(TWO, noise=False), MSES(TWO), MSLR(TWO)],
    ids=lambda m: type(m).__name__,
)
def test_steps_are_those_of_the_cpu(method: Method, task: Task | None, gaps: bool) -> None:
    with standing():
        whole, moved = pair(copy.deepcopy(method), task)
        assert all(isinstance(parameter, OnMPS) for parameter in moved.parameters())
        for step in range(3):
            inputs, target = batch(TWO, 6, 3, seed=step)
            inputs = {m: x.float() for m, x in inputs.items()}
            if task is not None:
                target = (
                    torch.randn(6, 3).abs().clamp(max=1).round()
                    if isinstance(task, MultiLabel)
                    else torch.randn(6, 3)
                )
            has = {"visual": torch.arange(6) > 1} if gaps else None
            there = None if has is None else {m: x.to(MPS) for m, x in has.items()}
            of_cpu = whole(inputs, target, has)
            of_mps = moved({m: x.to(MPS) for m, x in inputs.items()}, target.to(MPS), there)
            for model, logits, answer in ((whole, of_cpu, target), (moved, of_mps, target.to(MPS))):
                model.zero_grad()
                model.task.loss(logits, answer).backward()
                model.after_backward()
        for name, parameter in whole.named_parameters():
            ours, theirs = moved.get_parameter(name).grad, parameter.grad
            assert theirs is not None
            assert ours is not None
            torch.testing.assert_close(ours.as_subclass(Tensor), theirs)
        assert whole.last_step is not None
        assert moved.last_step is not None
        for ours, theirs in zip(
            moved.last_step.by_modality(TWO).values(),
            whole.last_step.by_modality(TWO).values(),
            strict=True,
        ):
            assert ours == pytest.approx(theirs, rel=1e-6)


def test_coefficients_reach_the_device_of_the_gradients() -> None:
    with standing():
        responses = torch.randn(2, 3, 4).to(MPS).requires_grad_()
        moved = functional._ScaleGradient.apply  # type: ignore[attr-defined]
        seen: list[Tensor] = []

        class Spy:
            @staticmethod
            def apply(tensor: Tensor, coefficients: Tensor) -> Tensor:
                seen.append(coefficients)
                result: Tensor = moved(tensor, coefficients)
                return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(functional, "_ScaleGradient", Spy)
            functional.scale_gradient(responses, torch.tensor([0.5, 2.0], dtype=torch.float64))
        (coefficients,) = seen
        assert coefficients.device == MPS
        assert coefficients.dtype == torch.float32


def test_statistics_stay_in_float64_on_the_cpu_and_go_with_the_checkpoint() -> None:
    with standing():
        whole, moved = pair(AGM(TWO), None)
        inputs, target = batch(TWO, 6, 3)
        F.cross_entropy(whole({m: x.float() for m, x in inputs.items()}, target), target).backward()
        moved.load_state_dict(whole.state_dict())
        for buffer, expected in zip(moved.method.buffers(), whole.method.buffers(), strict=True):
            assert buffer.device == CPU
            assert torch.equal(buffer, expected)
        assert all(buffer.dtype == torch.float64 for buffer in moved.method.buffers())


def test_the_history_of_an_epoch() -> None:
    with standing():
        history = EpochHistory()
        for loss in (1.0, 3.0):
            history.add(torch.tensor(loss).to(MPS), StepRecord(torch.ones(2, dtype=torch.float64)))
        assert history.look() is None
        assert float(history.mean_loss()) == 2.0
        state = history.state(lambda shares: shares)
        again = EpochHistory.from_state(state, MPS, 2, 2)
        again.add(torch.tensor(5.0).to(MPS), StepRecord(torch.zeros(2, dtype=torch.float64)))
        assert float(again.mean_loss()) == 3.0
        quantiles = again.coefficient_quantiles(TWO)
        assert quantiles is not None
        assert quantiles["audio"]["min"] == 0.0


def test_the_stand_in_refuses_what_mps_refuses() -> None:
    with standing():
        tensor = torch.zeros(2).to(MPS)
        with pytest.raises(TypeError, match="float64"):
            tensor.double()
        with pytest.raises(RuntimeError, match="same device"):
            tensor + torch.ones(2)
        assert (tensor.cpu().double() + 1).dtype == torch.float64
