"""Arrays whose numbers are standardised: less the mean, divided by the standard deviation, each entry of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.split import Indices

CHUNK_BYTES = 16 * 2**20
ROUNDING = 4.0
"""An entry that varies by so many steps of its type or fewer is constant: what varies is how it was rounded."""


@dataclass(frozen=True)
class Moments:
    """What an array is standardised with.

    Attributes:
        mean: [...] of each entry of a sample.
        deviation: [...] the same; 1 where an entry is constant, so that it becomes 0 and what differs stays finite.
        constant: how many entries are.
    """

    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    constant: int

    @classmethod
    def of(cls, array: npt.NDArray[Any], rows: Indices) -> Moments:
        """Of some rows of an array [N, ...], read a chunk at a time.

        Args:
            array: numbers, all of them finite.
            rows: those that train; at least one.
        """
        count, mean, squares = 0, np.zeros(array.shape[1:]), np.zeros(array.shape[1:])
        largest = np.zeros(array.shape[1:])
        for chunk in chunks(array, rows):
            own = chunk.mean(0)
            total = count + len(chunk)
            apart = own - mean
            mean = mean + apart * (len(chunk) / total)
            squares += ((chunk - own) ** 2).sum(0) + apart**2 * (count * len(chunk) / total)
            largest = np.maximum(largest, abs(chunk).max(0))
            count = total
        deviation = np.sqrt(squares / count)
        step = np.finfo(array.dtype if array.dtype.kind == "f" else np.float64).eps
        constant = deviation <= ROUNDING * float(step) * largest
        return cls(mean, np.where(constant, 1.0, deviation), int(constant.sum()))


def chunks(array: npt.NDArray[Any], rows: Indices) -> Iterator[npt.NDArray[np.float64]]:
    """The rows of an array, a few at a time, in float64."""
    step = max(1, CHUNK_BYTES // max(1, array[:1].size * 8))
    for start in range(0, len(rows), step):
        yield np.asarray(array[rows[start : start + step]], dtype=np.float64)


@dataclass(frozen=True)
class StandardisedSource:
    """Rows of an array, memory-mapped or not, that are standardised as they are read.

    Attributes:
        array: [N, ...] numbers.
        shape: of a sample as the network takes it.
        moments: of the rows that train.
        description: what the file holds, for `gradmod check`.
    """

    array: npt.NDArray[Any]
    shape: tuple[int, ...]
    moments: Moments
    description: str = ""

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32; reads these rows only. Nothing is drawn."""
        # In float64: of times in seconds, say, float32 would leave nothing but steps.
        wide = np.asarray(self.array[rows], dtype=np.float64)
        values = ((wide - self.moments.mean) / self.moments.deviation).astype(np.float32)
        return torch.from_numpy(values.reshape(len(rows), *self.shape))

    def describe(self) -> str:
        """What the file holds, and what is done with it."""
        return self.description
