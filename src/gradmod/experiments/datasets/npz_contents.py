"""What the arrays of an .npz file are by their names: inputs, labels and groups of its splits, each looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.npz_file import NpzFile
from gradmod.experiments.datasets.own import check_names
from gradmod.experiments.datasets.problems import Problems
from gradmod.experiments.datasets.standardised import chunks
from gradmod.experiments.errors import DataError

Array = npt.NDArray[Any]
LABELS = "y"
PARTS = ("train", "validation", "test")
GROUPS = ("user", "actor", "subject", "speaker", "group")
"""Names of arrays that say who or what a sample is of."""
_PARTS_CALLED_OTHERWISE = {
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "training": "train",
    "testing": "test",
}
_LABELS_CALLED_OTHERWISE = ("label", "labels", "target", "targets", "class", "classes", "Y")
MOST_SHOWN = 5


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        path: the file.
        inputs: by modality, in the order of the file, and split: [N, ...] numbers, all of them finite.
        labels: by split: [N] whole numbers from 0 on, or texts.
        groups: by kind and split: [N] whole numbers or texts.
        ranges: by modality, smallest and largest number.
        notes: what a user should know of it.
    """

    path: Path
    inputs: dict[str, dict[str, Array]]
    labels: dict[str, Array]
    groups: dict[str, dict[str, Array]]
    ranges: dict[str, tuple[float, float]]
    notes: tuple[str, ...]


