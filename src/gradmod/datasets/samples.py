"""One split of a data set: samples of several modalities and their targets, read a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]
Value = Tensor | dict[str, Tensor]
Batch = tuple[dict[str, Any], Tensor]


class Source(Protocol):
    """Where one modality's samples come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as the network takes it."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Value:
        """Read samples [n, ...]; with `draws`, randomly augmented ones where the source has an augmentation."""


@dataclass(frozen=True)
class ArraySource:
    """Rows of an array, memory-mapped or not.

    Attributes:
        array: [N, ...]; a memory-mapped one stays on disk.
        shape: of a sample as the network takes it, e.g. (1, 28, 28).
        scale: what the values are divided by.
    """

    array: npt.NDArray[Any]
    shape: tuple[int, ...]
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32; reads these rows only. Nothing is drawn."""
        stored = self.array[rows]
        if self.scale != 1.0:  # float64 is divided before it is rounded, as code that keeps float64 does
            wide = stored.dtype.kind == "f" and stored.itemsize > 4
            stored = np.divide(stored, self.scale, dtype=np.float64 if wide else np.float32)
        values = np.asarray(stored, dtype=np.float32)
        return torch.from_numpy(values.reshape(len(rows), *self.shape))


@dataclass(frozen=True)
class ChainedSource:
    """Two arrays of the same shape as one source, the second behind the first; neither is copied."""

    first: ArraySource
    second: ArraySource

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as the network takes it."""
        return self.first.shape

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32."""
        later = rows >= len(self.first)
        values = torch.empty(len(rows), *self.shape)
        values[torch.from_numpy(~later)] = self.first.read(rows[~later])
        values[torch.from_numpy(later)] = self.second.read(rows[later] - len(self.first))
        return values


class Split:
    """Some samples of a data set.

    Args:
        sources: of each modality (and of what else the network takes), all of the same length N.
        targets: [N, ...] int64 classes, or floats.
        rows: which of the N samples are in this split, in order; None: all.
        augmented: whether reading it for training draws random augmentations.

    Raises:
        ValueError: the sources and the targets differ in length.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        targets: npt.NDArray[Any],
        rows: Indices | None = None,
        *,
        augmented: bool = False,
    ) -> None:
        lengths = {name: len(source) for name, source in sources.items()}
        if any(length != len(targets) for length in lengths.values()):
            raise ValueError(f"sources have {lengths} samples and targets {len(targets)}; expected the same number")
        self.sources = dict(sources)
        self.rows = np.arange(len(targets)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.augmented = augmented
        kind = np.float32 if targets.dtype.kind == "f" else np.int64
        self._targets = np.asarray(targets, dtype=kind)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, indices: Sequence[int] | Indices, draws: np.random.Generator | None = None) -> Batch:
        """A batch: inputs {name: [n, ...]} and targets [n, ...] of the given samples of this split.

        Args:
            indices: positions in the split.
            draws: random numbers for the augmentation, in training; None: samples as they are.
        """
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        chosen = draws if self.augmented else None
        inputs = {name: source.read(rows, chosen) for name, source in self.sources.items()}
        return inputs, torch.from_numpy(self._targets[rows])

    @property
    def targets(self) -> npt.NDArray[Any]:
        """[n, ...] targets of this split's samples."""
        return np.asarray(self._targets[self.rows])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a sample of each modality."""
        return {name: source.shape for name, source in self.sources.items()}

    def class_counts(self) -> dict[str, int] | None:
        """Samples (or segments) of each class that occurs; None where the targets are no classes."""
        if self._targets.dtype.kind == "f":
            return None
        classes, counts = np.unique(self.targets, return_counts=True)
        return {str(c): int(n) for c, n in zip(classes, counts, strict=True)}

    def subset(self, positions: Indices, *, augmented: bool = False) -> Split:
        """The samples at `positions` of this split; nothing is copied but the positions."""
        return Split(self.sources, self._targets, self.rows[positions], augmented=augmented)
