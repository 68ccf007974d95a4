"""Where a training forward is called from and runs, as far as a method that keeps statistics must know."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

NO_FLOAT64 = ("mps",)
"""Types of devices that have no float64: Apple's."""

MOST_PENDING = 256
"""Forwards whose coefficients are kept for the case that they are made again in the backward."""


def where_float64_is(tensor: Tensor) -> Tensor:
    """Return `tensor`; on the CPU, if its device has no float64."""
    return tensor.cpu() if tensor.device.type in NO_FLOAT64 else tensor


def in_backward() -> bool:
    """Whether a backward pass is running: a forward in it is one that activation checkpointing does again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def refuse_transforms(method: str) -> None:
    """Raise RuntimeError inside torch.func's transforms (grad, vmap, jvp, ...).

    A method keeps statistics from step to step, which a transformed function may not.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is None:
        return
    raise RuntimeError(
        f"a training forward inside a transform of torch.func (grad, vmap, jvp, ...): {method} keeps statistics from "
        "step to step, which a transform cannot. Use loss.backward(), or transform the network alone, model.model, or "
        "the model in eval mode"
    )


class ForwardsMadeAgain:
    """Coefficients of the last training forwards, for those that activation checkpointing makes again.

    With `torch.utils.checkpoint` around the whole model its forward runs once more in the backward. That is the same
    step: it must not be counted twice, and its coefficients are those of the first time. A forward is known by where
    its target lies, which checkpointing keeps until then. A copy, or a pickle, is empty.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def keep(self, target: Tensor, coefficients: Tensor) -> None:
        """Keep the coefficients of a forward with this target."""
        if torch.compiler.is_compiling():
            return
        self._kept[_place(target)] = coefficients
        self._kept.move_to_end(_place(target))
        if len(self._kept) > MOST_PENDING:
            self._kept.popitem(last=False)

    def forget(self, target: Tensor) -> None:
        """Forget a forward with this target: another one may have lain where it lies."""
        if not torch.compiler.is_compiling():
            self._kept.pop(_place(target), None)

    def recall(self, target: Tensor) -> Tensor | None:
        """Coefficients of the last forward with this target; None where there was none.

        Reentrant checkpointing makes the first forward without gradient, in which a method does nothing: then the one
        in the backward is the step.
        """
        return self._kept.get(_place(target))

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardsMadeAgain:
        return ForwardsMadeAgain()

    def __reduce__(self) -> tuple[type[ForwardsMadeAgain], tuple[()]]:
        return ForwardsMadeAgain, ()


def _place(target: Tensor) -> tuple[Any, ...]:
    return target.data_ptr(), tuple(target.shape), target.dtype, target.device
