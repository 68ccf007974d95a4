"""Showing a model some modalities and hiding the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def proper_coalitions(modalities: Sequence[str]) -> list[frozenset[str]]:
    """Every coalition but the empty and the full one, in the order of the rows of `shapley_values`."""
    codes = range(1, (1 << len(modalities)) - 1)
    return [frozenset(m for bit, m in enumerate(modalities) if code >> bit & 1) for code in codes]


def check_inputs(inputs: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Raise TypeError unless `inputs` is a mapping, ValueError unless it holds every modality."""
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs is {type(inputs).__name__}; expected a dict by modality, {list(modalities)}")
    missing = [modality for modality in modalities if modality not in inputs]
    if missing:
        raise ValueError(
            f"inputs lack {', '.join(map(repr, missing))}: they hold {sorted(inputs)}; the method was made for the "
            f"modalities {list(modalities)}. Use the same names in both"
        )


def check_batch_axis(inputs: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Raise ValueError where tensors of different modalities differ in the length of their first axis."""
    tensors = {m: inputs[m] for m in modalities if isinstance(inputs[m], Tensor)}
    if len({x.shape[:1] for x in tensors.values()}) > 1:
        shapes = ", ".join(f"{m!r} {list(x.shape)}" for m, x in tensors.items())
        raise ValueError(f"inputs have shapes {shapes}; expected as many samples of each, along the first axis")


def mask(model: nn.Module, modality: str, x: Any) -> Any:
    """The input of a hidden modality: what the model's `mask(modality, x)` gives, else zeros in place of every tensor.

    Raises:
        ValueError: no `mask` is declared and the input holds a tensor that is not floating point (token ids, lengths,
            padding masks), for which zero may be a value with a meaning.
    """
    own = getattr(model, "mask", None)  # DefinesMask; isinstance with a protocol is slow
    return own(modality, x) if callable(own) else zeroed(modality, x)


def zeroed(modality: str, x: Any) -> Any:
    """Zeros in place of every tensor of `x`.

    Raises:
        ValueError: see `mask`.
    """

    def zeros(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            raise ValueError(
                f"the input of {modality!r} holds a tensor of dtype {leaf.dtype}, which zeros may not hide. Say what "
                "the hidden modality looks like: define mask(modality, x) on the model, or pass mask=... to "
                "gradmod.adapt"
            )
        return torch.zeros_like(leaf)

    return map_tensors(zeros, x)


def masked_row_is_constant(model: nn.Module) -> bool:
    """Whether the masked input is the same for every sample, so that one row stands for all.

    True for the default zeros; a model with a `mask` of its own may declare it with `mask_is_constant = True`.
    """
    return not callable(getattr(model, "mask", None)) or bool(getattr(model, "mask_is_constant", False))


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to every tensor of nested dicts, lists and tuples; anything else stays as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [map_tensors(function, value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def can_concatenate(first: Any, second: Any) -> bool:
    """Whether two trees are nested alike and their tensors differ in the length of the batch axis alone."""
    if isinstance(first, Tensor):
        alike = isinstance(second, Tensor) and first.dtype == second.dtype and first.device == second.device
        return alike and first.dim() > 0 and first.shape[1:] == second.shape[1:]
    if type(first) is not type(second):
        return False
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(can_concatenate(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(can_concatenate, first, second))
    return bool(first == second)


def concatenate(trees: Sequence[Any]) -> Any:
    """Concatenate equally nested trees of tensors along the batch axis."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(tuple(trees))
    if isinstance(first, Mapping):
        return {key: concatenate([tree[key] for tree in trees]) for key in first}
    if isinstance(first, (list, tuple)):
        items = [concatenate(column) for column in zip(*trees, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first
