"""Activation checkpointing: what a masked pass computed is computed again as it was, in eval mode.

`torch.utils.checkpoint` runs a function again in the backward, when the network is back in train mode. Batch norm would
then take the statistics of the batch, and dropout would draw: other values than those of the forward, or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch.utils.checkpoint

# What checkpoint(use_reentrant=True) and (use_reentrant=False) hand the function to, as the first argument.
_REENTRANT, _NON_REENTRANT = "CheckpointFunction", "_checkpoint_without_reentrant_generator"


@contextmanager
def held_through_recomputation(enter: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """While entered, functions given to `torch.utils.checkpoint` are computed again within `enter()`.

    Args:
        enter: makes the surroundings of a masked pass, the running statistics of its batch norms among them.
    """
    module = torch.utils.checkpoint
    own = {name: getattr(module, name) for name in (_REENTRANT, _NON_REENTRANT)}
    held = _Held(enter)

    class Reentrant:
        @staticmethod
        def apply(function: Callable[..., Any], *args: Any) -> Any:
            return own[_REENTRANT].apply(held.function(function), *args)

    def non_reentrant(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return own[_NON_REENTRANT](held.function(function), *args, **kwargs)

    setattr(module, _REENTRANT, Reentrant)
    setattr(module, _NON_REENTRANT, non_reentrant)
    try:
        yield
    finally:
        held.is_forward = False
        for name, value in own.items():
            setattr(module, name, value)


class _Held:
    """The surroundings of one step's masked passes, for their recomputation."""

    def __init__(self, enter: Callable[[], AbstractContextManager[None]]) -> None:
        self._enter = enter
        self.is_forward = True

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which enters the surroundings when it is called after the forward."""

        def again(*args: Any, **kwargs: Any) -> Any:
            if self.is_forward:
                return function(*args, **kwargs)
            with self._enter():
                return function(*args, **kwargs)

        return again
