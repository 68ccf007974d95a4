"""A model over a whole split: every sample once, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gradmod.coalitions.protocols import HasOwnHeads, split_output
from gradmod.methods.base import ValidationFigures
from gradmod.tasks import Task
from gradmod.training.loading import Request, batches
from gradmod.training.sampling import Shard, evaluation_batches
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from gradmod.datasets.samples import Split


@dataclass(frozen=True)
class Predictions:
    """What a model says on a split, on the CPU.

    Attributes:
        logits: [N, ..., K] float32 or wider.
        responses: [M, N, ..., K] mono-modal responses.
        target: [N, ...].
        own: [M, N, ...] what each modality alone predicts, where its own head says so and not its response; else None.
    """

    logits: Tensor
    responses: Tensor
    target: Tensor
    own: Tensor | None = None


def predict(
    fabric: Fabric,
    model: ModulatedModel,
    dataset: Split,
    *,
    batch_size: int,
    workers: int = 0,
    with_own: bool = False,
) -> Predictions:
    """Logits and mono-modal responses of every sample, in the order of the data set, in eval mode.

    Every process must call it; each gets the whole result. `with_own` asks for the predictions of the modalities' own
    heads, where they have any.
    """
    shard = Shard(fabric.global_rank, fabric.world_size)
    with_own = with_own and isinstance(model.model, HasOwnHeads)
    logits, responses, targets, own = [], [], [], []
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), fabric.autocast():
            requests = map(Request, evaluation_batches(len(dataset), batch_size, shard))
            for inputs, target in batches(fabric, dataset, requests, workers):
                evaluation = model.responses(inputs)
                logits.append(split_output(evaluation.output)[0].float())
                responses.append(evaluation.responses.transpose(0, 1))
                targets.append(target)
                if with_own:
                    own.append(model.own_predictions(inputs).float().transpose(0, 1))
    finally:
        model.train(training)

    def whole(parts: list[Tensor]) -> Tensor:
        gathered = torch.cat(parts)
        if shard.world > 1:
            gathered = cast(Tensor, fabric.all_gather(gathered)).transpose(0, 1).flatten(0, 1)
        return gathered[: len(dataset)].cpu()

    return Predictions(
        whole(logits),
        whole(responses).transpose(0, 1),
        whole(targets),
        whole(own).transpose(0, 1) if with_own else None,
    )


def validation_figures(
    predictions: Predictions, task: Task, modalities: tuple[str, ...]
) -> dict[str, ValidationFigures]:
    """How well each modality alone does: what a method looks at at the end of an epoch."""
    alone = predictions.responses if predictions.own is None else predictions.own
    scores = task.scores(alone, predictions.target).flatten(1).double().mean(1)
    headlines = task.headlines(alone, predictions.target)
    return {
        m: ValidationFigures(float(score), float(headline), task.lower_is_better)
        for m, score, headline in zip(modalities, scores, headlines, strict=True)
    }


def measure(predictions: Predictions, task: Task, modalities: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the model and of each modality's response, as plain numbers.

    Returns:
        `{"accuracy": ..., ..., "responses": {modality: {"accuracy": ..., "score": ...}}}`, the names those of the task.
    """
    figures: dict[str, Any] = _numbers(task.metrics(predictions.logits, predictions.target))
    scores = task.scores(predictions.responses, predictions.target).flatten(1).double().mean(1)
    figures["responses"] = {
        modality: {**_numbers(task.metrics(response, predictions.target)), "score": float(score)}
        for modality, response, score in zip(modalities, predictions.responses, scores, strict=True)
    }
    return figures


def _numbers(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
