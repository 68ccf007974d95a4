"""MNIST's own file format (IDX), gzipped or not, under the names that its distributors give the files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import GZIP, IDX, kind_of, unreadable

FOLDERS = (".", "MNIST/raw", "raw")
"""Where the files lie below the folder that a user names: in it, or where torchvision puts them (`MNIST/raw`)."""
_UNSIGNED_BYTE = 0x08


def find_idx(folder: Path, stems: tuple[str, ...]) -> dict[str, Path]:
    """The files of a data set in IDX, all of one folder.

    Their names may have a dot in the place of the dash before "idx" and end with .gz, and archives of Kaggle hold each
    in a folder of its own name.

    Args:
        folder: what the user names: the folder of the files, or the one that torchvision downloads to.
        stems: names of the files as published, such as train-images-idx3-ubyte.

    Raises:
        DataError: some are missing; says which, and where it looked.
    """
    places = [folder / place for place in FOLDERS]
    for place in places:
        found = {stem: path for stem in stems if (path := _named(place, stem)) is not None}
        missing = [stem for stem in stems if stem not in found]
        if found and missing:
            raise DataError(
                f"{place / missing[0]} is missing, gzipped or not, though {next(iter(found.values()))} is there"
            )
        if found:
            return found
    looked = ", ".join(str(place) for place in places)
    raise DataError(f"{folder / stems[0]} is missing, gzipped or not: looked in {looked}")


def _named(place: Path, stem: str) -> Path | None:
    dotted = stem.replace("-idx", ".idx")
    names = [f"{name}{ending}" for name in (stem, dotted) for ending in ("", ".gz")]
    candidates = [
        *(place / name for name in names),
        *(place / name / inner for name in names for inner in names),
    ]
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """Read a file of unsigned bytes.

    Args:
        path: the file; whether it is gzipped is seen from its content, as browsers unpack what they fetch.
        axes: how many the array has.

    Raises:
        DataError: the file is missing, truncated, not IDX, or of other axes.
    """
    try:
        content = path.read_bytes()
        if kind_of(path) == GZIP:
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read: truncated, or not gzip ({error}); fetch it again"
        ) from None
    if (
        len(content) < 4 + 4 * axes
        or content[:2] != b"\0\0"
        or content[2] != _UNSIGNED_BYTE
        or content[3] != axes
    ):
        expected = f"an IDX file of bytes with {axes} axes"
        raise DataError(
            unreadable(
                path,
                expected,
                f"{IDX.group} {GZIP.group}",
                f"it begins with {content[:4].hex(' ')}",
            )
        )
    shape: tuple[Any, ...] = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
    if len(values) != math.prod(shape):
        raise DataError(
            f"{path} is truncated: {len(values)} of {math.prod(shape)} values; fetch it again"
        )
    return values.reshape(shape)
