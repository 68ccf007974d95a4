"""Which samples make up each batch: a function of seed, epoch and step alone, for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradmod.experiments.training.randomness import Stream, generator

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """One process among all: each batch is dealt out to them like cards.

    A batch too small to give every process `at_least` samples is dealt out to as many as it is large enough for. The
    others go along with the samples of one of those, and count for nothing: every process takes part in every step.

    Attributes:
        rank: this process.
        world: their number.
        at_least: samples that a process needs to train on: two, as batch norm has no variance of one.
    """

    rank: int = 0
    world: int = 1
    at_least: int = 2

    def of(self, indices: Indices) -> Indices:
        """The part of a batch that is this process', or that it goes along with."""
        sharing = self._sharing(len(indices))
        return indices[self.rank % sharing :: sharing]

    def weight(self, samples: int) -> float:
        """What this process' mean over its part of a batch of `samples` is multiplied by, so that the mean over the
        processes is the mean over the whole batch; 0 where it only goes along."""
        sharing = self._sharing(samples)
        own = len(range(self.rank, samples, sharing)) if self.rank < sharing else 0
        return own * self.world / samples

    def _sharing(self, samples: int) -> int:
        return min(self.world, max(samples // self.at_least, 1))


@dataclass(frozen=True)
class TrainingBatches:
    """Shuffled batches of one epoch.

    A last batch that is smaller than the others is kept, unless it is a single sample, of which batch norm has no
    variance; every epoch shuffles anew, so no sample is left out for good.

    Args:
        samples: size of the training split.
        batch_size: samples in a batch, all processes together.
        seed: seed of the run.
    """

    samples: int
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Number of batches in an epoch, for any number of processes."""
        whole, rest = divmod(self.samples, self.batch_size)
        return whole + (rest >= 2)

    def epoch(self, epoch: int, shard: Shard, start: int = 0) -> Iterator[Indices]:
        """Samples of every step of an epoch from step `start` on, for this process."""
        order = self._order(epoch)
        for step in range(start, self.steps):
            yield shard.of(order[step * self.batch_size : (step + 1) * self.batch_size])

    def size(self, step: int) -> int:
        """Samples of a step, all processes together."""
        return min(self.batch_size, self.samples - step * self.batch_size)

    def _order(self, epoch: int) -> Indices:
        return generator(self.seed, Stream.ORDER, epoch).permutation(self.samples)


def evaluation_batches(samples: int, batch_size: int, shard: Shard) -> Iterator[Indices]:
    """Every sample in order, dealt out so that all processes get equally many: the last ones may come twice."""
    padded = -(-samples // shard.world) * shard.world
    mine = np.minimum(np.arange(shard.rank, padded, shard.world), samples - 1)
    for start in range(0, len(mine), batch_size):
        yield mine[start : start + batch_size]
