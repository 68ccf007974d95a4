"""What uni-modal heads say of a batch: a loss for each modality, and the record of the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradmod.methods.base import Method
from gradmod.methods.record import StepRecord
from gradmod.methods.scores import scores_of, sums_and_counts
from gradmod.methods.view import Batch
from gradmod.tasks import Task


def uni_modal_losses(
    task: Task, logits: Tensor, batch: Batch, modalities: Sequence[str]
) -> dict[str, Tensor]:
    """The task's loss of each modality's own logits [M, B, ..., K], over the samples that have it.

    Returns:
        By modality a scalar; 0, with a graph, where no sample has it.
    """
    task.check(logits[0], batch.target)
    if batch.present is None:
        return {m: task.loss(own, batch.target) for m, own in zip(modalities, logits, strict=True)}
    losses = {}
    for m, own, has in zip(modalities, logits, batch.present.T, strict=True):
        rows = has.to(own.device).nonzero().squeeze(1)
        losses[m] = (
            task.loss(own[rows], batch.target[rows])
            if len(rows)
            else own.nan_to_num(0, 0, 0).sum() * 0
        )
    return losses


@torch.no_grad()
def record_of_heads(
    method: Method, task: Task, logits: Tensor, batch: Batch, coefficients: Sequence[float] | Tensor
) -> StepRecord:
    """What heads [M, B, ..., K] say in a step: their scores and headlines, of this process' share of the batch."""
    given = torch.as_tensor(coefficients, dtype=torch.float64)
    sums, counts = sums_and_counts(
        scores_of(task, logits.detach(), batch.target), batch.present, task.weights(batch.target)
    )
    headlines = method.headlines(task, logits.detach(), batch.target, batch.present)
    return StepRecord(
        given,
        scores=sums / counts,
        headlines=headlines,
        left_out_targets=task.left_out(batch.target),
    )
