"""AVE: events that are seen and heard, a class for every second (see docs/datasets/ave.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.datasets.registry import PUBLISHED, dataset_info
from gradmod.datasets.samples import ArraySource, Indices, Split
from gradmod.datasets.splits import Splits
from gradmod.errors import DataError
from gradmod.file_kinds import check_there, unreadable

if TYPE_CHECKING:
    import h5py

FEATURES = "avadataset"
ORDER = "order"
SEGMENTS, CLASSES, BACKGROUND = 10, 29, 28
FILES = {
    "audio": ("audio_feature.h5", (SEGMENTS, 128)),
    "visual": ("visual_feature.h5", (SEGMENTS, 7, 7, 512)),
    "labels": ("right_labels.h5", (SEGMENTS, CLASSES)),
}
PREDICTOR_SHARE = 10


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Open the data set; the visual features (4 GB) stay on disk.

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
    audio = np.asarray(H5Array(folder / FILES["audio"][0], FEATURES, (None, *FILES["audio"][1])).all())
    visual = H5Array(folder / FILES["visual"][0], FEATURES, (None, *FILES["visual"][1]))
    label_path = folder / FILES["labels"][0]
    one_hot = np.asarray(H5Array(label_path, FEATURES, (None, SEGMENTS, CLASSES)).all())
    counts = {"audio": len(audio), "visual": len(visual), "labels": len(one_hot)}
    if len(set(counts.values())) > 1:
        raise DataError(f"{folder} holds {counts} samples; expected the same number of each")
    bad = np.flatnonzero(~np.isfinite(audio).reshape(len(audio), -1).all(1))
    if len(bad):
        raise DataError(f"{folder / FILES['audio'][0]}: sample {bad[0]} holds values that are not finite")
    wrong = np.flatnonzero(~(np.isin(one_hot, (0, 1)).all((1, 2)) & (one_hot.sum(2) == 1).all(1)))
    if len(wrong):
        raise DataError(f"{label_path}: sample {wrong[0]} is not one-hot; expected one class of {CLASSES} a segment")
    targets = one_hot.argmax(2).astype(np.int64)
    event = (targets != BACKGROUND).astype(np.float32)
    whole = Split(
        {"audio": ArraySource(audio, FILES["audio"][1]), "visual": visual, "event": ArraySource(event, (SEGMENTS,))},
        targets,
    )
    train, val, test = orders(folder, len(whole))
    if protocol == PUBLISHED:
        return Splits(whole.subset(train), whole.subset(val), None, None)
    order = np.random.default_rng(split_seed).permutation(train)
    held, kept = np.split(order, [len(train) // PREDICTOR_SHARE])
    if not len(held):
        raise DataError(f"{folder}: train has {len(train)} samples; expected at least {PREDICTOR_SHARE}")
    return Splits(whole.subset(np.sort(kept)), whole.subset(val), whole.subset(test), whole.subset(np.sort(held)))


def orders(folder: Path, samples: int) -> tuple[Indices, Indices, Indices]:
    """Which samples are in train, val and test.

    Raises:
        DataError: an index is out of range, twice, or in two of them.
    """
    parts = []
    owner: dict[int, str] = {}
    for name in ("train", "val", "test"):
        path = folder / f"{name}_order.h5"
        indices = np.asarray(H5Array(path, ORDER, (None,)).all())
        if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= samples:
            raise DataError(
                f"{path} holds {indices.min()} to {indices.max()}; expected whole numbers 0 to {samples - 1}"
            )
        for index in indices.tolist():
            if index in owner:
                raise DataError(f"{path}: sample {index} is in {owner[index]} already; expected every sample once")
            owner[index] = name
        parts.append(indices.astype(np.int64))
    return parts[0], parts[1], parts[2]


class H5Array:
    """An array in an HDF5 file, as a source: read row by row, opened anew in every process.

    Args:
        path: the file.
        key: of the array in it.
        shape: what is expected; None stands for any number.

    Raises:
        DataError: the file is missing, truncated, not HDF5, lacks the key, or the array is of another shape or no array
            of numbers.
    """

    def __init__(self, path: Path, key: str, shape: tuple[int | None, ...]) -> None:
        self._path, self._key = path, key
        self._opened: tuple[int, h5py.Dataset] | None = None
        array = self._array()
        if array.dtype.kind not in "uif":
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
            reason = " ".join(str(error).split())
            raise DataError(f"{self._path} cannot be read: truncated or damaged ({reason}); fetch it again") from None

    def _array(self) -> h5py.Dataset:
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        import h5py

        check_there(self._path)
        try:
            array = h5py.File(self._path, "r").get(self._key)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(unreadable(self._path, "an HDF5 file", "hdf5", reason)) from None
        if not isinstance(array, h5py.Dataset):
            raise DataError(f"{self._path} lacks the array {self._key!r}")
        self._opened = (os.getpid(), array)
        return array
