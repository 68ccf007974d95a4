"""A model over a whole split: every sample once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmod.coalitions.features import features_pass, uni_modal_pass
from gradmod.coalitions.presence import hide_absent
from gradmod.diagnosis.attribution import in_eval_mode
from gradmod.experiments.errors import ConfigError, TrainingError
from gradmod.experiments.files import write_arrays
from gradmod.experiments.runs.names import predictions_path
from gradmod.experiments.training.loading import Present, of_modalities, split_batches
from gradmod.experiments.training.non_finite import samples_not_finite
from gradmod.experiments.training.sampling import Shard
from gradmod.methods.epoch import SplitFeatures, as_feature
from gradmod.methods.record import ValidationFigures
from gradmod.methods.trials import losses_by_name
from gradmod.protocols import declares_own_heads, logits_of
from gradmod.tasks import Task
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from gradmod.experiments.datasets.split import Split


MOST_LOOKED_AT = 64


@dataclass(frozen=True)
class Predictions:
    """What a model says on a split, on the CPU.

    Attributes:
        logits: [N, ..., K] float32 or wider.
        responses: [M, N, ..., K] mono-modal responses.
        target: [N, ...].
        own: [M, N, ...] what each modality alone predicts, where its own head says so and not its response; else None.
        present: [M, N] bool, which sample has which modality, where some lack one; None: every sample has every one.
    """

    logits: Tensor
    responses: Tensor
    target: Tensor
    own: Tensor | None = None
    present: Tensor | None = None

    def alone(self, task: Task) -> Tensor:
        """[M, N, ...] what each modality's response predicts by itself."""
        return task.own_predictions(self.responses, self.target, self.present)

    def of(self, modality: int, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions [M, N, ...] of one modality, and the targets, of the samples that have it."""
        if self.present is None:
            return predictions[modality], self.target
        has = self.present[modality]
        return predictions[modality][has], self.target[has]


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

    Raises:
        TrainingError: logits that are not finite; names the samples, and the inputs that are not.
    """
    with_own = with_own and declares_own_heads(model.model, model.method.modalities)

    def read(inputs: dict[str, Any], present: Present) -> dict[str, Tensor]:
        evaluation = model.responses(inputs, present)
        found = {
            "logits": evaluation.logits.float(),
            "responses": evaluation.responses.transpose(0, 1),
        }
        return found | (
            {"own": model.own_predictions(inputs, present).float().transpose(0, 1)}
            if with_own
            else {}
        )

    found = _over_split(fabric, model, dataset, read, batch_size, workers)
    _refuse_not_finite(found["logits"], dataset)
    own = found["own"].transpose(0, 1) if with_own else None
    return Predictions(
        found["logits"],
        found["responses"].transpose(0, 1),
        found["target"],
        own,
        _presence_table(dataset, model.method.modalities),
    )


def _presence_table(dataset: Split, modalities: Sequence[str]) -> Tensor | None:
    present = {m: has for m, has in dataset.present.items() if m in modalities and not has.all()}
    everywhere = np.ones(len(dataset), dtype=np.bool_)
    columns = [present.get(m, everywhere) for m in modalities]
    return torch.from_numpy(np.stack(columns)) if present else None


def _refuse_not_finite(logits: Tensor, dataset: Split) -> None:
    rows = (~logits.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if not rows:
        return
    bad = samples_not_finite(dataset, np.array(rows[:MOST_LOOKED_AT]))
    why = "; ".join(
        f"the input of {m!r} is not finite in sample(s) {listed}" for m, listed in bad.items()
    )
    raise TrainingError(
        f"the model's logits are not finite for {len(rows)} of {len(dataset)} samples of a split, sample {rows[0]} the "
        f"first; {why or 'their inputs are finite'}. {'Mend or drop them' if bad else 'Lower --lr or clip harder'}"
    )


def predict_features(
    fabric: Fabric, model: ModulatedModel, dataset: Split, *, batch_size: int, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """What the head of a model reads and what it answers, for every sample: [rows, F] and [rows, K], on the CPU.

    A row is a sample; where segments have logits of their own, it is a segment. Every process must call it.

    Raises:
        ConfigError: the network has no module `head`.
    """
    head = getattr(model.model, "head", None)
    if not isinstance(head, nn.Module):
        raise ConfigError(
            f"{type(model.model).__name__} has no module `head`; the feature before the head is what competition "
            "strength is read from"
        )
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))

    def read(inputs: dict[str, Any], present: Present) -> dict[str, Tensor]:
        seen.clear()
        logits = logits_of(model.model, model(inputs, present=present))
        feature = seen[-1] if seen[-1].dim() == logits.dim() else seen[-1].flatten(1)
        return {"feature": feature.float(), "logits": logits.float()}

    try:
        found = _over_split(fabric, model, dataset, read, batch_size, workers)
    finally:
        hook.remove()
    return found["feature"].flatten(0, -2), found["logits"].flatten(0, -2)


def split_features(
    fabric: Fabric, model: ModulatedModel, dataset: Split, *, batch_size: int, workers: int = 0
) -> SplitFeatures:
    """What the encoders make of every sample of a split, in its order. Every process must call it."""
    modalities = model.method.modalities

    def read(inputs: dict[str, Any], present: Present) -> dict[str, Tensor]:
        if present is not None:
            inputs = dict(hide_absent(model.model, inputs, present))
        found = features_pass(model.model, inputs, modalities, gradient=False).features
        return {m: as_feature(found[m], m) for m in modalities}

    found = _over_split(fabric, model, dataset, read, batch_size, workers)
    table = _presence_table(dataset, modalities)
    return SplitFeatures(
        {m: found[m] for m in modalities},
        found["target"],
        None if table is None else dict(zip(modalities, table, strict=True)),
    )


def split_losses(
    fabric: Fabric, model: ModulatedModel, dataset: Split, *, batch_size: int, workers: int = 0
) -> dict[str, float]:
    """Mean losses over a split in eval mode, of the network and of each modality's head; see `Trials.losses`.

    Every process must call it; each gets those of the whole split.
    """
    modalities = model.method.modalities

    def read(inputs: dict[str, Any], present: Present) -> dict[str, Tensor]:
        if present is not None:
            inputs = dict(hide_absent(model.model, inputs, present))
        found = uni_modal_pass(model.model, inputs, modalities, model.heads, gradient=False)
        own = found.logits.float().transpose(0, 1)
        return {"joint": logits_of(model.model, found.output).float(), "own": own}

    found = _over_split(fabric, model, dataset, read, batch_size, workers)
    table = _presence_table(dataset, modalities)
    own, present = found["own"].transpose(0, 1), None if table is None else table.T
    return losses_by_name(model.task, found["joint"], own, found["target"], present, modalities)


def _over_split(
    fabric: Fabric,
    model: ModulatedModel,
    dataset: Split,
    read: Callable[[dict[str, Any], Present], dict[str, Tensor]],
    batch_size: int,
    workers: int,
) -> dict[str, Tensor]:
    """What `read` makes of each batch [B, ...], and `target`, for the whole split, in order, on every process."""
    shard = Shard(fabric.global_rank, fabric.world_size)
    parts: dict[str, list[Tensor]] = {}
    with in_eval_mode(model), torch.no_grad(), fabric.autocast():
        for inputs, target, has in split_batches(fabric, dataset, batch_size, workers, shard):
            present = of_modalities(has, model.method.modalities)
            for name, values in (*read(inputs, present).items(), ("target", target)):
                parts.setdefault(name, []).append(values)

    def whole(values: list[Tensor]) -> Tensor:
        gathered = torch.cat(values)
        if shard.world > 1:
            of_processes = [torch.empty_like(gathered) for _ in range(shard.world)]
            dist.all_gather(of_processes, gathered)
            gathered = torch.stack(of_processes, 1).flatten(0, 1)
        return gathered[: len(dataset)].cpu()

    return {name: whole(values) for name, values in parts.items()}


def validation_figures(
    predictions: Predictions, task: Task, modalities: tuple[str, ...]
) -> dict[str, ValidationFigures]:
    """How well each modality alone does: what a method looks at at the end of an epoch."""
    alone = predictions.own if predictions.own is not None else predictions.alone(task)
    figures = {}
    for number, m in enumerate(modalities):
        own, target = predictions.of(number, alone)
        score, headline = task.mean_scores(own[None], target), task.headlines(own[None], target)
        figures[m] = ValidationFigures(float(score), float(headline), task.lower_is_better)
    return figures


def measure(predictions: Predictions, task: Task, modalities: tuple[str, ...]) -> dict[str, Any]:
    """Metrics of the model and of each modality's response, as plain numbers.

    Returns:
        `{"accuracy": ..., ..., "responses": {modality: {"accuracy": ..., "score": ...}}}`, the names those of the task.
    """
    figures: dict[str, Any] = _numbers(task.figures(predictions.logits, predictions.target))
    alone = predictions.alone(task)
    figures["responses"] = {}
    for number, modality in enumerate(modalities):
        own, target = predictions.of(number, alone)
        score = float(task.mean_scores(own[None], target))
        figures["responses"][modality] = {**_numbers(task.metrics(own, target)), "score": score}
    return figures


def _numbers(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def save_predictions(folder: Path, split: str, predictions: Predictions) -> None:
    """Write a split's logits, responses and targets to `predictions/<split>.npz`."""
    target = predictions_path(folder, split)
    target.parent.mkdir(exist_ok=True)
    arrays = {
        name: getattr(predictions, name).numpy() for name in ("logits", "responses", "target")
    }
    if predictions.present is not None:
        arrays["present"] = predictions.present.numpy()
    write_arrays(target, arrays)
