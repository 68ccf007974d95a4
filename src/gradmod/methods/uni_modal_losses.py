"""Uni-modal losses: the loss of the model, and that of a head for each modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.methods.base import Method, Need
from gradmod.methods.record import StepRecord
from gradmod.methods.scores import scores_of, sums_and_counts
from gradmod.methods.view import Batch, View
from gradmod.tasks import Task

Weight = float | Mapping[str, float]


class UniModalLosses(Method):
    """Joint training with a loss for each modality beside it ("multi-loss").

        loss = task(logits) + sum over m of  weight^m * task(logits of the uni-modal head of m)

    No single paper: the baseline that most methods since 2024 start from, and that many do not beat. A head reads the
    feature of its modality alone, as the network's own forward computed it: the network's own heads where it has them
    (those of sum fusion are part of the prediction as well), else linear heads that the wrapper owns, which share
    nothing with the joint head and are trained, saved and moved with the model. They predict nothing by themselves.

    Where samples lack a modality, its loss is the mean over those that have it; 0 where none has it.

    Args:
        modalities: names of the inputs; M >= 1.
        weight: of each modality's loss, one number or one by modality (those left out have 1); >= 0, not all 0.

    Raises:
        ValueError: a weight that is negative, not finite or of no modality; weights that are all 0, which would be
            joint training.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import UniModalLosses
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, UniModalLosses(("audio", "visual"), weight=0.5))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> loss.shape
        torch.Size([])
    """

    needs = frozenset({Need.FEATURES, Need.HEADS})
    needs_training_step = True

    def __init__(self, modalities: Sequence[str], weight: Weight = 1.0) -> None:
        super().__init__(modalities)
        self.weights = weights_by_modality(weight, self.modalities)
        if not any(self.weights.values()):
            raise ValueError(
                f"weight is {weight!r}: without uni-modal losses this is joint training; use Joint"
            )

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"weight={self.weights}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and each modality's weighted loss as `uni_modal.<modality>`."""
        output, logits = view.uni_modal(batch)
        losses = uni_modal_losses(view.task, logits, batch, self.modalities)
        self.last_step = record_of_heads(
            self, view.task, logits, batch, [self.weights[m] for m in self.modalities]
        )
        return view.with_losses(
            output, {f"uni_modal.{m}": self.weights[m] * loss for m, loss in losses.items()}
        )


def weights_by_modality(weight: Weight, modalities: Sequence[str]) -> dict[str, float]:
    """A weight for each modality.

    Raises:
        ValueError: one that is negative or not finite, or of no modality.
    """
    given = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(modalities, weight)
    unknown = [m for m in given if m not in modalities]
    if unknown:
        raise ValueError(
            f"weight names {', '.join(map(repr, unknown))}; the modalities are {list(modalities)}"
        )
    wrong = {m: value for m, value in given.items() if not (math.isfinite(value) and value >= 0)}
    if wrong:
        raise ValueError(f"weight is {wrong}; expected finite numbers >= 0")
    return {m: float(given.get(m, 1.0)) for m in modalities}


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
            task.loss(own[rows], batch.target[rows]) if len(rows) else own.nan_to_num().sum() * 0
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
