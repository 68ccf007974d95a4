"""Random state put back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def kept_random_state(model: nn.Module) -> Iterator[None]:
    """Put back, on leaving, the state of the generators of Python, NumPy and torch (those of the model's devices)."""
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type not in ("cpu", "meta")}
    kinds = {device.type for device in devices}
    python, array = random.getstate(), np.random.get_state()
    try:
        if not kinds:
            with torch.random.fork_rng(devices=[]):
                yield
        else:
            (kind,) = list(kinds)[:1]
            with torch.random.fork_rng([d.index or 0 for d in devices if d.type == kind], device_type=kind):
                yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
