"""Samples that lack a modality: which sample has which, and what a model sees in place of what is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import can_concatenate, map_tensors, mask


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
            what = f"{has.dtype} {list(has.shape)}" if isinstance(has, Tensor) else type(has).__name__
            raise ValueError(f"present[{m!r}] is {what}; expected a bool tensor [B]: True where the sample has it")
    sizes = {m: len(has) for m, has in present.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"present has entries of different lengths, {sizes}; expected [B] for each")
    everywhere = torch.ones_like(next(iter(present.values())))
    return torch.stack([present.get(m, everywhere) for m in modalities], 1)


def hide_absent(model: nn.Module, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> dict[str, Any]:
    """The batch with every absent input replaced by what a hidden modality looks like; what stood there is not read.

    Args:
        model: the network, which may declare a `mask`.
        inputs: the batch, by modality.
        present: see `presence_table`.

    Raises:
        ValueError: a batch of another length than `present`, or a mask that changes the shape of the input.
    """
    return {**inputs, **{m: _hide_rows(model, m, inputs[m], has) for m, has in present.items()}}


def _hide_rows(model: nn.Module, modality: str, x: Any, has: Tensor) -> Any:
    def check(leaf: Tensor) -> Tensor:
        if leaf.dim() == 0 or len(leaf) != len(has):
            raise ValueError(
                f"present[{modality!r}] is for {len(has)} samples, but the input of {modality!r} holds a tensor of "
                f"shape {list(leaf.shape)}; expected the batch as first axis of both"
            )
        return leaf

    map_tensors(check, x)
    hidden = mask(model, modality, x)
    if not can_concatenate(x, hidden):
        raise ValueError(
            f"mask({modality!r}, x) gives another form than x has; where single samples lack {modality!r} expected the "
            "same nesting, dtypes and shapes"
        )
    return _choose(has, x, hidden)


def _choose(has: Tensor, shown: Any, hidden: Any) -> Any:
    """Rows of `shown` where `has`, else of `hidden`; both trees are nested alike."""
    if isinstance(shown, Tensor):
        return torch.where(has.reshape((-1,) + (1,) * (shown.dim() - 1)), shown, hidden)
    if isinstance(shown, Mapping):
        return {key: _choose(has, shown[key], hidden[key]) for key in shown}
    if isinstance(shown, (list, tuple)):
        items = [_choose(has, *pair) for pair in zip(shown, hidden, strict=True)]
        return type(shown)(*items) if hasattr(shown, "_fields") else type(shown)(items)
    return shown


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
    nothing, everything = ((held == count).reshape(*held.shape, *axes) for count in (0, present.sum(1)))
    return torch.where(nothing, 0.0, torch.where(everything, values[-1], values))
