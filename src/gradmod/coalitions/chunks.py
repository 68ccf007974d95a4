"""Coalitions of a few samples at a time, where those of the whole batch would take too much memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gradmod.coalitions.masking import map_tensors

MEMORY_SHARE = 1 / 16
"""Share of the device's memory above which the inputs and logits of all coalitions are not made at once."""


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no POSIX
        return 8 << 30


HOST_MEMORY = _host_memory()


def over_samples(evaluate: Callable[..., Tensor], trees: Sequence[Any], samples: int, coalitions: int) -> Tensor:
    """Call `evaluate` on the whole batch, or on as many samples at a time as the share of memory allows.

    In parts, what the passes inside leave behind for the backward is not kept but computed again: memory is that of
    one part, for one more forward of the masked passes.

    Args:
        evaluate: called with `trees`; returns [M, B, ...]. It must compute every sample by itself.
        trees: nested tensors; those with `samples` rows are what is cut into parts, any others go to every part.
        samples: B.
        coalitions: how many copies of a sample `evaluate` makes.

    Returns:
        [M, B, ...].
    """
    leaves: list[Tensor] = []

    def collect(leaf: Tensor) -> Tensor:
        if leaf.dim() > 0 and len(leaf) == samples:
            leaves.append(leaf)
        return leaf

    map_tensors(collect, list(trees))
    needed = coalitions * sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    allowed = MEMORY_SHARE * _memory(leaves[0].device)
    if needed <= allowed or samples < 2:
        return evaluate(*trees)
    at_once = max(1, int(samples * allowed / needed))
    parts = []
    for start in range(0, samples, at_once):
        part = map_tensors(
            lambda leaf, start=start: (  # type: ignore[misc]
                leaf[start : start + at_once] if leaf.dim() > 0 and len(leaf) == samples else leaf
            ),
            list(trees),
        )
        parts.append(checkpoint(evaluate, *part, use_reentrant=False) if torch.is_grad_enabled() else evaluate(*part))
    return torch.cat(parts, 1)


def _memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return HOST_MEMORY
