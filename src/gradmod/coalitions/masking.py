"""Showing a model some modalities and hiding the others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gradmod.protocols import declared_mask


def proper_coalitions(modalities: Sequence[str]) -> list[frozenset[str]]:
    """Every coalition but the empty and the full one, in the order of the rows of `shapley_values`."""
    codes = range(1, (1 << len(modalities)) - 1)
    return [frozenset(m for bit, m in enumerate(modalities) if code >> bit & 1) for code in codes]


def check_inputs(inputs: Mapping[str, Any], modalities: Sequence[str]) -> None:
    """Raise TypeError unless `inputs` is a mapping, ValueError unless it holds every modality."""
    if not isinstance(inputs, Mapping):
        raise TypeError(
            f"inputs is {type(inputs).__name__}; expected a dict by modality, {list(modalities)}. A network with a "
            "signature of its own: gradmod.adapt(net, call=lambda net, inputs: net(...))"
        )
    missing = [modality for modality in modalities if modality not in inputs]
    if missing:
        raise ValueError(
            f"inputs lack {', '.join(map(repr, missing))}: they hold {sorted(inputs)}; the method was made for the "
            f"modalities {list(modalities)}. Use the same names in both"
        )


@contextmanager
def lengths_named(
    inputs: Mapping[str, Any], modalities: Sequence[str], axes: Mapping[str, int]
) -> Iterator[None]:
    """Around calls of a network: where one fails on modalities of different numbers of samples, say so.

    Raises:
        ValueError: it failed, and they differ; its own error is the cause.
    """
    try:
        yield
    except RuntimeError as error:
        tensors = {
            m: inputs[m]
            for m in modalities
            if isinstance(inputs[m], Tensor) and not inputs[m].is_nested
        }
        lengths = {x.shape[axes.get(m, 0)] for m, x in tensors.items() if x.dim() > axes.get(m, 0)}
        if len(lengths) < 2:
            raise
        shapes = ", ".join(f"{m!r} {list(x.shape)}" for m, x in tensors.items())
        raise ValueError(
            f"inputs have shapes {shapes}; expected as many samples of each, along the first axis (or where "
            f"batch_axis= says). The network failed on them: {str(error).splitlines()[0]}"
        ) from error


def mask(model: nn.Module, modality: str, x: Any) -> Any:
    """The input of a hidden modality: what the model's `mask(modality, x)` gives, else zeros in place of every tensor.

    Raises:
        ValueError: no `mask` is declared and the input holds something that zeros may not hide: token ids, lengths or
            padding masks, for which zero may be a value with a meaning, strings, arrays, objects.
    """
    if x is None:  # absent from the whole batch
        return None
    own = declared_mask(model)
    hidden = zeroed(modality, x) if own is None else own(modality, x)
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tensor_leaves(x)):
        # As the shown input does, so that reentrant checkpointing passes gradients on.
        hidden = map_tensors(_with_gradient, hidden)
    return hidden


def _with_gradient(leaf: Tensor) -> Tensor:
    return (
        leaf
        if leaf.requires_grad or not leaf.is_floating_point()
        else leaf.detach().requires_grad_()
    )


def zeroed(modality: str, x: Any) -> Any:
    """Zeros in place of every floating tensor of `x`, which may be nested in dicts, lists and tuples.

    Raises:
        ValueError: see `mask`.
    """

    def refuse(what: str) -> ValueError:
        return ValueError(
            f"the input of {modality!r} holds {what}, which zeros may not hide. Say what the hidden modality looks "
            "like: define mask(modality, x) on the model, or pass mask=... to gradmod.adapt"
        )

    def zeros(tree: Any, in_sequence: bool) -> Any:
        if isinstance(tree, Tensor):
            if not (tree.is_floating_point() or tree.is_complex()):
                raise refuse(f"a tensor of dtype {tree.dtype}")
            return torch.zeros_like(tree)
        if tree is None or (isinstance(tree, (bool, int, float)) and not in_sequence):
            return tree  # nothing, or a setting of the whole batch
        if isinstance(tree, PackedSequence):
            # The lengths stay, as those of padded sequences do.
            return tree._replace(data=zeros(tree.data, False))
        if isinstance(tree, (Mapping, list, tuple)):
            in_list = not isinstance(tree, Mapping)
            return _rebuilt(tree, [zeros(value, in_list) for value in _values(tree)])
        raise refuse(
            f"an object of type {type(tree).__module__}.{type(tree).__qualname__}".replace(
                "builtins.", ""
            )
        )

    return zeros(x, False)


def masked_row_is_constant(model: nn.Module) -> bool:
    """Whether the masked input is the same for every sample, so that one row stands for all.

    True for the default zeros; a model with a `mask` of its own may declare it with `mask_is_constant = True`.
    """
    return declared_mask(model) is None or bool(getattr(model, "mask_is_constant", False))


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to every tensor of nested dicts, lists and tuples; anything else stays as it is.

    Every container of the result is a new one, of the type that it was.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, (Mapping, list, tuple)):
        return _rebuilt(tree, [map_tensors(function, value) for value in _values(tree)])
    return tree


def copy_containers(tree: Any, with_tensors: bool = False) -> Any:
    """The same tensors (or copies of them) in containers of their own, so that who is given them may change those.

    Containers are dicts, lists, tuples and objects with attributes, say a batch of graphs.
    """
    if isinstance(tree, (Mapping, list, tuple)):
        return _rebuilt(tree, [copy_containers(value, with_tensors) for value in _values(tree)])
    if isinstance(tree, Tensor):
        return tree.clone() if with_tensors else tree
    if with_tensors and isinstance(tree, np.ndarray):
        return tree.copy()
    if not hasattr(tree, "__dict__") or isinstance(tree, type) or callable(tree):
        return tree
    try:
        twin = copy.copy(tree)
        for name, value in vars(twin).items():
            # Tensors too: whether the network writes into those of an object is not looked at.
            object.__setattr__(twin, name, copy_containers(value, with_tensors=True))
    except Exception:  # a handle of the user's own, say; it is handed on as it is
        return tree
    return twin


def tensor_leaves(tree: Any) -> Iterator[Tensor]:
    """Every tensor of nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (Mapping, list, tuple)):
        for value in _values(tree):
            yield from tensor_leaves(value)


