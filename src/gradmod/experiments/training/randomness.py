"""Random numbers as a function of run, step and process: nothing to save, and a resumed run draws the same."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from gradmod.methods.draws import seed_generators


class Stream(IntEnum):
    """What random numbers are drawn for: each has a stream of its own."""

    WEIGHTS = 0
    STEP = 1
    """Key: step, process."""
    ORDER = 2
    """Key: epoch."""
    TRANSFORMS = 3
    """Key: epoch, step, process."""
    HELD_OUT = 4
    """What is held out of the training split."""


KEY_LENGTH = 3


def sequence(seed: int, stream: Stream, *key: int) -> np.random.SeedSequence:
    """What the generators of a stream are seeded with.

    Args:
        seed: of the run.
        stream: what is drawn.
        key: which of the stream's draws, as `Stream` says.

    Raises:
        ValueError: the key has more than `KEY_LENGTH` numbers.
    """
    if len(key) > KEY_LENGTH:
        raise ValueError(f"key is {key}; expected at most {KEY_LENGTH} numbers")
    # A seed alone, as in SeedSequence([seed, step]), is filled up with zeros: [7] and [7, 0, 0] are the same stream.
    # Spawn keys of one length, the stream in front, are never the same.
    whole = (int(stream), *key, *[0] * (KEY_LENGTH - len(key)))
    return np.random.SeedSequence(seed, spawn_key=whole)


def seed_all(seed: int, stream: Stream, *key: int) -> None:
    """Seed the generators of Python, NumPy and torch (every device); see `sequence`."""
    seed_generators(sequence(seed, stream, *key))


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """A generator of NumPy's; see `sequence`."""
    return np.random.default_rng(sequence(seed, stream, *key))
