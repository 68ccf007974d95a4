"""A convolutional encoder that trains on a laptop."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 maximum, then the average over the image.

    The first convolution has stride 2, so four blocks see patches of about 80 pixels: the tone of a spectrogram and not only
    its texture. A forward of a [1, 112, 112] spectrogram at the default widths takes 1.3 million multiplications.

    Args:
        in_channels: of the image.
        widths: channels after each convolution; the last is the number of features.
        norm: batch norm; without it the convolutions have biases.
    """

    forward_ignores_mode = True

    def __init__(self, in_channels: int = 1, widths: Sequence[int] = (8, 16, 32, 64), norm: bool = True) -> None:
        super().__init__()
        if in_channels < 1 or not widths or min(widths) < 1:
            raise ValueError(
                f"in_channels is {in_channels} and widths {tuple(widths)}; expected numbers >= 1, at least one layer"
            )
        channels = [in_channels, *widths]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(channels, channels[1:], strict=False):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=1 if layers else 2, padding=1, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm2d(outputs))
            layers += [nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.out_features = channels[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, out_features] of images [B, in_channels, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"images have shape {list(x.shape)}; expected [B, {self.in_channels}, H, W]")
        features: Tensor = self.layers(x).mean((2, 3))
        return features
