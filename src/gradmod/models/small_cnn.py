"""A convolutional encoder that trains on a laptop."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Blocks of convolution, batch norm, 2x2 maximum and ReLU, then the average over the image.

    The first convolution strides (7x7 for stride 4, 3x3 for stride 2), the others are 3x3. With stride 4, four blocks
    see patches of more than 100 pixels: the course of a spectrogram and not only its texture.

    Args:
        in_channels: of the image.
        widths: channels after each convolution; the last is the number of features.
        stride: of the first convolution; 4 suits images of about 100 pixels, 2 smaller ones.
        norm: batch norm; without it the convolutions have biases.
    """

    forward_ignores_mode = True

    def __init__(
        self,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 64),
        stride: int = 2,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if in_channels < 1 or stride < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"in_channels is {in_channels}, stride {stride} and widths {tuple(widths)}; expected numbers >= 1, at "
                "least one width"
            )
        channels = [in_channels, *widths]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            step = 1 if layers else stride
            kernel = max(2 * step - 1, 3)
            layers.append(
                nn.Conv2d(inputs, outputs, kernel, step, padding=kernel // 2, bias=not norm)
            )
            if norm:
                layers.append(nn.BatchNorm2d(outputs))
            # The maximum first: the same values as after ReLU, which then has a quarter of them to look at.
            layers += [nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()]
        # On a CPU a step of this network takes two thirds of the time with channels last.
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.in_channels = in_channels
        self.out_features = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, out_features] of images [B, in_channels, H, W]; of one channel also [B, H, W]."""
        if x.ndim == 3 and self.in_channels == 1:
            x = x[:, None]
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"images have shape {list(x.shape)}; expected [B, {self.in_channels}, H, W]"
            )
        features: Tensor = self.layers(x).mean((2, 3))
        return features
