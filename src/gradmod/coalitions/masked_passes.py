"""The surroundings of the masked passes: eval mode, and nothing that outlives them but their logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from gradmod.coalitions.kept_state import NetworkState, kept_state
from gradmod.coalitions.modes import MaskedPassMode
from gradmod.coalitions.recomputation import held_through_recomputation


@contextmanager
def masked_passes(model: nn.Module, before: NetworkState | None) -> Iterator[None]:
    """Eval mode, also in a recomputation of what is computed here; on leaving, the network is as the full pass left it.

    Args:
        model: the network, after its full pass.
        before: its state before the full pass, which is where a masked pass begins, too; None in a compiled step.
    """
    mode = MaskedPassMode(model)
    if before is None:
        with mode.entered():
            yield
        return
    again = partial(masked_passes, model, before)
    with (
        kept_state(model, before),
        _statistics(before, mode),
        held_through_recomputation(again),
        mode.entered(),
    ):
        yield


@contextmanager
def _statistics(before: NetworkState, mode: MaskedPassMode) -> Iterator[None]:
    """Batch norms read copies of their running statistics, which nothing moves before the backward has used them."""
    copies = before.statistics_of(mode.norms)
    own: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for buffers, statistics in copies:
            own.append((buffers, {name: buffers[name] for name in statistics}))
            buffers.update(statistics)
        yield
    finally:
        for buffers, statistics in own:
            buffers.update(statistics)