def read_contents(file: NpzFile) -> Contents:
    """Read what a file holds, and look at all of it.

    Raises:
        DataError: it is not of the form; all that is wrong, at once.
    """
    names = _names(file)
    parts = [part for part in PARTS if part in names[LABELS]]
    problems = Problems()
    labels: dict[str, Array] = {}
    for part in parts:
        with problems.kept():
            labels[part] = _read_labels(file, f"{LABELS}_{part}")
    problems.raise_any()
    _check_classes(file.path, labels)
    groups: dict[str, dict[str, Array]] = {}
    inputs: dict[str, dict[str, Array]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for name in (name for name in names if name != LABELS):
        with problems.kept():
            arrays = {part: file.read(f"{name}_{part}") for part in parts}
            _check_lengths(file.path, name, arrays, labels)
            if name in GROUPS:
                groups[name] = _checked_groups(file.path, name, arrays)
            else:
                inputs[name], ranges[name] = _checked_inputs(file.path, name, arrays)
    problems.raise_any()
    read = {f"{name}_{part}" for name in names for part in parts}
    unread = [name for name in file.members if name not in read]
    note = f"not read, as their names end in no split's: {_some(unread)}"
    return Contents(file.path, inputs, labels, groups, ranges, (note,) if unread else ())


def _names(file: NpzFile) -> dict[str, list[str]]:
    """Names without the split's, each with the splits that it has: labels, groups and modalities."""
    path, problems = file.path, Problems()
    found: dict[str, list[str]] = {}
    for key in file.members:
        name, _, part = key.rpartition("_")
        if name and part in PARTS:
            found.setdefault(name, []).append(part)
        elif name and part.lower() in _PARTS_CALLED_OTHERWISE:
            meant = f"{name}_{_PARTS_CALLED_OTHERWISE[part.lower()]}"
            problems.add(
                f"{path} holds {key!r}; a split's name is one of {_listed(PARTS)}: {meant!r}"
            )
    for part in ("train", "test"):
        if part not in found.get(LABELS, ()):
            others = [
                f"{name}_{part}" for name in _LABELS_CALLED_OTHERWISE if part in found.get(name, ())
            ]
            hint = f": save {others[0]!r} under that name" if others else ""
            problems.add(
                f"{path} lacks '{LABELS}_{part}', the labels of {part}{hint}; it holds "
                f"{_some(list(file.members)) or 'nothing'}"
            )
    problems.raise_any()
    parts = [part for part in PARTS if part in found[LABELS]]
    modalities = [name for name in found if name != LABELS and name not in GROUPS]
    for name, own in found.items():
        if sorted(own) != sorted(parts):
            has, lacks = (
                [
                    f"{name}_{part}"
                    for part in PARTS
                    if (part in own) == there and part in {*own, *parts}
                ]
                for there in (True, False)
            )
            if lacks:
                problems.add(
                    f"{path} holds {_listed(has)} but not {_listed(lacks)}; expected each array in all of "
                    f"{_listed(parts)}"
                )
            else:
                extra = next(part for part in own if part not in parts)
                problems.add(
                    f"{path} holds '{name}_{extra}' but not '{LABELS}_{extra}', its labels"
                )
        if name in _LABELS_CALLED_OTHERWISE:
            problems.add(
                f"{path} holds '{name}_train' beside '{LABELS}_train': by its name it is no input but what is to be "
                "learnt. Leave it out, or call it otherwise"
            )
    if not modalities:
        problems.add(
            f"{path} holds no input; expected '<modality>_train' and '<modality>_test' for each modality, and it holds "
            f"{_some(list(file.members))}"
        )
    else:
        with problems.kept():
            try:
                check_names(modalities, None)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
    problems.raise_any()
    return found


def _read_labels(file: NpzFile, name: str) -> Array:
    where, labels = file.path / name, _as_text(file.path / name, file.read(name))
    if labels.ndim != 1:
        raise DataError(
            f"{where} has the shape {list(labels.shape)}; expected [N], one class for each sample"
        )
    if not len(labels):
        raise DataError(f"{where} is empty: it holds no sample")
    if labels.dtype.kind not in "iubU":
        raise DataError(
            f"{where} holds {labels.dtype}, {_some(labels[:2].tolist())} the first; expected classes: whole numbers "
            "or texts. Classes that are floats are made whole numbers with y.astype(np.int64)"
        )
    below = np.flatnonzero(labels.dtype.kind == "i" and labels < 0)
    if len(below):
        raise DataError(
            f"{where} holds {len(below)} labels below 0 of {len(labels)} (sample {below[0]}: {labels[below[0]]}); "
            "expected classes from 0 on. If they stand for unknown, leave these samples out of all arrays"
        )
    return labels


def _check_classes(path: Path, labels: Mapping[str, Array]) -> None:
    """Every class is in train."""
    _check_alike(path, LABELS, labels)
    known = np.unique(labels["train"])
    for part, of in labels.items():
        strange = ~np.isin(of, known)
        if strange.any():
            raise DataError(
                f"{path / f'{LABELS}_{part}'} has classes that train lacks, which cannot be learnt: "
                f"{_some(np.unique(of[strange]).tolist())}, in {int(strange.sum())} of {len(of)} samples; leave these "
                "samples out, or put some of each class into train"
            )


def _check_alike(path: Path, name: str, arrays: Mapping[str, Array]) -> None:
    """All texts, or all numbers."""
    kinds = {part: "texts" if of.dtype.kind == "U" else "numbers" for part, of in arrays.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{kind} in '{name}_{part}'" for part, kind in kinds.items())
        raise DataError(f"{path} holds {listed}; expected the same in all splits")


def _checked_groups(path: Path, name: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    found = {part: _as_text(path / f"{name}_{part}", array) for part, array in arrays.items()}
    for part, array in found.items():
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise DataError(
                f"{path / f'{name}_{part}'} is {array.dtype} {list(array.shape)}; {name!r} is the name of a group, of "
                f"which [N] whole numbers or texts are expected. An input has another name: '{name}_input_{part}'"
            )
    _check_alike(path, name, found)
    return found


def _checked_inputs(
    path: Path, name: str, arrays: Mapping[str, Array]
) -> tuple[dict[str, Array], tuple[float, float]]:
    """The arrays of a modality, and their smallest and largest number."""
    train = arrays["train"]
    for part, array in arrays.items():
        where = path / f"{name}_{part}"
        if array.dtype.kind not in "iufb":
            hint = {"U": "encode the text as numbers", "S": "encode the text as numbers"}.get(
                array.dtype.kind, "make it numbers"
            )
            raise DataError(f"{where} holds {array.dtype}; expected numbers: {hint} first")
        if not array[:1].size:
            raise DataError(f"{where} has the shape {list(array.shape)}; expected [N, ...] numbers")
        if array.shape[1:] != train.shape[1:]:
            raise DataError(
                f"{where} holds samples of the shape {list(array.shape[1:])} and '{name}_train' of "
                f"{list(train.shape[1:])}; expected the same in all splits"
            )
        if (array.dtype == np.uint8) != (train.dtype == np.uint8):
            raise DataError(
                f"{where} is {array.dtype} and '{name}_train' {train.dtype}; expected the same: bytes are divided by "
                "255, other numbers are standardised"
            )
    if train.dtype == np.uint8:
        return dict(arrays), (0.0, 255.0)
    ranges = [
        _range_of(path / f"{name}_{part}", array) for part, array in arrays.items() if len(array)
    ]
    return dict(arrays), (min(low for low, _ in ranges), max(high for _, high in ranges))


def _range_of(where: Path, array: Array) -> tuple[float, float]:
    """Smallest and largest number.

    Raises:
        DataError: some are not finite; says how many, in how many samples.
    """
    low, high, values, bad = np.inf, -np.inf, 0, []
    start, largest = 0, float(np.finfo(np.float32).max)
    for chunk in chunks(array, np.arange(len(array))):
        flat = chunk.reshape(len(chunk), -1)
        finite = abs(flat) <= largest
        if not finite.all():
            values += int((~finite).sum())
            bad += (start + np.flatnonzero(~finite.all(1))).tolist()
        else:
            low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        start += len(chunk)
    if bad:
        raise DataError(
            f"{where} holds {values} values that are not finite (NaN, infinite, or beyond float32), in {len(bad)} of "
            f"{len(array)} samples: {_some(bad)}; put numbers in their place, or leave these samples out of all arrays"
        )
    return low, high


def _check_lengths(
    path: Path, name: str, arrays: Mapping[str, Array], labels: Mapping[str, Array]
) -> None:
    for part, array in arrays.items():
        if not array.ndim:
            raise DataError(f"{path / f'{name}_{part}'} is a single value; expected [N, ...]")
        if len(array) != len(labels[part]):
            raise DataError(
                f"{path / f'{name}_{part}'} holds {len(array)} samples and '{LABELS}_{part}' {len(labels[part])} "
                "labels; expected one for each"
            )


def _as_text(where: Path, array: Array) -> Array:
    """Bytes as the text that they are; all else as it is."""
    if array.dtype.kind != "S":
        return np.asarray(array)
    try:
        return np.asarray(np.char.decode(array, "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} holds bytes that are not UTF-8 ({error})") from None


def _listed(names: Iterable[str]) -> str:
    *first, last = [repr(name) for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _some(values: list[Any]) -> str:
    more = ", ..." if len(values) > MOST_SHOWN else ""
    return ", ".join(map(str, values[:MOST_SHOWN])) + more
