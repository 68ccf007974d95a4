"""Random numbers as a function of run, step and process: nothing to save, and a resumed run draws the same."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_all(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch (every device) from a key such as (seed, step, rank)."""
    state = np.random.SeedSequence([abs(part) for part in key]).generate_state(2)
    seed = int(state[0]) << 32 | int(state[1])
    random.seed(seed)
    np.random.seed(int(state[0]))  # models of others may draw from the global generator
    torch.manual_seed(seed)