def with_items(inputs: Mapping[str, Any], items: Mapping[str, Any]) -> Mapping[str, Any]:
    """`inputs` with other items, of their own type where that can be copied and written into."""
    if type(inputs) is not dict:
        try:
            changed: Any = copy.copy(inputs)
            for key, value in items.items():
                changed[key] = value
        except TypeError:  # a view, say
            return {**inputs, **items}
        return changed  # type: ignore[no-any-return]
    return {**inputs, **items}


class CannotStackError(ValueError):
    """Inputs of several coalitions that do not fit into one batch."""


def stack_samples(
    trees: Sequence[Any],
    samples: int,
    axis: int,
    name: str,
    single: set[tuple[Any, ...]] | None = None,
) -> Any:
    """One batch from equally nested trees, their tensors concatenated along the axis of the samples.

    What is the very same in all trees and has no axis of samples stays single.

    Args:
        trees: nested tensors [..., B, ...].
        samples: B.
        axis: where the samples lie.
        name: of the input, for the message.
        single: places of tensors that once had no axis of as many samples, which is filled: they hold no samples,
            whatever their length in later batches.

    Raises:
        CannotStackError: a tensor without an axis of B samples, or contents of a kind that cannot be concatenated.
    """
    return _stack(trees, samples, axis, name, set() if single is None else single, (name,))


