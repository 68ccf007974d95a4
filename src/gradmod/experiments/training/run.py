"""Training, going on with and evaluating a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.concept_runs import train_concepts_first
from gradmod.experiments.training.conduct import RunSummary, begin, default_name, go_on
from gradmod.experiments.training.evaluation import measure, predict
from gradmod.experiments.training.opening import open_run

__all__ = ["RunSummary", "default_name", "evaluate", "resume", "train"]


def train(config: Config, *, unique: bool = False) -> RunSummary | None:
    """Train a new run; before it the mono-modal concepts that it begins with or is measured against.

    Args:
        config: its settings.
        unique: add a number to the name in the settings where it is taken, as is done where they name none.

    Returns:
        The run; None on processes other than the first.

    Raises:
        ConfigError, DataError: before anything is written.
        TrainingError, InterruptedRunError: see `Loop.run`.
    """
    return begin(config, prepare=train_concepts_first, unique=unique)


def resume(
    folder: Path | str,
    *,
    checkpoint: str = "last",
    epochs: int | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> RunSummary | None:
    """Go on with a run from a checkpoint; without any checkpoint, from its start.

    Args:
        folder: the run's folder.
        checkpoint: `last`, `previous`, `best`, or a path.
        epochs: train to this epoch in place of the one in the run's settings, which are changed.
        devices: processes on this machine in place of those in the run's settings, which are changed. Every step has
            the same samples for any number of processes.
        nodes: the same for the number of machines.
        dataset: the run's data set again, where it is code of the user's own.
        model: the same for its network.
        method: the same for its method.
        root: where the run's data lie now, in place of where its settings say, which are changed.

    Raises:
        CheckpointError: no run there, or the checkpoint is damaged; names those that are whole. Or a run that was
            trained has no checkpoint any more.
        ConfigError: the run is finished or further than `epochs`; it has code of the user's own that is not named.
        DataError: its data cannot be read, or are others than it was trained on.
    """
    return go_on(
        folder,
        prepare=train_concepts_first,
        checkpoint=checkpoint,
        epochs=epochs,
        devices=devices,
        nodes=nodes,
        dataset=dataset,
        model=model,
        method=method,
        root=root,
    )


def evaluate(
    folder: Path | str,
    *,
    split: str = "test",
    checkpoint: str = "best",
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run on one split; `dataset` to `root` as in `resume`.

    Returns:
        The figures of `gradmod.experiments.training.evaluation.measure`.

    Raises:
        ConfigError: the run's protocol has no such split; it has code of the user's own that is not named.
        CheckpointError: no run there, or the checkpoint is damaged.
    """
    run = open_run(folder, checkpoint, dataset=dataset, model=model, method=method, root=root)
    predictions = predict(
        run.fabric,
        run.model,
        run.split(split),
        batch_size=run.config.train.batch_size,
        workers=run.parts.workers,
    )
    return measure(predictions, run.parts.task, run.model.method.modalities)
