"""Which samples are in which batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradmod.training.sampling import Shard, TrainingBatches, evaluation_batches


@given(st.integers(2, 300), st.integers(2, 64), st.integers(1, 4), st.integers(0, 5), st.integers(1, 9))
def test_processes_share_each_batch_and_no_sample_comes_twice(
    samples: int, batch: int, world: int, seed: int, epoch: int
) -> None:
    order = TrainingBatches(samples, batch, seed)
    shards = [list(order.epoch(epoch, Shard(rank, world))) for rank in range(world)]
    alone = list(order.epoch(epoch, Shard(0, world)))
    assert all(len(parts) == len(alone) == order.steps(Shard(0, world)) for parts in shards)
    whole = [np.sort(np.concatenate(parts)) for parts in zip(*shards, strict=True)]
    assert all(len(part) == order.size(step) for step, part in enumerate(whole))
    everything = np.concatenate(whole) if whole else np.empty(0)
    assert len(np.unique(everything)) == len(everything) <= samples
    assert samples - len(everything) < max(2 * world, 2)  # only a last batch too small for batch norm is left out


@given(st.integers(10, 200), st.integers(2, 64), st.integers(0, 5))
def test_an_epoch_that_starts_in_the_middle_goes_on_the_same(samples: int, batch: int, seed: int) -> None:
    order = TrainingBatches(samples, batch, seed)
    whole = list(order.epoch(3, Shard()))
    start = len(whole) // 2
    for ours, expected in zip(order.epoch(3, Shard(), start), whole[start:], strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_epochs_and_seeds_shuffle_anew() -> None:
    orders = [
        tuple(np.concatenate(list(TrainingBatches(50, 10, seed).epoch(epoch, Shard()))))
        for seed in (0, 1)
        for epoch in (1, 2)
    ]
    assert len(set(orders)) == 4


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4))
def test_evaluation_sees_every_sample_in_order(samples: int, batch: int, world: int) -> None:
    shards = [np.concatenate(list(evaluation_batches(samples, batch, Shard(rank, world)))) for rank in range(world)]
    assert len({len(shard) for shard in shards}) == 1
    dealt = np.stack(shards, 1).flatten()[:samples]
    np.testing.assert_array_equal(dealt, np.arange(samples))
