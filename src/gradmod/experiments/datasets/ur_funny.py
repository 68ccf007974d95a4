"""UR-Funny: is a moment of a talk funny? Vision, audio and text in one pickle (docs/datasets/ur-funny.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.npy import check_labels, open_array
from gradmod.experiments.datasets.pickles import load_pickle
from gradmod.experiments.datasets.prepared import verified_manifest
from gradmod.experiments.datasets.problems import Problems
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import Indices, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError

Array = npt.NDArray[Any]
PARTS = ("train", "valid", "test")
KEYS = {"visual": "vision", "audio": "audio", "text": "text"}
SIZES = {"visual": 371, "audio": 81, "text": 300}
"""Features of a row: OpenFace's, COVAREP's and GloVe's."""
LABELS = ({0.0, 1.0}, {-1.0, 1.0})
"""What the labels of a file may be: not funny and funny."""
MUSTARD = 690
"""Samples of MUStARD (is it sarcasm?), which MultiBench packs with the same sizes and labels."""
PREDICTOR_SHARE = 10


def load(root: str, protocol: str, split_seed: int, *, aligned: bool = True) -> Splits:
    """Read the pickle, all of which is kept in memory; or memory-map what `gradmod prepare` made of it.

    Inputs, for each modality {"x": [n, T, features] float32, "mask": [n, T] bool}: padded with zeros to the longest
    sample of the batch, the mask true where there is something.

    Args:
        root: the pickle, or the folder made of it.
        protocol: `heldout`: train without a tenth, valid, test, and that tenth as predictor. `published`: train, valid
            as evaluation split, test as predictor.
        split_seed: of `heldout`.
        aligned: True: the rows before the first word are cut from all three modalities; False: from each the rows
            before its own first one that is not zero.

    Raises:
        DataError: the file is missing, damaged, would run code, or does not hold what it should.
    """
    path = Path(root).expanduser()
    manifest = verified_manifest(path, "ur-funny") if root else None
    if manifest is None and (not root or not path.is_file()):
        raise DataError(dataset_info("ur-funny").where_it_looked(root))
    content = (
        Content.of_pickle(path)
        if manifest is None
        else Content.of_arrays(path, manifest["sizes"], tuple(manifest.get("notes", ())))
    )
    spoken = content.begins["text"]
    sources = {
        modality: Sequences(array, spoken if aligned else content.begins[modality])
        for modality, array in content.inputs.items()
    }
    whole = Split(sources, content.labels)
    train, valid, test = np.split(np.arange(len(content.labels)), np.cumsum(content.sizes)[:2])
    if protocol == PUBLISHED:
        return Splits(
            whole.subset(train), whole.subset(valid), None, whole.subset(test), content.notes
        )
    order = np.random.default_rng(split_seed).permutation(train)
    held, kept = np.split(order, [len(train) // PREDICTOR_SHARE])
    if not len(held):
        raise DataError(
            f"{path}: train has {len(train)} samples; expected at least {PREDICTOR_SHARE}"
        )
    return Splits(
        whole.subset(np.sort(kept)),
        whole.subset(valid),
        whole.subset(test),
        whole.subset(np.sort(held)),
        content.notes,
    )


@dataclass(frozen=True)
class Content:
    """The samples that have text, those of train first, then valid, then test.

    Attributes:
        inputs: {modality: [N, T, features] float32}.
        begins: {modality: [N]} first row of each sample that is not all zero.
        labels: [N] 0 or 1.
        sizes: samples of train, valid and test.
        notes: what was seen while reading that the user should know.
    """

    inputs: dict[str, Array]
    begins: dict[str, Indices]
    labels: Indices
    sizes: list[int]
    notes: tuple[str, ...] = ()

    @classmethod
    def of_pickle(cls, path: Path) -> Content:
        """Read it as published.

        Raises:
            DataError: the file is missing, damaged, would run code, or does not hold what it should.
        """
        content = load_pickle(path)
        if not isinstance(content, dict) or not set(PARTS) <= set(content):
            found = (
                sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            )
            raise DataError(f"{path} holds {found}; expected a dict with {', '.join(PARTS)}")
        problems = Problems()
        parts = [_part(path, part, content[part], problems) for part in PARTS]
        problems.raise_any()
        values = np.unique(np.concatenate([labels for _, labels in parts]))
        if not any(set(values.tolist()) <= allowed for allowed in LABELS):
            some = ", ".join(f"{value:g}" for value in values[:5]) + (
                ", ..." if len(values) > 5 else ""
            )
            raise DataError(
                f"{path}: the labels are {len(values)} numbers from {values[0]:g} to {values[-1]:g} ({some}); expected "
                "0 and 1, or -1 and 1. MultiBench packs MOSI and MOSEI, whose labels are sentiments, in the same form"
            )
        notes = ["labels -1 and 1 are read as 0 and 1"] if values[0] < 0 else []
        if sum(len(labels) for _, labels in parts) == MUSTARD:
            notes.append(
                f"{MUSTARD} samples: as many as MUStARD has, MultiBench's sarcasm.pkl, which has this form too"
            )
        spoken = [np.any(part["text"] != 0, axis=(1, 2)) for part, _ in parts]
        for name, kept in zip(PARTS, spoken, strict=True):
            if not kept.any():
                raise DataError(f"{path}: {name} holds no sample with text")
        silent = sum(int((~kept).sum()) for kept in spoken)
        if silent:
            notes.append(f"{silent} samples left out, whose text is all zeros")
        inputs = {
            m: _stack(
                path, m, [part[m][kept] for (part, _), kept in zip(parts, spoken, strict=True)]
            )
            for m in KEYS
        }
        labels = [
            (labels[kept] >= 1).astype(np.int64)
            for (_, labels), kept in zip(parts, spoken, strict=True)
        ]
        if len(np.unique(labels[0])) < 2:
            raise DataError(
                f"{path}: all {len(labels[0])} samples of train have one label; expected two"
            )
        begins = {m: _first_row(array) for m, array in inputs.items()}
        return cls(
            inputs, begins, np.concatenate(labels), [len(part) for part in labels], tuple(notes)
        )

    @classmethod
    def of_arrays(cls, folder: Path, sizes: list[int], notes: tuple[str, ...] = ()) -> Content:
        """Memory-map it as prepared.

        Args:
            folder: where it lies.
            sizes: of its manifest.
            notes: of its manifest.

        Raises:
            DataError: a file is missing or damaged, or they do not go together.
        """
        inputs = {m: open_array(folder / f"{m}.npy", (None, None, SIZES[m])) for m in KEYS}
        begins = {
            m: np.asarray(open_array(folder / f"{m}_begins.npy", (None,)), dtype=np.int64)
            for m in KEYS
        }
        labels = np.asarray(open_array(folder / "labels.npy", (None,)), dtype=np.int64)
        counts = {len(labels), sum(sizes), *map(len, inputs.values()), *map(len, begins.values())}
        if len(counts) > 1 or any((begins[m] >= inputs[m].shape[1]).any() for m in KEYS):
            raise DataError(
                f"{folder} holds {sorted(counts)} samples in its files; expected one number. Prepare it again"
            )
        check_labels(folder / "labels.npy", labels, 2, len(labels))
        return cls(inputs, begins, labels, sizes, notes)

    def save(self, folder: Path) -> None:
        """Write it so that `of_arrays` finds it."""
        for modality, array in self.inputs.items():
            np.save(folder / f"{modality}.npy", array)
            np.save(folder / f"{modality}_begins.npy", self.begins[modality])
        np.save(folder / "labels.npy", self.labels)


@dataclass(frozen=True)
class Sequences:
    """Sequences of different lengths, padded to the longest of a batch.

    Attributes:
        array: [N, T, features], every sample at the end of its T rows, zeros before it.
        begins: [N] first row of each sample.
    """

    array: Array
    begins: Indices

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(features,): the length differs from batch to batch."""
        return (self.array.shape[2],)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> dict[str, Tensor]:
        """{"x": [n, longest, features], "mask": [n, longest]}; nothing is drawn."""
        lengths = self.array.shape[1] - self.begins[rows]
        x = np.zeros((len(rows), int(lengths.max()), self.array.shape[2]), dtype=np.float32)
        for position, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            x[position, :length] = self.array[row, self.begins[row] :]
        mask = np.arange(x.shape[1]) < lengths[:, None]
        return {"x": torch.from_numpy(x), "mask": torch.from_numpy(mask)}


def _part(path: Path, name: str, part: Any, problems: Problems) -> tuple[dict[str, Array], Array]:
    """One part's inputs {modality: [N, T, features] float32} and its labels [N]."""
    if not isinstance(part, dict) or not {*KEYS.values(), "labels"} <= set(part):
        raise DataError(f"{path}: {name} lacks some of {', '.join((*KEYS.values(), 'labels'))}")
    inputs = {modality: _array(path, name, key, part[key]) for modality, key in KEYS.items()}
    labels = _array(path, name, "labels", part["labels"])
    counts = {key: len(inputs[modality]) for modality, key in KEYS.items()} | {
        "labels": len(labels)
    }
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: {name} has {counts} samples; expected the same number of each")
    for modality, array in inputs.items():
        if array.ndim != 3 or array.dtype.kind not in "fiu" or not array.shape[1]:
            raise DataError(
                f"{path}: {name}/{KEYS[modality]} has shape {list(array.shape)} and dtype {array.dtype}; expected "
                "numbers [N, T, features]"
            )
    found = {modality: array.shape[2] for modality, array in inputs.items()}
    if found != SIZES:
        sizes = [
            ", ".join(f"{KEYS[m]} {size}" for m, size in each.items()) for each in (found, SIZES)
        ]
        raise DataError(
            f"{path}: {name} has {sizes[0]} features; those of UR-Funny are {sizes[1]}. Is it another data set of this "
            "form (MOSI, MOSEI)? Features of your own are read by a function of your own: --dataset FILE.py:FUNCTION"
        )
    inputs["audio"] = np.where(np.isneginf(inputs["audio"]), 0, inputs["audio"])
    with np.errstate(over="ignore"):
        inputs = {
            modality: array.astype(np.float32, copy=False) for modality, array in inputs.items()
        }
    for modality, array in inputs.items():
        for bad in np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1)):
            problems.add(
                f"{path}: {name}/{KEYS[modality]}: sample {bad} holds values that are not finite"
            )
    if (
        labels.dtype.kind not in "iufb"
        or labels.size != len(labels)
        or not np.isfinite(labels).all()
    ):
        raise DataError(
            f"{path}: {name}/labels has shape {list(labels.shape)} and dtype {labels.dtype}; expected one finite "
            "number a sample"
        )
    return inputs, labels.reshape(-1).astype(np.float64)


def _array(path: Path, name: str, key: str, value: Any) -> Array:
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(
            f"{path}: {name}/{key} holds samples of different shapes; expected one shape"
        ) from None
    if not array.ndim or not len(array):
        raise DataError(
            f"{path}: {name}/{key} holds {type(value).__name__}; expected an array of samples, at least one"
        )
    return array


def _stack(path: Path, modality: str, arrays: list[Array]) -> Array:
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise DataError(
            f"{path}: {KEYS[modality]} has samples of the shapes {sorted(shapes)}; expected one for all parts"
        )
    return np.concatenate(arrays).astype(np.float32, copy=False)


def _first_row(array: Array) -> Indices:
    """[N] the first row of each sample that is not all zero; the last row where there is none."""
    filled = np.any(array != 0, axis=2)
    return np.asarray(np.where(filled.any(1), filled.argmax(1), array.shape[1] - 1), dtype=np.int64)
