"""Batches from a data set to the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from gradmod.datasets.arrays import ArrayDataset
    from gradmod.training.sampling import Indices

Batch = tuple[dict[str, Any], Tensor]


def batches(fabric: Fabric, dataset: ArrayDataset, indices: Iterable[Indices], workers: int) -> Iterator[Batch]:
    """Read the batches of the given samples, in order, and move them to this process' device.

    Args:
        fabric: knows the device.
        dataset: read a whole batch at a time, `dataset[indices]`.
        indices: the samples of each batch.
        workers: processes that read ahead; 0 reads in this one.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        sampler=list(indices),
        batch_size=None,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        # A generator of its own: the loader's seed must not be drawn from the model's random numbers.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        yield fabric.to_device(batch)
