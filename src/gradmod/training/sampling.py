"""Which samples make up each batch: a function of seed, epoch and step alone, for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradmod.training.randomness import Stream, generator

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """One process among all: each batch is dealt out to them like cards."""

    rank: int = 0
    world: int = 1

    def of(self, indices: Indices) -> Indices:
        """The part of a batch that is this process'."""
        return indices[self.rank :: self.world]


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled batches of one epoch.

    A last batch that is smaller than the others is kept, unless it has fewer than two samples for each process, with
    which batch norm has no variance; every epoch shuffles anew, so no sample is left out for good.

    Args:
        samples: size of the training split.
        batch_size: samples in a batch, all processes together.
        seed: seed of the run.
    """

    samples: int
    batch_size: int
    seed: int

    def steps(self, shard: Shard) -> int:
        """Number of batches in an epoch."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest >= 2 * shard.world)

    def epoch(self, epoch: int, shard: Shard, start: int = 0) -> Iterator[Indices]:
        """Samples of every step of an epoch from step `start` on, for this process."""
        order = self._order(epoch)
        for step in range(start, self.steps(shard)):
            yield shard.of(order[step * self.batch_size : (step + 1) * self.batch_size])

    def size(self, step: int) -> int:
        """Samples of a step, all processes together."""
        return min(self.batch_size, self.samples - step * self.batch_size)

    def _order(self, epoch: int) -> Indices:
        return generator(self.seed, Stream.ORDER, epoch).permutation(self.samples)


def evaluation_batches(samples: int, batch_size: int, shard: Shard) -> Iterator[Indices]:
    """Every sample in order, dealt out so that all processes get equally many: the last ones may come twice."""
    padded = -(-samples // shard.world) * shard.world
    mine = shard.of(np.minimum(np.arange(padded), samples - 1))
    for start in range(0, len(mine), batch_size):
        yield mine[start : start + batch_size]
