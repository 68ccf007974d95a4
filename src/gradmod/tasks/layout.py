"""Where the outputs lie in the logits, means over what is scored, and checks that the tasks share."""

from __future__ import annotations

import torch
from torch import Tensor


def along(vector: Tensor, like: Tensor, axis: int) -> Tensor:
    """[K] as a tensor of as many axes as `like`, its values along one of them."""
    shape = [1] * like.dim()
    shape[axis] = -1
    return vector.reshape(shape)


def outputs_last(values: Tensor, axis: int, before: int = 0) -> Tensor:
    """A view with the outputs on the last axis; `before` axes stand before the batch."""
    return values if axis == -1 else values.movedim(axis if axis < 0 else axis + before, -1)


def log_frequencies(counts: Tensor) -> Tensor:
    """Of counts along the first axis; what never occurs gets a thousandth of one occurrence."""
    return (counts.clamp(min=1e-3) / counts.sum(0)).log()


def mean_over_rest(values: Tensor) -> Tensor:
    """[N] mean of each sample's values [N, ...]."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def terms_of_mean(sums: Tensor, weights: Tensor) -> Tensor:
    """[N] terms whose mean is the sum of all `sums` over the sum of all `weights`, both [N, ...].

    Where all samples weigh the same, a sample's term is its own mean. Else it is the whole mean and how far the sample
    draws it (its influence), so that a bootstrap over the terms is that of the ratio.
    """
    sums, weights = (values.double().reshape(len(values), -1).sum(1) for values in (sums, weights))
    if bool((weights == weights[:1]).all()):
        return sums / weights
    mean = sums.sum() / weights.sum()
    return mean + (sums - mean * weights) * (len(sums) / weights.sum())


def is_readable(values: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device, and outside compilation."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def check_axis(name: str, axis: int) -> None:
    """Raise ValueError unless `axis` is one behind the batch."""
    if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
        raise ValueError(
            f"{name} is {axis!r}; expected an axis behind the batch, such as 1 or -1: axis 0 is the batch"
        )


def check_floats_like(logits: Tensor, target: Tensor, what: str) -> None:
    """Raise ValueError unless `target` holds floats, one for each of the `logits`."""
    if target.shape != logits.shape:
        hint = ""
        if [*target.shape, 1] == list(logits.shape):
            hint = ": target.unsqueeze(-1)"
        elif list(target.shape) == [*logits.shape, 1]:
            hint = ": target.squeeze(-1)"
        raise ValueError(
            f"target has shape {list(target.shape)}; expected {list(logits.shape)} like the model's output: "
            f"{what}{hint}"
        )
    if not target.is_floating_point():
        raise ValueError(
            f"target has dtype {target.dtype}; expected floats, {what}: call target.float()"
        )
