"""What a network returned, with other logits in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def replace_logits(output: Any, logits: Tensor, modulated: Tensor) -> Any:
    """`output` with `modulated` in place of `logits`; it is of the same type.

    A loss in `output` (a scalar with a gradient) that the network computed from its logits reaches the modulated ones
    instead: with g its gradient at the logits, sum(g * (modulated - logits)) is added, which is 0 in value. What of it
    does not go through the logits stays as it is.

    Args:
        output: logits, or a tuple, dict or dataclass that holds them.
        logits: the tensor itself.
        modulated: the same in value, with a gradient of its own.

    Raises:
        TypeError: `logits` is not in `output`: it was computed from what is.
        RuntimeError: in a compiled step, a loss beside the logits of a network's own output.
    """
    if output is logits:
        return modulated
    replaced = 0

    def new(leaf: Tensor) -> Tensor:
        nonlocal replaced
        if leaf is logits:
            replaced += 1
            return modulated
        is_loss = leaf.dim() == 0 and leaf.requires_grad and logits.requires_grad
        return _follow(leaf, logits, modulated) if is_loss else leaf

    result = _rebuilt(output, new)
    if not replaced:
        raise TypeError(
            f"the logits {list(logits.shape)} are not in the {type(output).__name__} that the model returned, but were "
            "computed from it, so they cannot be handed back in it. Let logits= return a tensor that the output holds "
            "(lambda out: out.logits), and do the rest outside, or in the task (class_axis=)"
        )
    return result


def scalar_losses(output: Any) -> Iterator[Tensor]:
    """Every scalar with a gradient in a network's output."""

    def tensors(tree: Any) -> Iterator[Tensor]:
        if isinstance(tree, Tensor):
            yield tree
        elif isinstance(tree, Mapping):
            for value in tree.values():
                yield from tensors(value)
        elif isinstance(tree, (list, tuple)):
            for value in tree:
                yield from tensors(value)
        elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
            for field in dataclasses.fields(tree):
                yield from tensors(getattr(tree, field.name))

    return (leaf for leaf in tensors(output) if leaf.dim() == 0 and leaf.requires_grad)


def _follow(loss: Tensor, logits: Tensor, modulated: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return loss  # not to be had in a compiled step; the wrapper says so
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
    if gradient is None:
        return loss
    # Logits may be infinite: classes ruled out.
    difference = (modulated - logits).nan_to_num(0.0, 0.0, 0.0)
    return loss + (difference * gradient.detach()).sum().to(loss.dtype)


def _rebuilt(tree: Any, new: Any) -> Any:
    if isinstance(tree, Tensor):
        return new(tree)
    if isinstance(tree, Mapping):
        values = {key: _rebuilt(value, new) for key, value in tree.items()}
        if type(tree) is dict:
            return values
        same = copy.copy(tree)  # transformers' ModelOutput keeps its items as attributes too
        for key, value in values.items():
            same[key] = value  # type: ignore[index]
        return same
    if isinstance(tree, (list, tuple)):
        items = [_rebuilt(value, new) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        twin = copy.copy(tree)
        for field in dataclasses.fields(tree):
            object.__setattr__(twin, field.name, _rebuilt(getattr(tree, field.name), new))
        return twin
    return tree
