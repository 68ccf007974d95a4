"""A model over a whole split: every sample once, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from gradmod.coalitions.protocols import split_output
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
    """

    logits: Tensor
    responses: Tensor
    target: Tensor


def predict(fabric: Fabric, model: ModulatedModel, dataset: Split, *, batch_size: int, workers: int = 0) -> Predictions:
    """Logits and mono-modal responses of every sample, in the order of the data set, in eval mode.

    Every process must call it; each gets the whole result.
    """
    shard = Shard(fabric.global_rank, fabric.world_size)
    logits, responses, targets = [], [], []
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
    finally:
        model.train(training)

    def whole(parts: list[Tensor]) -> Tensor:
        gathered = torch.cat(parts)
        if shard.world > 1:
            gathered = cast(Tensor, fabric.all_gather(gathered)).transpose(0, 1).flatten(0, 1)
        return gathered[: len(dataset)].cpu()

    return Predictions(whole(logits), whole(responses).transpose(0, 1), whole(targets))


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
