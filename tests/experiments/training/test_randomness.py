"""Streams of random numbers: none is another's, and each is the same again."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch

from gradmod.experiments.training.randomness import Stream, generator, seed_all, sequence
from gradmod.experiments.training.sampling import Shard, TrainingBatches

KEYS = {
    Stream.WEIGHTS: [()],
    Stream.STEP: list(product(range(7), range(3))),
    Stream.ORDER: [(epoch,) for epoch in range(7)],
    Stream.TRANSFORMS: list(product(range(4), range(5), range(3))),
    Stream.HELD_OUT: [()],
}


def test_all_streams_differ() -> None:
    """Those of other seeds as well, and those that packages seed with a number alone."""
    states = [
        tuple(sequence(seed, stream, *key).generate_state(4))
        for seed in (0, 1, 2, 2**32, 2**40 + 1)
        for stream, keys in KEYS.items()
        for key in keys
    ]
    states += [tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in range(5)]
    states += [
        tuple(np.random.SeedSequence([seed, n]).generate_state(4))
        for seed in range(5)
        for n in range(1, 9)
    ]
    assert len(set(states)) == len(states)
    assert set(KEYS) == set(Stream)


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_weights_and_the_first_steps_dropout_are_drawn_apart() -> None:
    seed_all(3, Stream.WEIGHTS)
    weights = drawn()
    seed_all(3, Stream.STEP, 0, 0)
    step = drawn()
    assert all(one != two for one, two in zip(weights, step, strict=True))
    seed_all(3, Stream.STEP, 0, 0)
    assert drawn() == step


def test_an_epochs_order_and_its_first_augmentation_are_drawn_apart() -> None:
    (order,) = TrainingBatches(50, 50, 3).epoch(1, Shard())
    assert order.tolist() == generator(3, Stream.ORDER, 1).permutation(50).tolist()
    assert order.tolist() != generator(3, Stream.TRANSFORMS, 1, 0, 0).permutation(50).tolist()


def test_a_key_has_room_for_three_numbers() -> None:
    with pytest.raises(ValueError, match=r"key is \(1, 2, 3, 4\)"):
        sequence(0, Stream.STEP, 1, 2, 3, 4)
