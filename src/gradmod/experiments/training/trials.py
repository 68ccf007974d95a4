"""Trials in a run: the held-out part of its training split, and how the trainer trains without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradmod.experiments.datasets.split import Split
from gradmod.experiments.datasets.splits import by_group
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.training.evaluation import split_losses
from gradmod.experiments.training.loading import Batch, Request, batches
from gradmod.experiments.training.randomness import Stream, generator, seed_all, sequence
from gradmod.experiments.training.sampling import Shard, TrainingBatches
from gradmod.methods.base import Method, Need
from gradmod.methods.step import Engine
from gradmod.methods.trials import Trials
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OneStep = Callable[[Batch, float], object]
"""Trains on a batch, which counts for so much."""


class Divided(NamedTuple):
    """A training split in two: what trials train on, and what they never see."""

    trained: Split
    held_out: Split


def divide(split: Split, method: Method, seed: int, processes: int) -> Divided | None:
    """Hold a part of the training split out from trials; None: the method makes none.

    Where samples are in groups (speakers, videos), whole groups are held out: of several kinds those of the kind that
    has the fewest.

    Args:
        split: the training split.
        method: says how large the part is.
        seed: of the run.
        processes: that train it.

    Raises:
        ConfigError: too few samples are left on one side.
    """
    if Need.TRIALS not in method.needs:
        return None
    share, samples = method.held_out, len(split)
    groups = min(split.groups.values(), key=lambda of: len(np.unique(of)), default=None)
    if groups is not None and len(np.unique(groups)) > 1:
        draw = int(sequence(seed, Stream.HELD_OUT).generate_state(1)[0])
        trained, held_out = by_group([str(group) for group in groups], (1 - share, share), draw)
    else:
        order = generator(seed, Stream.HELD_OUT).permutation(samples)
        count = round(samples * share)
        trained, held_out = np.sort(order[count:]), np.sort(order[:count])
    if not len(held_out) or len(trained) < 2 * processes:
        raise ConfigError(
            f"the training split has {samples} samples, of which {len(held_out)} are held out from trials "
            f"(held_out = {share:g}) and {len(trained)} left for {processes} process(es); expected at least 1 held "
            "out, and 2 left for each process"
        )
    return Divided(split.subset(trained, augmented=split.augmented), split.subset(held_out))


class RunTrials(Trials):
    """Trials of a run.

    Args:
        engine: of the run.
        model: the modulated model itself.
        fabric: devices and precision.
        data: see `divide`.
        one_step: the loop's own.
        stop: called after each step, and after each epoch with True; raises to break training off.
        shard: this process among all.
        batch_size: of training and of measuring.
        workers: processes that read ahead.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModulatedModel,
        fabric: Fabric,
        data: Divided,
        one_step: OneStep,
        stop: Callable[[bool], None],
        shard: Shard,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(engine, model)
        self.fabric, self.data, self.one_step, self.stop = fabric, data, one_step, stop
        self.shard, self.batch_size, self.workers = shard, batch_size, workers

    def train(self, epochs: int) -> None:
        """See `Trials.train`: order, augmentation and dropout are those of a run with a seed of its own."""
        seed, part = self.seed(), self.data.trained
        order = TrainingBatches(len(part), self.batch_size, seed)

        def requests() -> Iterator[Request]:
            for epoch in range(1, epochs + 1):
                for step, indices in enumerate(order.epoch(epoch, self.shard)):
                    key = (seed, Stream.TRANSFORMS, epoch, step, self.shard.rank)
                    yield Request(indices, key)

        for number, batch in enumerate(batches(self.fabric, part, requests(), self.workers)):
            step = number % order.steps
            seed_all(seed, Stream.STEP, number, self.shard.rank)
            self.one_step(batch, self.shard.weight(order.size(step)))
            self.stop(step == order.steps - 1)

    def losses(self, part: str) -> dict[str, float]:
        """See `Trials.losses`."""
        split = self.data.held_out if part == "held_out" else self.data.trained
        found = split_losses(
            self.fabric, self.model, split, batch_size=self.batch_size, workers=self.workers
        )
        # One process says, so that all go on with the same to the last bit, whatever machines they run on.
        same: dict[str, float] = self.fabric.broadcast(found)
        return same
