"""A multi-modal network that is shown some of its modalities and zeros for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MaskedModel(nn.Module):
    """The same network, the inputs of the hidden modalities zero: what early fusion calls a mono-modal model.

    Args:
        model: the network, called with all modalities.
        shown: the modalities that it is shown.
        shapes: per-sample shape of every modality's input.

    Raises:
        ValueError: nothing is shown, or something that the network does not have.
    """

    forward_ignores_mode = True

    def __init__(self, model: nn.Module, shown: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        unknown = [m for m in shown if m not in shapes]
        if unknown or not shown:
            raise ValueError(f"shown is {tuple(shown)}; expected some of {tuple(shapes)}")
        self.model = model
        self.modalities = tuple(shown)
        self.shapes = dict(shapes)

    @property
    def head(self) -> Any:
        """The network's head."""
        return self.model.head

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of a batch; inputs of hidden modalities are not read and may be missing."""
        some = inputs[self.modalities[0]]
        shown = {
            m: inputs[m]
            if m in self.modalities
            else torch.zeros(len(some), *shape, dtype=some.dtype, device=some.device)
            for m, shape in self.shapes.items()
        }
        logits: Tensor = self.model(shown)
        return logits
