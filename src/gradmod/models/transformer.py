"""Transformer encoder of a padded sequence, as in the published network for UR-Funny."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class SequenceEncoder(nn.Module):
    """Projection, transformer encoder layers (post-norm, no position encoding), the first time step's output.

    Args:
        in_features: of a time step.
        width: of the model.
        layers: number of layers.
        heads: attention heads; they divide `width`.
        hidden: width of the feed-forward parts.
        dropout: in attention and feed-forward parts.
        masks_padding: whether attention looks away from padding; the published network does not.
    """

    forward_ignores_mode = True

    def __init__(
        self,
        in_features: int,
        width: int = 768,
        layers: int = 8,
        heads: int = 4,
        hidden: int = 2048,
        dropout: float = 0.1,
        masks_padding: bool = True,
    ) -> None:
        super().__init__()
        if min(in_features, width, layers, heads, hidden) < 1 or width % heads:
            raise ValueError(
                f"in_features {in_features}, width {width}, layers {layers}, heads {heads}, hidden {hidden}; expected "
                "numbers >= 1, width a multiple of heads"
            )
        self.out_features = width
        self.masks_padding = masks_padding
        self.project = nn.Linear(in_features, width, bias=False)  # a 1x1 convolution over time
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def mask(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A hidden input: zeros, nowhere padded. Without positions, its features are the same for any length."""
        return {"x": torch.zeros_like(inputs["x"]), "mask": torch.ones_like(inputs["mask"])}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [B, width] of {"x": [B, T, in_features], "mask": [B, T] true where there is something}."""
        padding = ~inputs["mask"] if self.masks_padding else None
        features: Tensor = self.layers(self.project(inputs["x"]), src_key_padding_mask=padding)
        return features[:, 0]
