"""Random numbers that are seeded by the run and the step, so that a resumed run draws what it would have."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.distributed as dist


def process_number() -> int:
    """The number of this process among those that train; 0 where it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def generator_of(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that the same key makes again; torch's own random numbers are not touched.

    Args:
        key: whole numbers >= 0: the run's seed, the step, and where processes draw apart, `process_number()`.
        device: on which it draws.

    Example:
        >>> import torch
        >>> first, again = (torch.rand(2, generator=generator_of(0, 7)) for _ in range(2))
        >>> bool((first == again).all())
        True
    """
    mixed = np.random.SeedSequence(key).generate_state(1)
    return torch.Generator(device).manual_seed(int(mixed[0]))


def seed_generators(sequence: np.random.SeedSequence) -> None:
    """Seed the generators that everybody shares, of Python, NumPy and torch (every device), from a seed sequence."""
    state = sequence.generate_state(2)
    seed = int(state[0]) << 32 | int(state[1])
    random.seed(seed)
    np.random.seed(int(state[0]))  # models of others may draw from the global generator
    torch.manual_seed(seed)
