"""The table of a comparison, from the records of its runs alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.fingerprint import differences
from gradmod.experiments.errors import CheckpointError, ConfigError, damage_in
from gradmod.experiments.files import read_arrays
from gradmod.experiments.reporting.style import METRIC_TITLES
from gradmod.experiments.runs.names import predictions_path
from gradmod.experiments.runs.records import Record, read_json, read_result
from gradmod.metrics.bootstrap import paired_bootstrap
from gradmod.tasks import RecordedTask, Task, task_of_record

BASELINE, ENSEMBLE = "joint", "ensemble"
REFERENCES = (BASELINE, "uni-modal-losses")
"""Rows that every other one is compared with, where they are there: the usual baseline, and the cheap one."""


Terms = dict[int, npt.NDArray[np.float64]]
"""By seed [N] what each sample contributes to the metric."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run and its row."""

    row: str
    fusion: str
    seed: int
    modality: str
    folder: Path


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the deviation of a single one is NaN."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of some values."""
        return cls(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
        )


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        label: what was trained.
        fusion: its fusion.
        seeds: of its runs.
        metrics: by name, over the seeds.
        responses: headline metric of each modality's response; empty for a single modality.
        differences: to each of `REFERENCES` but itself, in the metric that is a mean over samples, and the ends of its
            interval.
        time: training time relative to joint training; None where nothing was trained.
        memory: peak memory in MiB.
    """

    label: str
    fusion: str
    seeds: tuple[int, ...]
    metrics: dict[str, Spread]
    responses: dict[str, Spread] = field(default_factory=dict)
    differences: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    time: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class ComparisonTable:
    """All rows, and what stands under them.

    Attributes:
        rows: joint training first, then the methods, the modalities alone, and their ensemble; fusion by fusion.
        metrics: names of the metrics that are shown.
        modalities: names of the modalities.
        headline: metric of the responses.
        sample_metric: metric of the differences.
        references: rows that the differences are to.
        notes: protocol, seeds, epochs and how the epoch was chosen.
    """

    rows: list[Row]
    metrics: list[str]
    modalities: list[str]
    headline: str
    sample_metric: str
    references: list[str]
    notes: list[str]


def compare(runs: Sequence[RunRecord]) -> ComparisonTable:
    """Make the table.

    Raises:
        CheckpointError: a run is not finished, or its records are damaged.
        ConfigError: the runs were not scored on the same samples.
    """
    results = {run.folder: read_result(run.folder) for run in runs}
    first = results[runs[0].folder]
    task = task_of_record(first)
    has_code = not isinstance(task, RecordedTask)
    split = "test" if "test" in first["splits"] else "validation"
    metrics = [name for name in METRIC_TITLES if name in first["splits"][split]] or [task.headline]
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.fusion, run.row), []).append(run)
    rows: list[Row] = []
    for fusion in dict.fromkeys(run.fusion for run in runs):
        own = {row: members for (other, row), members in groups.items() if other == fusion}
        theirs = {
            name: _terms(own[name], split, task) for name in REFERENCES if name in own and has_code
        }
        for label, members in own.items():
            row = _row(label, members, own.get(BASELINE, []), results, split, task, metrics)
            if has_code:
                row = replace(
                    row, differences=_differences(label, _terms(members, split, task), theirs)
                )
            rows.append(row)
        alone = [members for members in own.values() if members[0].modality]
        if len(alone) > 1 and has_code:
            rows.append(_ensemble(fusion, alone, theirs, split, task, metrics))
    modalities = max((result["modalities"] for result in results.values()), key=len)
    samples = len(_predictions(runs[0].folder, split, task)[1])
    notes = _notes(list(results.values()), f"{split} split, {samples} samples", _fewest_pairs(rows))
    notes += _notes_on_data([run.folder for run in runs], split)
    if not has_code:
        notes.append(
            f"the task {task.name!r} is code of your own, which the records do not hold: without differences to "
            "other rows, and without the ensemble"
        )
    references = [name for name in REFERENCES if any(name in row.differences for row in rows)]
    return ComparisonTable(
        rows, metrics, modalities, task.headline, task.sample_metric, references, notes
    )


def _notes_on_data(folders: Sequence[Path], scored_on: str) -> list[str]:
    """What is to be said of runs whose data are not the same, as far as they know their data.

    Raises:
        ConfigError: they were not scored on the same samples, so that differences between them mean nothing.
    """
    known = {
        folder: read_json(folder / "data.json")
        for folder in folders
        if (folder / "data.json").is_file()
    }
    notes: list[str] = []
    first = next(iter(known), None)
    for folder, record in known.items():
        assert first is not None
        with damage_in(folder / "data.json"):
            found = [
                what for what in differences(known[first], record) if "other values of" not in what
            ]
            found = [what for what in found if not what.endswith((" is missing", " is new"))]
        scored = [
            what
            for what in found
            if what.startswith(f"{scored_on}:") or f" {scored_on} split" in what
        ]
        if scored:
            raise ConfigError(
                f"{folder} was not scored on the samples that {first} was scored on ({'; '.join(scored)}): they cannot "
                "be compared. Train them on the same data"
            )
        if found:
            notes.append(
                f"{folder.name} was trained on other data than {first.name}: {'; '.join(found[:3])}"
            )
    return notes


def _row(
    label: str,
    runs: Sequence[RunRecord],
    baseline: Sequence[RunRecord],
    results: dict[Path, Record],
    split: str,
    task: Task,
    metrics: Sequence[str],
) -> Row:
    figures = [results[run.folder]["splits"][split] for run in runs]
    responses: dict[str, Spread] = {}
    if not runs[0].modality:
        responses = {
            m: Spread.of([f["responses"][m][task.headline] for f in figures])
            for m in figures[0]["responses"]
        }
    reference = {run.seed: results[run.folder]["train_seconds"] for run in baseline}
    ratios = [
        results[run.folder]["train_seconds"] / reference[run.seed]
        for run in runs
        if reference.get(run.seed, 0) > 0
    ]
    memory = [results[run.folder].get("peak_memory_mib") for run in runs]
    known = [float(value) for value in memory if value is not None]
    return Row(
        label,
        runs[0].fusion,
        tuple(run.seed for run in runs),
        {name: Spread.of([f[name] for f in figures]) for name in metrics},
        responses,
        time=statistics.median(ratios) if ratios else None,
        memory=statistics.median(known) if known else None,
    )


def _ensemble(
    fusion: str,
    alone: Sequence[Sequence[RunRecord]],
    theirs: Mapping[str, Terms],
    split: str,
    task: Task,
    metrics: Sequence[str],
) -> Row:
    """The mean of the mono-modal models' predictions, seed by seed; nothing is trained for it."""
    by_seed = [{run.seed: run for run in members} for members in alone]
    seeds = [seed for seed in by_seed[0] if all(seed in members for members in by_seed)]
    figures, terms = [], {}
    for seed in seeds:
        loaded = [_predictions(members[seed].folder, split, task) for members in by_seed]
        target = loaded[0][1]
        logits = task.ensemble(torch.stack([logits for logits, _ in loaded]))
        figures.append({name: float(value) for name, value in task.metrics(logits, target).items()})
        terms[seed] = task.per_sample(logits, target).numpy()
    return Row(
        ENSEMBLE,
        fusion,
        tuple(seeds),
        {name: Spread.of([f[name] for f in figures]) for name in metrics},
        differences=_differences(ENSEMBLE, terms, theirs),
    )


