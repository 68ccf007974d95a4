"""The arrays of an .npz file: never executing anything, and those that are not compressed stay on disk."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import check_kind, unreadable

EXPECTED = "an .npz file of arrays"
_LOCAL_HEADER = 30
"""Bytes before the name of a member; the lengths of its name and of what follows it are the last four of them."""
_ENCRYPTED = 1
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class NpzFile:
    """An .npz file that was looked into.

    Attributes:
        path: the file.
        members: its arrays by name, none of them read yet.
    """

    path: Path
    members: Mapping[str, zipfile.ZipInfo]

    @classmethod
    def open(cls, path: Path) -> NpzFile:
        """Look which arrays a file holds.

        Raises:
            DataError: it is missing, is another file, or is damaged.
        """
        check_kind(path, EXPECTED, "npz")
        try:
            with zipfile.ZipFile(path) as archive:
                found = archive.infolist()
        except Exception as error:  # a damaged archive raises nearly anything
            raise DataError(unreadable(path, EXPECTED, "npz", _reason(error))) from None
        return cls(
            path,
            {
                info.filename.removesuffix(".npy"): info
                for info in found
                if info.filename.endswith(".npy")
            },
        )

    def read(self, name: str) -> npt.NDArray[Any]:
        """One array: memory-mapped, or in memory where the file is compressed.

        Raises:
            DataError: it is damaged, or holds objects, which only a pickle holds.
        """
        info = self.members[name]
        try:
            array = self._read(info)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.path / name} cannot be read: truncated or damaged ({_reason(error)}); make the file again"
            ) from None
        if array is None:
            raise DataError(
                f"{self.path / name} holds objects, which take a pickle, and none is read: it could run code. Save "
                "texts as np.array(texts, dtype=str), and samples of different lengths cut or padded to one shape"
            )
        return array

    def _read(self, info: zipfile.ZipInfo) -> npt.NDArray[Any] | None:
        """None: it holds objects."""
        with zipfile.ZipFile(self.path) as archive:
            with archive.open(info) as file:
                shape, in_columns, dtype = _header(file)
                size = int(np.prod(shape, dtype=object)) * dtype.itemsize
                if dtype.hasobject:
                    return None
                if file.tell() + size != info.file_size:
                    raise ValueError(f"{size} bytes of values expected")
                header = file.tell()
            is_plain = info.compress_type == zipfile.ZIP_STORED
            if not is_plain or info.flag_bits & _ENCRYPTED or not size:
                with archive.open(info) as file:
                    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
        begin = self._beginning(info) + header
        return np.memmap(self.path, dtype, "r", begin, shape, "F" if in_columns else "C")

    def _beginning(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin; the directory at the end of an archive does not say it."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
        return info.header_offset + _LOCAL_HEADER + int(name) + int(extra)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the array that a file begins with."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array of format {version}")
    return _HEADERS[version](file)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
