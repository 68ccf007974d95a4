"""Samples in arrays, memory-mapped or not, read a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class ArrayView:
    """Rows of an array, as samples of one modality.

    Attributes:
        array: [N, ...]; a memory-mapped one stays on disk.
        shape: of a sample as the network takes it, e.g. (1, 28, 28).
        scale: what the values are divided by.
        rows: which rows are samples of this split, in order; None: all.
    """

    array: npt.NDArray[Any]
    shape: tuple[int, ...]
    scale: float = 1.0
    rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def read(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """Samples [n, *shape] in float32; reads these rows only."""
        rows = indices if self.rows is None else self.rows[indices]
        values = np.asarray(self.array[rows], dtype=np.float32)
        if self.scale != 1.0:
            values /= np.float32(self.scale)
        return torch.from_numpy(values.reshape(len(rows), *self.shape))


class ArrayDataset(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """One split: inputs by modality and a class for each sample.

    Args:
        inputs: rows of each modality.
        targets: [N] classes.

    Raises:
        ValueError: the modalities and the targets differ in length.
    """

    def __init__(self, inputs: Mapping[str, ArrayView], targets: npt.NDArray[Any]) -> None:
        self.inputs = dict(inputs)
        self.targets = np.asarray(targets, dtype=np.int64)
        lengths = {modality: len(view) for modality, view in inputs.items()}
        if any(length != len(self.targets) for length in lengths.values()):
            raise ValueError(f"inputs have {lengths} samples and targets {len(self.targets)}; expected the same number")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor]:
        """A batch: inputs {modality: [n, ...] float32} and targets [n] int64 of the given samples."""
        chosen = np.asarray(indices, dtype=np.int64)
        inputs = {modality: view.read(chosen) for modality, view in self.inputs.items()}
        return inputs, torch.from_numpy(self.targets[chosen])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a sample of each modality."""
        return {modality: view.shape for modality, view in self.inputs.items()}

    def subset(self, rows: npt.NDArray[np.int64]) -> ArrayDataset:
        """The samples at `rows`, without copying the arrays."""
        views = {
            m: ArrayView(view.array, view.shape, view.scale, rows if view.rows is None else view.rows[rows])
            for m, view in self.inputs.items()
        }
        return ArrayDataset(views, self.targets[rows])