def _differences(
    label: str, ours: Terms, theirs: Mapping[str, Terms]
) -> dict[str, tuple[float, float, float]]:
    """Of some runs to those of each reference with the same seeds."""
    found = {}
    for name, reference in theirs.items():
        seeds = [seed for seed in ours if seed in reference]
        if name != label and seeds:
            found[name] = paired_bootstrap(
                np.stack([ours[s] for s in seeds]), np.stack([reference[s] for s in seeds])
            )
    return found


def _terms(runs: Sequence[RunRecord], split: str, task: Task) -> Terms:
    """By seed [N] what each sample contributes to the metric."""
    return {
        run.seed: task.per_sample(*_predictions(run.folder, split, task)).numpy() for run in runs
    }


def _predictions(folder: Path, split: str, task: Task) -> tuple[Tensor, Tensor]:
    path = predictions_path(folder, split)
    arrays = read_arrays(path, ("logits", "target"))
    logits, target = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["target"])
    try:
        if logits.dim() < 2:
            raise ValueError(f"logits of shape {list(logits.shape)}; expected [N, ..., K]")
        task.check(logits, target)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    return logits, target


def _fewest_pairs(rows: Sequence[Row]) -> int:
    """Of all rows that are compared with another, the smallest number of seeds that both have; 0: none is."""
    seeds = {(row.fusion, row.label): set(row.seeds) for row in rows}
    return min(
        (
            len(seeds[row.fusion, reference] & set(row.seeds))
            for row in rows
            for reference in row.differences
        ),
        default=0,
    )


def _notes(results: Sequence[dict[str, Any]], scored_on: str, pairs: int) -> list[str]:
    def all_of(key: str) -> str:
        return ", ".join(dict.fromkeys(str(result[key]) for result in results))

    first = results[0]
    return [
        f"data set {first['dataset']}, protocol {first['protocol']}; figures of the {scored_on}",
        f"seeds {all_of('seed')}: mean and standard deviation over them; {all_of('epochs')} epochs; epoch: "
        f"{all_of('selected_by')}",
        _meaning_of_differences(pairs),
        "time: training time relative to joint training, median over seeds; memory: peak of the process (on a GPU: of "
        f"its tensors); device {all_of('device')}",
    ]


def _meaning_of_differences(pairs: int) -> str:
    if pairs == 1:
        return (
            "differences: with the same seed; in brackets the interval that holds the difference of these trained "
            "models on other test samples in 95 of 100 cases. With one seed it says nothing of other seeds: give "
            "--seeds several"
        )
    return (
        "differences: with the same seeds; in brackets the interval that holds the true difference, of any seed and "
        "any sample, in 95 of 100 cases (Student's t over seeds, bootstrap over samples): the fewer seeds, the wider"
    )
