"""The game of MCR: how much the prediction depends on each modality, played by the encoders on permuted features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.coalitions.masking import map_tensors, tensor_leaves
from gradmod.coalitions.permuted import logits_of_permuted
from gradmod.functional import at_least_float32
from gradmod.methods.view import View

_ROWS_AT_ONCE = 8192
"""The fusion and the head are called on at most so many rows, or on one permutation of the batch."""


def draw_orders(
    modalities: Sequence[str],
    samples: int,
    permutations: int,
    generator: torch.Generator,
    present: Tensor | None,
) -> Tensor:
    """[M, R, B] on the CPU, which sample's feature each sample gets; its own where it lacks the modality.

    Args:
        modalities: names; the order in which they are named makes no difference to what each gets.
        samples: B.
        permutations: R.
        generator: draws them.
        present: [B, M] bool; None: every sample has every modality.
    """
    table = None if present is None else present.cpu()
    orders = {}
    for m in sorted(modalities):
        column = None if table is None else table[:, modalities.index(m)]
        rows = torch.arange(samples) if column is None else column.nonzero().squeeze(1)
        draws = torch.rand(permutations, len(rows), generator=generator, dtype=torch.float64)
        order = torch.arange(samples).repeat(permutations, 1)
        order[:, rows] = rows[draws.argsort(1)]
        orders[m] = order
    return torch.stack([orders[m] for m in modalities])


def play(
    view: View, features: Mapping[str, Any], orders: Tensor, counted: Tensor, *, by_terms: bool
) -> tuple[Tensor, Tensor]:
    """The game's loss, whose gradient is in the features, each one's of its own encoder's game; and [M] MIPD.

    The gradients are taken here, permutations of one modality at a time, so that no graph is kept of them.

    Args:
        view: whose network fuses, in the mode that it has.
        features: by modality, of the batch; see `check_rows`.
        orders: [M, R, B] of `draw_orders`.
        counted: [M, B, ...] weight of each sample in the mean of a modality's divergences.
        by_terms: whether the head is additive, so that the terms of modalities can be permuted in place of features.
    """
    modalities = view.modalities
    inputs: dict[str, list[Tensor]] = {}
    copies: dict[str, Any] = {}
    for m in modalities:
        copies[m] = map_tensors(_copied, features[m])
        inputs[m] = [leaf for leaf in tensor_leaves(copies[m]) if leaf.requires_grad]
    flat = [leaf for m in modalities for leaf in inputs[m]]
    owners = [m for m in modalities for _ in inputs[m]]
    slopes = [torch.zeros_like(at_least_float32(leaf)) for leaf in flat]
    parts = max(1, _ROWS_AT_ONCE // max(orders.shape[-1], 1))
    sums = []
    for n, (moved, some) in enumerate(zip(modalities, orders, strict=True)):
        count = (counted[n].sum() * orders.shape[1]).clamp(min=1)
        total = counted.new_zeros(())
        for part in torch.split(some, parts):
            divergence = _divergence(view, copies, moved, part, by_terms)
            summed = (divergence * counted[n]).sum()
            found = torch.autograd.grad(summed, flat, allow_unused=True)
            total = total + summed.detach()
            for slope, gradient, owner in zip(slopes, found, owners, strict=True):
                if gradient is not None:
                    slope += (-1 if owner == moved else 1) * gradient.to(slope) / count
        sums.append(total / count)
    dependence = torch.stack(sums)
    value = (len(modalities) - 2) * dependence.sum()
    leaves = [
        leaf for m in modalities for leaf in tensor_leaves(features[m]) if leaf.is_floating_point()
    ]
    carried = torch.stack(
        [(leaf.to(s) * s).sum() for leaf, s in zip(leaves, slopes, strict=True)]
    ).sum()
    return carried - carried.detach() + value, dependence


def jensen_shannon(log_p: Tensor, log_q: Tensor, axis: int = -1) -> Tensor:
    """Jensen-Shannon divergence of two distributions, given as logarithms; from 0 to log 2."""
    mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - mean) + log_q.exp() * (log_q - mean)).sum(axis)


def _divergence(
    view: View, features: Mapping[str, Any], moved: str, orders: Tensor, by_terms: bool
) -> Tensor:
    """[R, B, ...] between the prediction and those of R permutations [R, B] of one modality's features."""
    log = logits_of_permuted(view.model, features, moved, orders, by_terms=by_terms)
    axis = view.task.output_axis
    axis = axis if axis < 0 else axis + 1
    log = log.clamp(min=torch.finfo(log.dtype).min / 4).log_softmax(axis)
    return jensen_shannon(log[:1], log[1:], axis)


def _copied(leaf: Tensor) -> Tensor:
    return leaf.detach().requires_grad_() if leaf.is_floating_point() else leaf


def check_rows(modality: str, feature: Any, samples: int) -> None:
    """Check that the feature of a modality has a row for each sample.

    Raises:
        ValueError: it has not.
    """
    for leaf in tensor_leaves(feature):
        if leaf.dim() == 0 or len(leaf) != samples:
            raise ValueError(
                f"MCR permutes features, but that of {modality!r} holds a tensor {list(leaf.shape)} for {samples} "
                "samples; expected the samples on the first axis"
            )
