"""The surroundings of the masked passes: eval mode, and nothing that outlives them but their logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from gradmod.coalitions.kept_state import kept_state
from gradmod.coalitions.modes import MaskedPassMode
from gradmod.coalitions.recomputation import held_through_recomputation


@contextmanager
def masked_passes(model: nn.Module, moves: Sequence[str] = ()) -> Iterator[None]:
    """Eval mode, also in a recomputation of what is computed here; on leaving, the network is as the full pass left it.

    Args:
        model: the network, after its full pass.
        moves: see `kept_state`.
    """
    mode = MaskedPassMode(model)
    if torch.compiler.is_compiling():
        with mode.entered():
            yield
        return
    with (
        kept_state(model, moves),
        held_through_recomputation(lambda: masked_passes(model, moves), mode.norms),
        mode.entered(),
    ):
        yield
