"""Which samples are in which batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod.experiments.training.sampling import Shard, TrainingBatches, evaluation_batches


@given(
    st.integers(2, 300), st.integers(2, 64), st.integers(1, 5), st.integers(0, 5), st.integers(1, 9)
)
def test_processes_share_each_batch_and_no_sample_comes_twice(
    samples: int, batch: int, world: int, seed: int, epoch: int
) -> None:
    """The same batches for any number of processes; each has two samples at least, of its own or of another's."""
    order = TrainingBatches(samples, batch, seed)
    alone = list(order.epoch(epoch, Shard()))
    assert len(alone) == order.steps
    # Only a last batch of one sample is left out.
    assert samples - sum(map(len, alone)) <= (samples % batch == 1)
    assert len(np.unique(np.concatenate(alone))) == sum(map(len, alone)) if alone else samples < 2
    shards = [Shard(rank, world) for rank in range(world)]
    for step, parts in enumerate(
        zip(*(order.epoch(epoch, shard) for shard in shards), strict=True)
    ):
        size = order.size(step)
        assert size == len(alone[step])
        weights = [shard.weight(size) for shard in shards]
        own = [part for part, weight in zip(parts, weights, strict=True) if weight > 0]
        assert all(len(part) >= 2 for part in parts)
        np.testing.assert_array_equal(np.sort(np.concatenate(own)), np.sort(alone[step]))
        # The mean over the processes of their weighted means is the mean over the batch.
        means = [weight * part.mean() for part, weight in zip(parts, weights, strict=True)]
        np.testing.assert_allclose(np.mean(means), alone[step].mean())


@pytest.mark.parametrize(
    ("samples", "weights"), [(2, [4, 0, 0, 0]), (3, [4, 0, 0, 0]), (5, [2.4, 1.6, 0, 0])]
)
def test_a_batch_too_small_for_all_goes_to_as_many_as_it_is_large_enough_for(
    samples: int, weights: list[float]
) -> None:
    indices = np.arange(samples)
    assert [Shard(rank, 4).weight(samples) for rank in range(4)] == weights
    parts = [Shard(rank, 4).of(indices).tolist() for rank in range(4)]
    sharing = sum(weight > 0 for weight in weights)
    assert parts[sharing:] == [parts[rank % sharing] for rank in range(sharing, 4)]
    assert [Shard(rank, 4, at_least=1).of(indices)[0] for rank in range(2)] == [0, 1]


@given(st.integers(10, 200), st.integers(2, 64), st.integers(0, 5))
def test_an_epoch_that_starts_in_the_middle_goes_on_the_same(
    samples: int, batch: int, seed: int
) -> None:
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
    shards = [
        np.concatenate(list(evaluation_batches(samples, batch, Shard(rank, world))))
        for rank in range(world)
    ]
    assert len({len(shard) for shard in shards}) == 1
    dealt = np.stack(shards, 1).flatten()[:samples]
    np.testing.assert_array_equal(dealt, np.arange(samples))
