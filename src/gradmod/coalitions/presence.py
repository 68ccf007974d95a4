"""Samples that lack a modality: which sample has which, and what a model sees in place of what is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import map_tensors, mask, nested_alike, tensor_leaves, with_items


def presence_table(present: Mapping[str, Tensor], modalities: Sequence[str]) -> Tensor:
    """Which sample has which modality, as one tensor.

    Args:
        present: for each modality that some samples lack, [B] bool: True where the sample has it. Every sample has the
            modalities that are left out.
        modalities: their names.

    Returns:
        [B, M] bool.

    Raises:
        ValueError: no entry, an entry of no modality, one that is not [B] bool, or entries of different lengths.
    """
    unknown = [m for m in present if m not in modalities]
    if unknown or not present:
        raise ValueError(
            f"present names {list(present)}; expected some of the modalities {list(modalities)}, each with [B] booleans"
        )
    for m, has in present.items():
        if not isinstance(has, Tensor) or has.dtype != torch.bool or has.dim() != 1:
            what = (
                f"{has.dtype} {list(has.shape)}" if isinstance(has, Tensor) else type(has).__name__
            )
            raise ValueError(
                f"present[{m!r}] is {what}; expected a bool tensor [B]: True where the sample has it"
            )
    sizes = {m: len(has) for m, has in present.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"present has entries of different lengths, {sizes}; expected [B] for each"
        )
    everywhere = torch.ones_like(next(iter(present.values())))
    return torch.stack([present.get(m, everywhere) for m in modalities], 1)


def without_missing(
    inputs: Mapping[str, Any],
    present: Mapping[str, Tensor] | None,
    modalities: Sequence[str],
    like: Tensor | None,
) -> Mapping[str, Tensor] | None:
    """`present`, where a modality whose input is None is absent from every sample.

    Args:
        inputs: the batch, by modality.
        present: see `presence_table`; None: every sample has every modality that is not None.
        modalities: their names.
        like: a tensor [B, ...] of the batch, say its targets; None: the first tensor of `inputs`.

    Raises:
        ValueError: every modality is None.
    """
    missing = [m for m in modalities if inputs[m] is None]
    if not missing:
        return present
    if len(missing) == len(modalities):
        raise ValueError(
            f"inputs are None for all modalities, {missing}; expected at least one in a batch"
        )
    row = like if like is not None else next(tensor_leaves({m: inputs[m] for m in modalities}))
    absent = torch.zeros(len(row), dtype=torch.bool, device=row.device)
    return {**(present or {}), **dict.fromkeys(missing, absent)}


def hide_absent(
    model: nn.Module,
    inputs: Mapping[str, Any],
    present: Mapping[str, Tensor],
    batch_axes: Mapping[str, int] | None = None,
) -> Mapping[str, Any]:
    """The batch with every absent input replaced by what a hidden modality looks like; what stood there is not read.

    Args:
        model: the network, which may declare a `mask`.
        inputs: the batch, by modality.
        present: see `presence_table`.
        batch_axes: on which axis the samples of each input lie; 0 where nothing is said.

    Raises:
        ValueError: a batch of another length than `present`, or a mask that changes the shape of the input.
    """
    axes = batch_axes or {}
    hidden = {m: _hide_rows(model, m, inputs[m], has, axes.get(m, 0)) for m, has in present.items()}
    return with_items(inputs, hidden)


def _hide_rows(model: nn.Module, modality: str, x: Any, has: Tensor, axis: int) -> Any:
    def check(leaf: Tensor) -> Tensor:
        if leaf.dim() <= axis or leaf.shape[axis] != len(has):
            raise ValueError(
                f"present[{modality!r}] is for {len(has)} samples, but the input of {modality!r} holds a tensor of "
                f"shape {list(leaf.shape)}; expected the batch on axis {axis}"
            )
        return leaf

    if x is not None and next(tensor_leaves(x), None) is None:
        raise ValueError(
            f"present[{modality!r}] says that samples lack {modality!r}, but its input ({type(x).__name__}) holds no "
            "tensor whose rows could be hidden. Give tensors in dicts, lists or tuples, and let adapt's call make of "
            "them what the network takes"
        )
    map_tensors(check, x)
    hidden = mask(model, modality, x)
    if not nested_alike(x, hidden):
        raise ValueError(
            f"mask({modality!r}, x) gives another form than x has; where single samples lack {modality!r} expected the "
            "same nesting, dtypes and shapes"
        )
    hidden_leaves = tensor_leaves(hidden)

    def choose(leaf: Tensor) -> Tensor:
        rows = has.reshape((1,) * axis + (-1,) + (1,) * (leaf.dim() - 1 - axis))
        return torch.where(rows, leaf, next(hidden_leaves))

    return map_tensors(choose, x)


def restrict_to_present(values: Tensor, present: Tensor) -> Tensor:
    """Each sample's game among the modalities that it has; the others then add nothing to any coalition.

    A coalition that holds all that a sample has is worth v(all), one that holds nothing of it 0.

    Args:
        values: [2^M, B, ...] by coalition, in the order of `gradmod.functional.shapley_values`.
        present: [B, M] bool.

    Returns:
        [2^M, B, ...].
    """
    codes = torch.arange(len(values), device=present.device)
    members = (codes.unsqueeze(1) >> torch.arange(present.shape[1], device=present.device)) & 1
    held = (members.unsqueeze(1) * present).sum(2)
    axes = (1,) * (values.dim() - 2)
    nothing, everything = (
        (held == count).reshape(*held.shape, *axes) for count in (0, present.sum(1))
    )
    return torch.where(nothing, 0.0, torch.where(everything, values[-1], values))
