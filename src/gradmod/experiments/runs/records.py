"""What a run wrote down, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gradmod.experiments.errors import UNREADABLE, CheckpointError, why_unreadable
from gradmod.experiments.file_kinds import another_kind
from gradmod.experiments.runs.names import CONFIG, METRICS, RESULT

Record = dict[str, Any]


@dataclass(frozen=True)
class Metrics:
    """The lines of a run's metrics.jsonl, by kind.

    Attributes:
        start: what the run is; empty where the file has no such line.
        steps: figures of single steps.
        epochs: figures of each epoch.
    """

    start: Record = field(default_factory=dict)
    steps: list[Record] = field(default_factory=list)
    epochs: list[Record] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """Name of the metric that chooses the best epoch."""
        return str(self.start.get("headline", "accuracy"))

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.start.get("modalities", ()))


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl.

    Raises:
        CheckpointError: it is missing, or a line is damaged; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UNREADABLE as error:
        why = another_kind(path, "a record of a run", "json text") or why_unreadable(error)
        raise CheckpointError(f"{path} cannot be read: {why}") from None
    metrics = Metrics()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            kind = record["kind"]
        except (*UNREADABLE, TypeError, KeyError):
            other = another_kind(path, "a record of a run", "json text") if number == 1 else ""
            if other:
                raise CheckpointError(f"{path} cannot be read: {other}") from None
            raise CheckpointError(
                f"{path}, line {number} is damaged: expected a JSON object with a kind, found {line[:60]!r}"
            ) from None
        if kind == "start":
            metrics.start.update(record)
        elif kind in ("step", "epoch"):
            (metrics.steps if kind == "step" else metrics.epochs).append(record)
    return metrics


def read_result(folder: Path) -> Record:
    """Read a run's result.json.

    Raises:
        CheckpointError: it is missing (the run is not finished) or damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no result.json: the run is not finished. Go on with: gradmod resume {folder}"
        )
    return read_json(path)


def newest_run(out: Path) -> Path:
    """The run below `out` that was finished last.

    Raises:
        CheckpointError: there is none.
    """
    finished = list(out.glob("*/result.json"))
    if not finished:
        raise CheckpointError(f"there is no finished run in {out}/; name a run's folder")
    return max(finished, key=lambda path: path.stat().st_mtime).parent


def newest_started(out: Path) -> Path:
    """The run below `out` that was worked on last, finished or not.

    Raises:
        CheckpointError: there is none.
    """
    started = [
        path.parent for path in out.glob("*/config.toml") if not path.parent.name.startswith(".")
    ]
    if not started:
        raise CheckpointError(f"there is no run in {out}/; name a run's folder")

    def worked_on(folder: Path) -> float:
        written = [folder / name for name in (CONFIG, METRICS, RESULT)]
        return max(path.stat().st_mtime for path in written if path.exists())

    return max(started, key=worked_on)


def read_json(path: Path) -> Record:
    """Read a JSON object.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        why = another_kind(path, "a record of a run", "json text") or why_unreadable(error)
        raise CheckpointError(f"{path} cannot be read: {why}") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged: expected a JSON object")
    return record


def coefficient_range(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Smallest and largest coefficient of each modality over the run, and the median of the epochs' medians."""
    epochs = [epoch["coefficients"] for epoch in metrics.epochs if "coefficients" in epoch]
    if not epochs:
        return {}
    return {
        modality: {
            "min": min(float(epoch[modality]["min"]) for epoch in epochs),
            "median": median(float(epoch[modality]["median"]) for epoch in epochs),
            "max": max(float(epoch[modality]["max"]) for epoch in epochs),
        }
        for modality in epochs[0]
    }
