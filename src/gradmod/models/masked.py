"""A multi-modal network that is shown some of its modalities, the others masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from gradmod.coalitions.masking import check_inputs, mask
from gradmod.protocols import Output


class MaskedModel(nn.Module):
    """The same network, the inputs of the hidden modalities masked: what early fusion calls a mono-modal model.

    Args:
        model: the network, called with all modalities.
        shown: the modalities that it is shown.
        modalities: those that it has.

    Raises:
        ValueError: nothing is shown, or something that the network does not have.
    """

    forward_ignores_mode = True

    def __init__(self, model: nn.Module, shown: Sequence[str], modalities: Sequence[str]) -> None:
        super().__init__()
        unknown = [m for m in shown if m not in modalities]
        if unknown or not shown:
            raise ValueError(f"shown is {tuple(shown)}; expected some of {tuple(modalities)}")
        self.model = model
        self.shown = tuple(shown)
        self.modalities = tuple(modalities)

    @property
    def head(self) -> Any:
        """The network's head."""
        return self.model.head

    def mask(self, modality: str, x: Any) -> Any:
        """The network's own mask."""
        return mask(self.model, modality, x)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor | Output:
        """What the network returns for a batch; of the hidden modalities' inputs only the shape is read.

        Raises:
            ValueError: `inputs` lacks a modality.
        """
        check_inputs(inputs, self.modalities)
        hidden = {m: self.mask(m, inputs[m]) for m in self.modalities if m not in self.shown}
        output: Tensor | Output = self.model({**inputs, **hidden})
        return output
