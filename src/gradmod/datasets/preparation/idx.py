"""MNIST's own file format (IDX), gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(folder: Path, stem: str, axes: int) -> npt.NDArray[np.uint8]:
    """Read `stem` or `stem`.gz.

    Args:
        folder: where it lies.
        stem: name of the file without .gz, such as train-images-idx3-ubyte.
        axes: how many the array has.

    Raises:
        DataError: the file is missing, truncated, not IDX, or of other axes.
    """
    path = next((p for p in (folder / f"{stem}.gz", folder / stem) if p.is_file()), None)
    if path is None:
        raise DataError(f"{folder / stem}.gz is missing")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: truncated, or not gzip ({error}); fetch it again") from None
    if len(content) < 4 + 4 * axes or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or content[3] != axes:
        raise DataError(f"{path} is no IDX file of bytes with {axes} axes; fetch it again")
    shape: tuple[Any, ...] = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if len(values) != int(np.prod(shape)):
        raise DataError(f"{path} is truncated: {len(values)} of {int(np.prod(shape))} values; fetch it again")
    return values.reshape(shape)
