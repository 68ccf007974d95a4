"""The network of a run, from names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.models import ENCODERS, FUSIONS
from gradmod.models.fusion import EarlyFusion, LateFusion, SumFusion
from gradmod.models.mlp import MLP
from gradmod.models.resnet import ResNet18
from gradmod.models.small_cnn import SmallCNN
from gradmod.models.transformer import SequenceEncoder

PUBLISHED_MAXOUT = (2048, 1024)
SMALL_MAXOUT = (256, 128)
LARGE_IMAGE = 64
"""From this many pixels on, the small CNN's first convolution has stride 4."""


def build_model(
    shapes: Mapping[str, tuple[int, ...]],
    classes: int,
    encoder: str | Mapping[str, str],
    fusion: str,
    *,
    width: int | None = None,
    layers: int | None = None,
    masks_padding: bool = True,
    norm: bool = False,
) -> LateFusion | SumFusion | EarlyFusion:
    """Make a network with one encoder for each modality.

    Args:
        shapes: per-sample shape of each modality's input: [C, H, W] for images, [C, T, H, W] for frames, [features] for
            vectors and for sequences.
        classes: number of logits.
        encoder: one of `registry.ENCODERS`; or `auto`, a small CNN for images and an MLP for the rest; or one for each
            modality by name.
        fusion: one of `registry.FUSIONS`. Early fusion has the published MaxOut sizes (2048, 1024) behind encoders of
            published size and (256, 128) behind others.
        width: scales the encoder; None: its own default.
        layers: of a transformer; None: its own default.
        masks_padding: whether a transformer's attention looks away from padding.
        norm: whether MLPs have batch norm.

    Raises:
        ConfigError: unknown name, no modality, or an input that the encoder does not take.
    """
    if not shapes:
        raise ConfigError("a network needs at least one modality; shapes is empty")
    kinds = dict.fromkeys(shapes, encoder) if isinstance(encoder, str) else dict(encoder)
    if set(kinds) != set(shapes):
        raise ConfigError(
            f"model.encoder names {', '.join(kinds)}; expected one for each of {', '.join(shapes)}"
        )
    kinds = {
        m: suitable_encoder(shapes[m]) if kind == "auto" else kind for m, kind in kinds.items()
    }
    encoders = {
        m: _maker(kinds[m], width, layers, masks_padding, norm)(shape, m)
        for m, shape in shapes.items()
    }
    if fusion == "late":
        return LateFusion(encoders, classes)
    if fusion == "sum":
        return SumFusion(encoders, classes)
    if fusion == "early":
        published = set(kinds.values()) <= {"resnet18", "transformer"} and width is None
        return EarlyFusion(encoders, classes, PUBLISHED_MAXOUT if published else SMALL_MAXOUT)
    raise ConfigError(f"model.fusion is {fusion!r}; expected one of {', '.join(FUSIONS)}")


def suitable_encoder(shape: tuple[int, ...]) -> str:
    """The encoder that `auto` stands for where the data set names none, by the shape of a sample."""
    return "small-cnn" if len(shape) == 3 else "mlp"


def _maker(
    name: str, width: int | None, layers: int | None, masks_padding: bool, norm: bool
) -> Callable[[tuple[int, ...], str], nn.Module]:
    """What makes the encoder of a modality from a sample's shape and the modality's name."""

    def expect(shape: tuple[int, ...], modality: str, axes: tuple[int, ...], what: str) -> None:
        if len(shape) not in axes:
            raise ConfigError(
                f"model.encoder {name!r} takes {what}; a sample of {modality!r} is {list(shape)}: use mlp"
            )

    def mlp(shape: tuple[int, ...], modality: str) -> nn.Module:
        first = width or 128
        return MLP(math.prod(shape), hidden=(first, max(first // 2, 1)), norm=norm)

    def resnet18(shape: tuple[int, ...], modality: str) -> nn.Module:
        expect(shape, modality, (3, 4), "images [C, H, W] and frames [C, T, H, W]")
        return ResNet18(in_channels=shape[0], width=width or 64)

    def small_cnn(shape: tuple[int, ...], modality: str) -> nn.Module:
        expect(shape, modality, (2, 3), "images [C, H, W] and [H, W]")
        first = width or 8
        stride = 4 if min(shape[-2:]) >= LARGE_IMAGE else 2
        channels = shape[0] if len(shape) == 3 else 1
        return SmallCNN(
            in_channels=channels, widths=(first, 2 * first, 4 * first, 8 * first), stride=stride
        )

    def transformer(shape: tuple[int, ...], modality: str) -> nn.Module:
        expect(shape, modality, (1,), "sequences, of which a step is [features]")
        size = width or 768
        try:
            return SequenceEncoder(
                shape[0],
                size,
                layers or 8,
                hidden=max(size * 8 // 3, 1),
                masks_padding=masks_padding,
            )
        except ValueError as error:
            raise ConfigError(f"model.width is {size}: {error}") from None

    makers = {"mlp": mlp, "resnet18": resnet18, "small-cnn": small_cnn, "transformer": transformer}
    if name not in makers:
        raise ConfigError(f"model.encoder is {name!r}; expected one of {', '.join(ENCODERS)}")
    return makers[name]
