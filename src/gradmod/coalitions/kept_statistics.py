"""Running statistics of batch norm in the masked passes of a compiled step.

The full pass updates them in place, the masked passes read them, and the backward needs what was read. Inductor (seen
in torch 2.13) may compute the update again in the backward, from buffers that hold it already: the statistics are then
updated twice there, and the gradients through the masked passes are wrong, silently. What an operation of unknown
content returned is kept for the backward and never computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NAMES = ("running_mean", "running_var")


@torch.library.custom_op("gradmod::kept", mutates_args=())
def _kept(statistic: Tensor) -> Tensor:
    return statistic.clone()


@_kept.register_fake
def _(statistic: Tensor) -> Tensor:
    return torch.empty_like(statistic)


@contextmanager
def kept_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """While a step is compiled, let these batch norms read copies of their running statistics; else nothing.

    Args:
        norms: batch norms in eval mode, whose statistics were updated in the same step.
    """
    if not torch.compiler.is_compiling():
        yield
        return
    own = [(norm, name, getattr(norm, name)) for norm in norms for name in _NAMES]
    try:
        for norm, name, statistic in own:
            setattr(norm, name, _kept(statistic))
        yield
    finally:
        for norm, name, statistic in own:
            setattr(norm, name, statistic)