def _stack(
    trees: Sequence[Any],
    samples: int,
    axis: int,
    name: str,
    single: set[tuple[Any, ...]],
    place: tuple[Any, ...],
) -> Any:
    first = trees[0]
    if isinstance(first, Tensor):
        if first.is_nested or first.dim() <= axis or first.shape[axis] != samples:
            single.add(place)
        if place not in single and _has_samples(trees, samples, axis):
            return torch.cat(tuple(trees), axis)
        if all(tree is first for tree in trees):
            return first
        shapes = sorted({_shape(tree) for tree in trees if isinstance(tree, Tensor)})
        raise CannotStackError(
            f"the input of {name!r} holds a tensor {' or '.join(shapes)} without {samples} samples on axis "
            f"{axis} in every coalition" + (", or not in every batch" if place in single else "")
        )
    if isinstance(first, PackedSequence):
        raise CannotStackError(f"the input of {name!r} is a PackedSequence")
    if isinstance(first, (Mapping, list, tuple)):
        columns = [list(_values(tree)) for tree in trees if type(tree) is type(first)]
        if len(columns) == len(trees) and len({len(column) for column in columns}) == 1:
            keys = list(first) if isinstance(first, Mapping) else range(len(columns[0]))
            items = [
                _stack(column, samples, axis, name, single, (*place, key))
                for key, column in zip(keys, zip(*columns, strict=True), strict=True)
            ]
            return _rebuilt(first, items)
    elif all(
        tree is first or (type(tree) is type(first) and _is_equal(tree, first)) for tree in trees
    ):
        return first
    raise CannotStackError(
        f"the input of {name!r} holds {type(first).__name__}, which differs between coalitions and cannot be stacked"
    )


def _has_samples(trees: Sequence[Any], samples: int, axis: int) -> bool:
    first = trees[0]
    return not first.is_nested and all(
        isinstance(tree, Tensor)
        and not tree.is_nested
        and tree.layout == torch.strided
        and tree.dim() > axis
        and tree.shape == first.shape
        and tree.shape[axis] == samples
        and tree.dtype == first.dtype
        and tree.device == first.device
        for tree in trees
    )


def _shape(tensor: Tensor) -> str:
    return "that is nested" if tensor.is_nested else f"of shape {list(tensor.shape)}"


def _is_equal(one: Any, other: Any) -> bool:
    return isinstance(one, (str, bytes, bool, int, float, type(None))) and bool(one == other)


def first_row(x: Any) -> Any:
    """The first sample [1, ...] of nested tensors [B, ...]; None where they do not all have as many rows."""
    leaves = list(tensor_leaves(x))
    if not leaves or any(leaf.dim() == 0 or leaf.is_nested for leaf in leaves):
        return None
    if len({len(leaf) for leaf in leaves}) > 1:
        return None
    return map_tensors(lambda leaf: leaf[:1], x)


def append_row(x: Any, row: Any) -> Any:
    """`x` [B, ...] and `row` [1, ...] as one batch [B + 1, ...]; None where they do not fit together."""
    first = first_row(x)
    if first is None or not nested_alike(first, row):
        return None
    rows = tensor_leaves(row)
    return map_tensors(lambda leaf: torch.cat((leaf, next(rows))), x)


def nested_alike(one: Any, other: Any) -> bool:
    """Whether two trees have the same nesting, and their tensors the same shapes and dtypes."""
    if isinstance(one, Tensor):
        if (
            not isinstance(other, Tensor)
            or one.dtype != other.dtype
            or one.is_nested
            or other.is_nested
        ):
            return False
        return one.shape == other.shape
    if isinstance(one, (Mapping, list, tuple)):
        if type(one) is not type(other) or len(one) != len(other):
            return False
        if isinstance(one, Mapping) and set(one) != set(other):
            return False
        return all(map(nested_alike, _values(one), _values(other)))
    return type(one) is type(other)


def _values(tree: Any) -> Iterator[Any]:
    return iter(tree.values() if isinstance(tree, Mapping) else tree)


def _rebuilt(tree: Any, values: Sequence[Any]) -> Any:
    """A container like `tree`, of its own type, that holds `values`."""
    if type(tree) is dict:
        return dict(zip(tree, values, strict=True))
    if isinstance(tree, Mapping):
        # Say transformers' BatchEncoding.
        return with_items(tree, dict(zip(tree, values, strict=True)))
    if hasattr(tree, "_fields"):
        return type(tree)(*values)
    return type(tree)(values)
