"""Opening .npy files: memory-mapped, never executing anything, and refusing what is damaged in clear words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import check_kind, unreadable

NUMBERS = "an .npy file of numbers"


def open_array(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """Memory-map an array.

    Args:
        path: the file.
        shape: what is expected; None stands for any number.

    Raises:
        DataError: the file is missing, truncated, not an array of numbers, or of another shape.
    """
    check_kind(path, NUMBERS, "npy")  # np.load takes archives, too
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header is parsed as Python, and raises nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(unreadable(path, NUMBERS, "npy", reason)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
        raise DataError(
            f"{path} holds {getattr(array, 'dtype', type(array).__name__)}; expected an array of numbers"
        )
    if array.ndim != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=False)
    ):
        wanted = ", ".join("N" if want is None else str(want) for want in shape)
        raise DataError(f"{path} has shape {list(array.shape)}; expected [{wanted}]")
    if not len(array):
        raise DataError(f"{path} is empty: it holds no sample")
    return array


class GrowingArray:
    """An .npy file that is written a part at a time, its length unknown until the end. A context manager.

    NumPy leaves room in a file's header for any length, so the header is written anew when the file is closed.

    Args:
        path: the file.
        dtype: of the values.
        row: shape of a row.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, row: tuple[int, ...] = ()) -> None:
        self._dtype, self._row, self._length = np.dtype(dtype), row, 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write [n, *row] behind what is there.

        Raises:
            ValueError: rows of another shape or type.
        """
        if rows.shape[1:] != self._row or rows.dtype != self._dtype:
            raise ValueError(
                f"rows are {rows.dtype} {rows.shape}; expected {self._dtype} (n, *{self._row})"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self._length += len(rows)

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the length down."""
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        shape = (self._length, *self._row)
        descr: Any = np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": descr, "fortran_order": False, "shape": shape}
        )


def check_labels(path: Path, labels: npt.NDArray[Any], classes: int, samples: int) -> None:
    """Check that there is an integer from 0 to `classes` - 1 for each of `samples` samples.

    Raises:
        DataError: there is not.
    """
    if len(labels) != samples:
        raise DataError(
            f"{path} holds {len(labels)} labels for {samples} samples; expected one for each"
        )
    if labels.dtype.kind == "f" and not (
        np.isfinite(labels).all() and (labels == np.floor(labels)).all()
    ):
        raise DataError(
            f"{path} holds labels that are not whole numbers; expected 0 to {classes - 1}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        raise DataError(
            f"{path} holds labels from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}, and {len(wrong)} "
            f"of {len(labels)} are not, that of sample {wrong[0]} the first"
        )
