"""Passes without gradient that leave nothing behind for those with gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_gradient() -> Iterator[None]:
    """`torch.no_grad`, in which autocast keeps no casts.

    Autocast casts a weight once and keeps the copy until its region ends. One made without gradient is given to later
    passes too (seen in torch 2.6): a training forward in the same region then leaves the weight without any gradient.
    """
    was_kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(was_kept)
