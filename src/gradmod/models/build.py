"""The network of a run, from names and shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from gradmod.errors import ConfigError
from gradmod.models.fusion import EarlyFusion, LateFusion, SumFusion
from gradmod.models.mlp import MLP
from gradmod.models.registry import ENCODERS, FUSIONS
from gradmod.models.resnet import ResNet18
from gradmod.models.small_cnn import SmallCNN

PUBLISHED_MAXOUT = (2048, 1024)
SMALL_MAXOUT = (256, 128)
LARGE_IMAGE = 64
"""From this many pixels on, the small CNN's first convolution has stride 4."""


def build_model(
    shapes: Mapping[str, tuple[int, ...]], classes: int, encoder: str, fusion: str, width: int | None = None
) -> LateFusion | SumFusion | EarlyFusion:
    """Make a network with one encoder for each modality.

    Args:
        shapes: per-sample shape of each modality's input: [C, H, W] for images, [C, T, H, W] for frames.
        classes: number of logits.
        encoder: one of `registry.ENCODERS`, the same for all modalities.
        fusion: one of `registry.FUSIONS`. Early fusion has the published MaxOut sizes (2048, 1024) behind ResNet-18 and
            (256, 128) behind the small encoders.
        width: scales the encoder; None: its own default.

    Raises:
        ConfigError: unknown name, no modality, or an input that the encoder does not take.
    """
    if not shapes:
        raise ConfigError("a network needs at least one modality; shapes is empty")
    encoders = {modality: _encoder(encoder, shape, modality, width) for modality, shape in shapes.items()}
    if fusion == "late":
        return LateFusion(encoders, classes)
    if fusion == "sum":
        return SumFusion(encoders, classes)
    if fusion == "early":
        return EarlyFusion(encoders, classes, PUBLISHED_MAXOUT if encoder == "resnet18" else SMALL_MAXOUT)
    raise ConfigError(f"model.fusion is {fusion!r}; expected one of {', '.join(FUSIONS)}")


def _encoder(name: str, shape: tuple[int, ...], modality: str, width: int | None) -> nn.Module:
    if name == "mlp":
        first = width or 128
        return MLP(math.prod(shape), hidden=(first, max(first // 2, 1)))
    if name not in ENCODERS:
        raise ConfigError(f"model.encoder is {name!r}; expected one of {', '.join(ENCODERS)}")
    if len(shape) != 3 and not (name == "resnet18" and len(shape) == 4):
        raise ConfigError(
            f"model.encoder {name!r} takes images [C, H, W]; a sample of {modality!r} is {list(shape)}: use mlp"
        )
    if name == "resnet18":
        return ResNet18(in_channels=shape[0], width=width or 64)
    first = width or 8
    stride = 4 if min(shape[1:]) >= LARGE_IMAGE else 2
    return SmallCNN(in_channels=shape[0], widths=(first, 2 * first, 4 * first, 8 * first), stride=stride)
