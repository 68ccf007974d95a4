"""Batches from a split to the device."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradmod.experiments.datasets.split import Indices, Split
from gradmod.experiments.errors import DataError
from gradmod.experiments.training.randomness import Stream, generator
from gradmod.experiments.training.sampling import Shard, evaluation_batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Present = dict[str, Tensor] | None
Batch = tuple[dict[str, Any], Tensor, Present]
"""Inputs, targets, and for each input that some samples lack, which of these have it."""
MOST_WORKERS = 4


@dataclass(frozen=True)
class Request:
    """One batch to read.

    Attributes:
        indices: its samples.
        key: of the `randomness.generator` that draws its augmentation; None: no augmentation.
    """

    indices: Indices
    key: tuple[int, Stream, int, int, int] | None = None


def split_batches(
    fabric: Fabric, split: Split, batch_size: int, workers: int, shard: Shard | None = None
) -> Iterator[Batch]:
    """Every sample of a split, in order, or a process' share of them (see `sampling.evaluation_batches`)."""
    return batches(
        fabric,
        split,
        map(Request, evaluation_batches(len(split), batch_size, shard or Shard())),
        workers,
    )


def batches(
    fabric: Fabric, split: Split, requests: Iterable[Request], workers: int
) -> Iterator[Batch]:
    """Read batches, in order, and move them to this process' device.

    What is read does not depend on the number of workers. They live as long as the iterator, which is why training
    makes one for all its epochs.

    Args:
        fabric: knows the device.
        split: what is read.
        requests: the batches.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        DataError: a sample cannot be read.
    """
    loader: DataLoader[Batch | DataError] = DataLoader(
        _Reader(split),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        pin_memory=fabric.device.type == "cuda",
        worker_init_fn=_leave_ctrl_c_to_the_main_process if workers else None,
        # A generator of its own: the loader's seed must not be drawn from the model's random numbers.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield fabric.to_device(batch)


def of_modalities(present: Present, modalities: Sequence[str]) -> Present:
    """What of `present` is about these modalities; None: nothing."""
    return {m: has for m, has in (present or {}).items() if m in modalities} or None


def sensible_workers(decodes: bool) -> int:
    """Workers where the user names no number: a core is left to the training itself.

    Args:
        decodes: whether reading a sample is work (decoding, transforming) and not only copying from an array.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(cores - 1, MOST_WORKERS) if decodes else 0


class _Reader(Dataset[Batch | DataError]):
    """Hands an error over as a value: one raised in a worker would arrive wrapped in that worker's traceback."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, request: Request) -> Batch | DataError:
        draws = None if request.key is None else generator(*request.key)
        try:
            return (
                *self.split.read(request.indices, draws),
                self.split.read_present(request.indices),
            )
        except DataError as error:
            return error


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
