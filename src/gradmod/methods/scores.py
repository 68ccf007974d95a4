"""Scores of mono-modal responses, and their sums over the samples that have one."""

from __future__ import annotations

import torch
from torch import Tensor

from gradmod.methods.surroundings import where_float64_is
from gradmod.tasks import Task


def sums_and_counts(
    scores: Tensor, present: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Weighted sum of the scores of each modality over the samples that have it, and the sum of the weights.

    Args:
        scores: [M, B, ...] by modality and sample (and segment).
        present: [B, M] bool, which sample has which modality; None: all have all.
        weights: [B, ...] weight of each score, 0 where there is none; None: all alike. See `Task.weights`.

    Returns:
        [2, M] float64; on the CPU, if the device has none.

    Raises:
        ValueError: weights of another shape than a modality's scores.
    """
    scores = where_float64_is(scores)
    if present is None and weights is None:
        sums = scores.flatten(1).double().sum(1)
        return torch.stack([sums, torch.full_like(sums, scores[0].numel())])
    if weights is None:
        share = torch.ones_like(scores, dtype=torch.float64)
    elif weights.shape != scores.shape[1:]:
        raise ValueError(
            f"the task weighs targets in the shape {list(weights.shape)} and scores responses in the shape "
            f"{list(scores.shape)}; expected scores [M, B, ...] and weights [B, ...]"
        )
    else:
        share = where_float64_is(weights).to(scores.device).double().expand_as(scores)
    if present is not None:
        share = share * present.to(scores.device).T.reshape(
            scores.shape[:2] + (1,) * (scores.dim() - 2)
        )
    sums = torch.where(share > 0, scores * share, 0.0).flatten(1).sum(1)
    return torch.stack([sums, share.flatten(1).sum(1)])


def scores_of(task: Task, responses: Tensor, target: Tensor) -> Tensor:
    """[M, B, ...] the task's scores of responses [M, B, ..., K].

    Raises:
        ValueError: they have another form.
    """
    scores = task.scores(responses, target)
    if scores.dim() < 2 or scores.shape[:2] != responses.shape[:2]:
        raise ValueError(
            f"the scores of the task {task.name!r} have shape {list(scores.shape)} for responses of shape "
            f"{list(responses.shape)}; expected {list(responses.shape[:2])} and any axes of parts of a sample behind: "
            "a score for each modality and sample, not their mean"
        )
    return scores
