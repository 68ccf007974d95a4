"""How sure each modality alone is of the targets, beside the others: what OGM-GE, OPM and MLB go by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradmod.methods.base import Method
from gradmod.methods.centre import TargetCentre
from gradmod.methods.record import StepRecord
from gradmod.methods.scores import scores_of
from gradmod.methods.surroundings import where_float64_is
from gradmod.tasks import Task


class Sureness(NamedTuple):
    """What is seen of a batch, over all processes.

    Attributes:
        scores: [M] float64 mean score of each modality's prediction; NaN where no sample has the modality.
        ratios: [M] float64 rho^m = c^m / mean of the c^j of the others, c^m the mean of exp(-score): for classes the
            probability of the target. Above 1: m is ahead. NaN where no sample has the modality.
        comparable: scalar bool, whether there are two modalities or more to compare.
    """

    scores: Tensor
    ratios: Tensor
    comparable: Tensor

    def record(
        self,
        method: Method,
        coefficients: Tensor,
        task: Task,
        predictions: Tensor,
        target: Tensor,
        present: Tensor | None,
    ) -> StepRecord:
        """The record of the step."""
        return StepRecord(
            coefficients,
            self.scores,
            self.ratios,
            headlines=method.headlines(task, predictions, target, present),
            left_out_targets=task.left_out(target),
        )


@torch.no_grad()
def compare_sureness(
    method: Method,
    centre: TargetCentre,
    task: Task,
    predictions: Tensor,
    target: Tensor,
    present: Tensor | None,
) -> Sureness:
    """Compare the modalities' predictions [M, B, ..., K] of a batch.

    Args:
        method: whose step it is; it averages scores over processes.
        centre: of the method, with this batch's targets in it: scores of numbers are compared in its unit.
        task: what the targets are.
        predictions: what each modality alone says.
        target: of the batch.
        present: [B, M] bool, which sample has which modality; None: all have all.
    """
    scores, weights = scores_of(task, predictions, target), task.weights(target)
    unit = centre.unit(task)
    compared = where_float64_is(scores).double()
    sure = method.mean_scores(
        (-(compared if unit is None else compared / unit)).exp(), present, weights
    )
    scored = ~sure.isnan()
    known = torch.where(scored, sure, 0.0)
    others = (known.sum() - known) / (scored.sum() - 1).clamp(min=1)
    ratios = sure / others.clamp(min=torch.finfo(torch.float64).tiny)
    # Where a batch has samples of one modality alone, there is nothing that it could be ahead of.
    return Sureness(method.mean_scores(scores, present, weights), ratios, scored.sum() > 1)
