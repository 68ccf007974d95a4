"""ResNet-18 as an encoder, with torchvision's parameter names, so that its published weights load.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385).
"""

from __future__ import annotations

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    forward_ignores_mode = True

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not norm)
        self.bn1 = _norm(outputs, norm)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=not norm)
        self.bn2 = _norm(outputs, norm)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=not norm), _norm(outputs, norm)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        joined: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return joined


class ResNet18(nn.Module):
    """ResNet-18 up to the global average pool.

    Starts, as the authors' do, with Kaiming normal (fan out) convolutions and batch-norm weights from N(1, 0.02).

    Args:
        in_channels: 3 for colour images, 1 for spectrograms.
        width: channels of the first stage; 64 is ResNet-18. There are 8 times as many features.
        norm: batch norm; without it the convolutions have biases.
    """

    forward_ignores_mode = True

    def __init__(self, in_channels: int = 3, width: int = 64, norm: bool = True) -> None:
        super().__init__()
        if in_channels < 1 or width < 1:
            raise ValueError(
                f"in_channels is {in_channels} and width {width}; expected numbers >= 1"
            )
        self.in_channels = in_channels
        self.out_features = 8 * width
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=not norm)
        self.bn1 = _norm(width, norm)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, 1, norm)
        self.layer2 = _stage(width, 2 * width, 2, norm)
        self.layer3 = _stage(2 * width, 4 * width, 2, norm)
        self.layer4 = _stage(4 * width, 8 * width, 2, norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, 8 * width] of images [B, C, H, W] or of frames [B, C, T, H, W].

        Frames are folded into the batch and their features averaged over time and space together.
        """
        if x.ndim not in (4, 5) or x.shape[1] != self.in_channels:
            raise ValueError(
                f"images have shape {list(x.shape)}; expected [B, {self.in_channels}, H, W], or frames [B, "
                f"{self.in_channels}, T, H, W]"
            )
        frames = x.shape[2] if x.ndim == 5 else 1
        if x.ndim == 5:
            x = x.transpose(1, 2).flatten(0, 1)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.reshape(-1, frames, *x.shape[1:]).mean((1, 3, 4))


def _stage(inputs: int, outputs: int, stride: int, norm: bool) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(inputs, outputs, stride, norm), BasicBlock(outputs, outputs, 1, norm)
    )


def _norm(channels: int, norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm else nn.Identity()
