"""The data of a run, known again: what a run was trained on stands in its folder, and other data are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradmod.experiments.datasets.fingerprint import FORMAT, Record, differences, record_of
from gradmod.experiments.datasets.registry import DATASETS, dataset_info
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import (
    UNREADABLE,
    CheckpointError,
    ConfigError,
    DataError,
    damage_in,
)
from gradmod.experiments.files import write_json
from gradmod.experiments.methods.registry import read_settings
from gradmod.experiments.own_code import is_own
from gradmod.experiments.runs.names import CONFIG, DATA, METRICS
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import refuse_unnamed_code
from gradmod.experiments.training.parts import read_data

SHOWN_DIFFERENCES = 4


def with_code_named(config: Config, folder: Path, named: Mapping[str, str], root: str) -> Config:
    """The settings of a run with what the user says of it: where its data lie now, and that its code may be run.

    Args:
        config: the run's settings.
        folder: the run's folder.
        named: `dataset`, `model` and `method` again, where they are code of the user's own; it may lie elsewhere now.
            Empty: not named.
        root: where the data lie now; empty: where they were.

    Raises:
        ConfigError: code that is not named; or what is said makes no difference.
    """
    now = {
        "dataset": config.data.dataset,
        "model": config.model.model,
        "method": config.method.method,
    }
    for key, given in named.items():
        if given and not is_own(now[key]):
            raise ConfigError(
                f"--{key} makes no difference: the run {folder} is of {now[key] or 'a network of gradmod'}. For "
                "another one, train another run"
            )
        if given and not is_own(given):
            raise ConfigError(
                f"--{key} is {given!r}; the run {folder} is of {now[key]}, code of its own: name that"
            )
    refuse_unnamed_code(config.sections(), folder / CONFIG, [key for key in named if named[key]])
    now.update({key: given for key, given in named.items() if given})
    info = dataset_info(now["dataset"])
    if root and info.name in DATASETS and not info.layout:
        raise ConfigError(
            f"--root makes no difference: {info.title}, the data of the run {folder}, is embedded"
        )
    method = replace(
        config.method,
        settings=read_settings(now["method"], config.method.settings),
        method=now["method"],
    )
    return replace(
        config,
        data=replace(config.data, dataset=now["dataset"], root=root or config.data.root),
        model=replace(config.model, model=now["model"]),
        method=method,
    )


def read_known_data(config: Config, folder: Path) -> Splits:
    """Read the data of a run, and refuse others than it was trained on.

    Args:
        config: the run's settings, with what the user says of its data.
        folder: the run's folder.

    Raises:
        DataError: they cannot be read, or are other data; says in what they differ.
        CheckpointError: what is known of them is damaged.
    """
    try:
        data = read_data(config)
    except DataError as error:
        where = (
            f", which was looked for from {Path.cwd()}"
            if not Path(config.data.root).is_absolute()
            else ""
        )
        raise DataError(
            f"{error}. The run {folder} was trained on data at {config.data.root!r}{where}; if they were moved, say "
            "where they are: --root"
        ) from None
    expect_known_data(data, folder, config)
    return data


def expect_known_data(data: Splits, folder: Path, config: Config) -> None:
    """Refuse other data than a run was trained on.

    Raises:
        DataError: they are others; says in what they differ.
        CheckpointError: what is known of them is damaged.
    """
    before = known_data(folder)
    if before is None:
        print(
            f"gradmod: note: {folder} is a run of an older version, which kept nothing to know its data by: that they "
            "are the same cannot be checked",
            file=sys.stderr,
        )
        return
    with damage_in(folder / DATA):
        found = differences(before, record_of(data))
    if found:
        more = (
            f"; and {len(found) - SHOWN_DIFFERENCES} more" if len(found) > SHOWN_DIFFERENCES else ""
        )
        raise DataError(
            f"the data at {config.data.root or config.data.dataset!r} differ from those that the run {folder} was "
            f"trained on: {'; '.join(found[:SHOWN_DIFFERENCES])}{more}. Scores on them would mean nothing: parts that "
            "were trained on may be scored. Restore the data, name where they are with --root, or train a new run"
        )
    if "targets" not in next(iter(before["splits"].values()), {}):
        print(
            f"gradmod: note: {folder} is a run of an older version: of its data, sizes and class counts are known, and "
            "are the same",
            file=sys.stderr,
        )


def known_data(folder: Path) -> Record | None:
    """What is known of the data of a run; of one of an older version sizes and class counts, or None.

    Raises:
        CheckpointError: it is damaged, or of a newer version.
    """
    path = folder / DATA
    if not path.is_file():
        return _of_older_version(folder)
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        usable = record["format"] == FORMAT and isinstance(record["splits"], dict)
    except (*UNREADABLE, TypeError, KeyError):
        usable = False
    if not usable:
        raise CheckpointError(
            f"{path} is damaged, or of another version of gradmod: by it the run knows its data. Restore it"
        )
    return dict(record)


def save_known_data(folder: Path, data: Splits) -> None:
    """Keep what a run's data are known by, where an older version did not."""
    if not (folder / DATA).is_file():
        write_json(folder / DATA, record_of(data))


def _of_older_version(folder: Path) -> Record | None:
    try:
        with (folder / METRICS).open(encoding="utf-8") as file:
            start = json.loads(file.readline())
        sizes, counts = start["splits"], start["class_counts"]
        return {"splits": {m: {"samples": sizes[m], "classes": counts.get(m)} for m in sizes}}
    except (*UNREADABLE, TypeError, KeyError, AttributeError):
        return None
