"""What is computed, counted and not timed: how often operators run, and how much they write."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Operators(TorchDispatchMode):
    """While entered, counts what operators do; the backward's as well.

    Attributes:
        calls: by the operator's name, how often it ran.
        written: entries of all tensors that were computed; views are none.
        largest: entries of the largest of them.
        rows: by the operator's name, the rows (entries over the last axis) of what it gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.written = self.largest = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        self.calls[name] += 1
        if isinstance(given, Tensor) and not function.is_view:
            self.written += given.numel()
            self.largest = max(self.largest, given.numel())
            self.rows[name] += given.numel() // max(given.shape[-1] if given.dim() else 1, 1)
        return given
