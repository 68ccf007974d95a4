"""Frames of clips: in image files, or decoded once into memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.images import read_image
from gradmod.experiments.datasets.npy import GrowingArray, open_array
from gradmod.experiments.datasets.split import Indices
from gradmod.experiments.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures(Protocol):
    """Where the frames of clips come from."""

    def __len__(self) -> int:
        """Number of clips."""

    def count(self, clip: int) -> int:
        """Number of frames of a clip."""

    def image(self, clip: int, number: int) -> Image:
        """A frame of a clip."""

    def content(self, clip: int, number: int) -> bytes:
        """What a frame is read from."""


@dataclass(frozen=True)
class PictureFiles:
    """Frames in image files.

    Attributes:
        files: of each clip.
    """

    files: Sequence[Sequence[Path]]

    def __len__(self) -> int:
        return len(self.files)

    def count(self, clip: int) -> int:
        """Number of frames of a clip."""
        return len(self.files[clip])

    def image(self, clip: int, number: int) -> Image:
        """A frame, decoded."""
        return read_image(self.files[clip][number])

    def content(self, clip: int, number: int) -> bytes:
        """The file of a frame."""
        return self.files[clip][number].read_bytes()


@dataclass(frozen=True)
class PictureArrays:
    """Frames in memory-mapped arrays.

    Attributes:
        pixels: [bytes] uint8, all frames one behind the other.
        sizes: [F, 2] height and width of each frame.
        first: [N + 1] first frame of each clip.
        begins: [F + 1] where each frame begins in `pixels`.
    """

    pixels: npt.NDArray[np.uint8]
    sizes: Indices
    first: Indices
    begins: Indices

    @classmethod
    def open(cls, folder: Path) -> PictureArrays:
        """Open `frames.npy`, `frame_sizes.npy` and `first_frames.npy`.

        Raises:
            DataError: a file is missing or damaged, or they do not go together.
        """
        pixels = open_array(folder / "frames.npy", (None,))
        sizes = np.asarray(open_array(folder / "frame_sizes.npy", (None, 2)), dtype=np.int64)
        first = np.asarray(open_array(folder / "first_frames.npy", (None,)), dtype=np.int64)
        begins = np.concatenate([[0], np.cumsum(sizes.prod(axis=1) * 3)])
        if (
            first[0] != 0
            or first[-1] != len(sizes)
            or (np.diff(first) < 1).any()
            or begins[-1] != len(pixels)
        ):
            raise DataError(
                f"{folder}: frames.npy holds {len(pixels)} bytes, frame_sizes.npy {len(sizes)} frames of "
                f"{begins[-1]} bytes and first_frames.npy ends at {first[-1]}; expected the same. Prepare the data "
                "again"
            )
        return cls(pixels, sizes, first, begins)

    def __len__(self) -> int:
        return len(self.first) - 1

    def count(self, clip: int) -> int:
        """Number of frames of a clip."""
        return int(self.first[clip + 1] - self.first[clip])

    def image(self, clip: int, number: int) -> Image:
        """A frame; its pixels are read from the file."""
        from PIL import Image

        frame = self.first[clip] + number
        height, width = self.sizes[frame].tolist()
        return Image.frombuffer(
            "RGB", (width, height), self.pixels[self.begins[frame] : self.begins[frame + 1]]
        )

    def content(self, clip: int, number: int) -> bytes:
        """Size and pixels of a frame."""
        frame = self.first[clip] + number
        pixels = self.pixels[self.begins[frame] : self.begins[frame + 1]]
        return bytes(self.sizes[frame].tobytes() + pixels.tobytes())


class PictureWriter:
    """Writes frames so that `PictureArrays.open` finds them, one frame at a time in memory. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pixels = GrowingArray(folder / "frames.npy", np.uint8)
        self._sizes: list[tuple[int, int]] = []
        self._first = [0]

    def append(self, clip: Iterable[Image]) -> None:
        """Write the frames of the next clip."""
        for image in clip:
            self._pixels.append(np.asarray(image.convert("RGB")).reshape(-1))
            self._sizes.append((image.height, image.width))
        self._first.append(len(self._sizes))

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pixels.close()
        np.save(self._folder / "frame_sizes.npy", np.array(self._sizes, dtype=np.int64))
        np.save(self._folder / "first_frames.npy", np.array(self._first, dtype=np.int64))
