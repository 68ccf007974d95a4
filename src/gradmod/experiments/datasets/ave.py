"""AVE: events that are seen and heard, a class for every second (see docs/datasets/ave.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.folders import files_in
from gradmod.experiments.datasets.problems import Problems
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import ArraySource, Indices, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import another_kind, check_there

if TYPE_CHECKING:
    import h5py

FEATURES = "avadataset"
ORDER = "order"
SEGMENTS, CLASSES, BACKGROUND = 10, 29, 28
FILES = {
    "audio": ("audio_feature.h5", (SEGMENTS, 128)),
    "visual": ("visual_feature.h5", (SEGMENTS, 7, 7, 512)),
}
LABEL_FILES = ("right_labels.h5", "right_label.h5", "labels.h5", "label.h5")
"""Names of the labels' file: in AGM's and PSP's code, in PSP's instructions, in the data set's own repository."""
PREDICTOR_SHARE = 10


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Open the data set; the visual features (4 GB, 8 GB in float64) stay on disk.

    Inputs: `audio` [10, 128], `visual` [10, 7, 7, 512], and `event` [10], 1 where the label is no background, for the
    network's similarity loss; targets [10].

    Args:
        root: folder with the h5 files.
        protocol: `heldout`: train without a tenth, val, test, and that tenth as predictor. `published`: train, and val
            as evaluation split; no predictor.
        split_seed: of `heldout`.

    Raises:
        DataError: a file is missing, truncated, of another shape, or holds what it should not.
    """
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise DataError(dataset_info("ave").where_it_looked(root))
    audio = np.asarray(
        H5Array(folder / FILES["audio"][0], FEATURES, (None, *FILES["audio"][1])).all()
    )
    visual = H5Array(folder / FILES["visual"][0], FEATURES, (None, *FILES["visual"][1]))
    counts = {"audio": len(audio), "visual": len(visual)}
    if len(set(counts.values())) > 1:
        raise DataError(f"{folder} holds {counts} samples; expected the same number of each")
    problems = Problems()
    for bad in np.flatnonzero(~np.isfinite(audio).reshape(len(audio), -1).all(1)):
        problems.add(f"{folder / FILES['audio'][0]}: sample {bad} holds values that are not finite")
    with problems.kept():
        targets, notes = labels_in(folder, len(audio))
    with problems.kept():
        train, val, test = orders(folder, len(audio))
    problems.raise_any()
    event = (targets != BACKGROUND).astype(np.float32)
    whole = Split(
        {
            "audio": ArraySource(audio, FILES["audio"][1]),
            "visual": visual,
            "event": ArraySource(event, (SEGMENTS,)),
        },
        targets,
    )
    unlisted = len(whole) - len(train) - len(val) - len(test)
    if unlisted:
        notes += (
            f"{unlisted} samples are in none of train_order.h5, val_order.h5 and test_order.h5: left out",
        )
    if protocol == PUBLISHED:
        return Splits(whole.subset(train), whole.subset(val), None, None, notes)
    order = np.random.default_rng(split_seed).permutation(train)
    held, kept = np.split(order, [len(train) // PREDICTOR_SHARE])
    if not len(held):
        raise DataError(
            f"{folder}: train has {len(train)} samples; expected at least {PREDICTOR_SHARE}"
        )
    return Splits(
        whole.subset(np.sort(kept)),
        whole.subset(val),
        whole.subset(test),
        whole.subset(np.sort(held)),
        notes,
    )


def labels_in(folder: Path, samples: int) -> tuple[Indices, tuple[str, ...]]:
    """The classes of every segment, from the one of `LABEL_FILES` that holds them.

    What a file holds decides, not its name; where several are right, the first in the order of `LABEL_FILES`.

    Args:
        folder: where they lie.
        samples: as many as the features are of.

    Returns:
        [samples, 10] classes; and which file was taken, with what speaks against the others, in words.

    Raises:
        DataError: none is there, none holds a class of 29 for every segment, or one is locked.
    """
    right: dict[str, Indices] = {}
    wrong: dict[str, DataError] = {}
    for name in LABEL_FILES:
        path = folder / name
        if path.is_file():
            try:
                right[name] = _classes_in(path, samples)
            except UnavailableError:
                raise  # what it holds may be right, so no other file stands in for it
            except DataError as error:
                wrong[name] = error
    if not right and not wrong:
        others = sorted(path.name for path in files_in(folder, "*label*.h5"))
        raise DataError(
            f"{folder / LABEL_FILES[0]} is missing, as are {', '.join(LABEL_FILES[1:])}, the other names of the labels"
            + (f"; {', '.join(others)}: no labels of segments" if others else "")
        )
    if not right:
        problems = Problems()
        for refusal in wrong.values():
            problems.add(refusal)
        problems.raise_any()
    taken, *rest = right
    notes = [f"the labels are those of {taken}"]
    for name in rest:
        differing = int((right[name] != right[taken]).sum())
        total = right[taken].size
        notes.append(
            f"{name} was not read: "
            + (
                f"its labels differ for {differing} of {total} segments"
                if differing
                else "it holds the same labels"
            )
        )
    notes += [f"{name} was not read: {reason}" for name, reason in wrong.items()]
    return right[taken], tuple(notes)


def _classes_in(path: Path, samples: int) -> Indices:
    one_hot = np.asarray(H5Array(path, FEATURES, (None, SEGMENTS, CLASSES)).all())
    if len(one_hot) != samples:
        raise DataError(
            f"{path} holds labels of {len(one_hot)} samples, the features are of {samples}; expected the same"
        )
    problems = Problems()
    for wrong in np.flatnonzero(
        ~(np.isin(one_hot, (0, 1)).all((1, 2)) & (one_hot.sum(2) == 1).all(1))
    ):
        problems.add(
            f"{path}: sample {wrong} is not one-hot; expected one class of {CLASSES} a segment"
        )
    problems.raise_any()
    return np.asarray(one_hot.argmax(2), dtype=np.int64)


def orders(folder: Path, samples: int) -> tuple[Indices, Indices, Indices]:
    """Which samples are in train, val and test.

    Raises:
        DataError: an index is out of range, twice, or in two of them.
    """
    problems, parts = Problems(), []
    owner: dict[int, str] = {}
    for name in ("train", "val", "test"):
        path = folder / f"{name}_order.h5"
        with problems.kept():
            found = np.asarray(H5Array(path, ORDER, (None,)).all())
            whole = (
                np.isfinite(found) & (found == np.floor(found)) & (found >= 0) & (found < samples)
            )
            for value in found[~whole]:
                problems.add(f"{path} holds {value}; expected whole numbers 0 to {samples - 1}")
            indices = found[whole].astype(np.int64)
            for index in indices.tolist():
                if index in owner:
                    problems.add(
                        f"{path}: sample {index} is in {owner[index]} already; expected every sample once"
                    )
                owner[index] = name
            parts.append(indices)
    problems.raise_any()
    return parts[0], parts[1], parts[2]


class UnavailableError(DataError):
    """A sound file cannot be opened just now: it is locked, or the system refuses it."""


class H5Array:
    """An array in an HDF5 file, as a source: read row by row, opened anew in every process.

    Args:
        path: the file.
        key: of the array in it.
        shape: what is expected; None stands for any number.

    Raises:
        UnavailableError: the file is locked, or the system refuses to open it.
        DataError: it is missing, truncated, not HDF5, lacks the key, or the array is of another shape or no array of
            numbers.
    """

    def __init__(self, path: Path, key: str, shape: tuple[int | None, ...]) -> None:
        self._path, self._key = path, key
        self._opened: tuple[int, h5py.Dataset] | None = None
        array = self._array()
        if array.dtype.kind not in "uifb":
            raise DataError(f"{path}: {key} holds {array.dtype}; expected an array of numbers")
        if len(array.shape) != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, array.shape, strict=False)
        ):
            wanted = ", ".join("N" if want is None else str(want) for want in shape)
            raise DataError(f"{path}: {key} has shape {list(array.shape)}; expected [{wanted}]")
        if not array.shape[0]:
            raise DataError(f"{path}: {key} is empty: it holds no sample")
        self._length, self.shape = int(array.shape[0]), tuple(int(n) for n in array.shape[1:])

    def __len__(self) -> int:
        return self._length

    def all(self) -> npt.NDArray[Any]:
        """The whole array, in memory."""
        return self._read(slice(None))

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32. Nothing is drawn.

        Raises:
            DataError: the file is damaged there, or a value is not finite.
        """
        values = np.stack([self._read(int(row)) for row in rows]).astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(values).reshape(len(rows), -1).all(1))
        if len(bad):
            raise DataError(f"{self._path}: sample {rows[bad[0]]} holds values that are not finite")
        return torch.from_numpy(values)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _read(self, where: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(self._array()[where])
        except (OSError, RuntimeError, ValueError) as error:
            raise self._refusal(error, "truncated or damaged") from None

    def _array(self) -> h5py.Dataset:
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        import h5py

        if self._opened is not None:
            # A forked process: what it opens while it has the parent's handle is the parent's handle again.
            self._opened[1].file.close()
            self._opened = None
        check_there(self._path)
        try:
            array = h5py.File(self._path, "r").get(self._key)
        except (OSError, RuntimeError) as error:
            raise self._refusal(error, "truncated, or not an HDF5 file") from None
        if not isinstance(array, h5py.Dataset):
            raise DataError(f"{self._path} lacks the array {self._key!r}")
        self._opened = (os.getpid(), array)
        return array

    def _refusal(self, error: Exception, otherwise: str) -> DataError:
        """What to say of an error that HDF5 raised; a sound file must not be called damaged."""
        if isinstance(error, DataError):
            return error
        reason = " ".join(str(error).split())
        if "unable to lock file" in reason:
            return UnavailableError(
                f"{self._path} is locked: another program has it open for writing, or its file system has no locks. "
                "Close that program; or, if nothing writes to the file, set HDF5_USE_FILE_LOCKING=FALSE in the "
                f"environment ({reason})"
            )
        if "already open for write" in reason:
            return UnavailableError(
                f"{self._path} is marked as open for writing: a program writes to it, or was stopped while it "
                f"did. Close that program; if there is none, remove the mark with h5clear -s {self._path} ({reason})"
            )
        if "is not registered" in reason or "lib/plugin" in reason:
            return DataError(
                f"{self._path}: {self._key} is compressed in a way that h5py cannot undo here ({reason}); write the "
                "file anew with gzip, or without compression"
            )
        if isinstance(error, OSError) and error.errno:
            return UnavailableError(
                f"{self._path} cannot be opened: {os.strerror(error.errno)} ({reason})"
            )
        other = another_kind(self._path, "an HDF5 file", "hdf5")
        return DataError(
            f"{self._path} cannot be read: {other or f'{otherwise} ({reason}); fetch it again'}"
        )
