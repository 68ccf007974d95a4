"""Random state put back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def kept_random_state(model: nn.Module) -> Iterator[None]:
    """Put back, on leaving, the state of the generators of Python, NumPy and torch (those of the model's devices)."""
    devices = {tensor.device for tensor in model.parameters()}
    on_cuda = [device for device in devices if device.type == "cuda"]
    has_mps = any(device.type == "mps" for device in devices) and torch.backends.mps.is_available()
    python, array = random.getstate(), np.random.get_state()
    mps = torch.mps.get_rng_state() if has_mps else None
    try:
        with torch.random.fork_rng(on_cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def random_state(model: nn.Module) -> tuple[Any, ...]:
    """The state of the generators of Python, NumPy and torch (those of the model's devices), to be compared."""
    on_cuda = sorted(
        {tensor.device.index or 0 for tensor in model.parameters() if tensor.device.type == "cuda"}
    )
    numpy: Any = np.random.get_state(legacy=True)
    states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, on_cuda)]
    return (
        random.getstate(),
        numpy[1].tobytes(),
        *numpy[2:],
        *(state.numpy().tobytes() for state in states),
    )
