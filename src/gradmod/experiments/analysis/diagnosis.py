"""Diagnosis of a trained run, written into its folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from gradmod.diagnosis import diagnose
from gradmod.experiments.errors import ConfigError, damage_in
from gradmod.experiments.files import write_json
from gradmod.experiments.runs.records import read_result
from gradmod.experiments.training.concepts import concepts_of
from gradmod.experiments.training.loading import Batch, split_batches
from gradmod.experiments.training.opening import OpenRun, open_run

FOLDER = "attribution"


def attribute_run(
    folder: Path | str,
    *,
    split: str = "test",
    checkpoint: str = "best",
    metric: str = "",
    noise_levels: Sequence[float] = (),
    replicates: int = 1000,
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> Path:
    """Diagnose a run (see `gradmod.diagnose`) and write `attribution/<split>.json` into its folder.

    What each modality reaches alone is known, and suppression told, where its mono-modal concept was trained (by
    `gradmod competition`).

    Returns:
        The file.

    Raises:
        ConfigError: no such split or metric; a negative number of replicates or noise level; the run has code of
            the user's own that is not named.
        CheckpointError: no run there, or the checkpoint is damaged.
    """
    if replicates < 0 or not all(math.isfinite(level) and level >= 0 for level in noise_levels):
        raise ConfigError(
            f"replicates is {replicates} and noise_levels is {tuple(noise_levels)}; expected numbers >= 0"
        )
    run = open_run(folder, checkpoint, dataset=dataset, model=model, method=method, root=root)
    loader = _Loader(run, split)
    metric = metric or run.parts.task.sample_metric
    try:
        with run.fabric.autocast():
            found = diagnose(
                run.model,
                loader,
                metric=metric,
                noise_levels=noise_levels,
                alone=_alone(run, split, metric),
                replicates=replicates,
            )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    path = run.folder / FOLDER / f"{split}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"split": split, "checkpoint": checkpoint, **found.as_record()})
    return path


class _Loader:
    """Batches of a split, from the start each time."""

    def __init__(self, run: OpenRun, split: str) -> None:
        self._run, self._split = run, run.split(split)

    def __iter__(self) -> Iterator[Batch]:
        size, workers = self._run.config.train.batch_size, self._run.parts.workers
        return split_batches(self._run.fabric, self._split, size, workers)


def _alone(run: OpenRun, split: str, metric: str) -> dict[str, float]:
    """Score of each modality's concept, where it is trained and was scored on the split."""
    if run.config.data.modality != "multimodal" or metric not in ("accuracy", "macro_f1"):
        return {}
    trained = {
        m: one for m, one in concepts_of(run.config, run.parts.data).items() if one.is_trained
    }
    results = {m: read_result(one.folder) for m, one in trained.items()}
    with damage_in(", ".join(str(one.folder) for one in trained.values())):
        figures = {m: result["splits"].get(split, {}) for m, result in results.items()}
        return {m: float(values[metric]) for m, values in figures.items() if metric in values}
