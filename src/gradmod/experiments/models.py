"""Encoders and fusions by name, as import strings: naming them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelInfo:
    """What `gradmod list` says of an encoder or a fusion.

    Attributes:
        name: on the command line.
        factory: "module:Class".
        summary: one line.
    """

    name: str
    factory: str
    summary: str


def _by_name(*infos: ModelInfo) -> dict[str, ModelInfo]:
    return {info.name: info for info in infos}


ENCODERS = _by_name(
    ModelInfo(
        "small-cnn",
        "gradmod.models.small_cnn:SmallCNN",
        "four blocks of convolution and maximum; --width: channels of the first (8)",
    ),
    ModelInfo(
        "resnet18",
        "gradmod.models.resnet:ResNet18",
        "ResNet-18; --width: channels of its first stage (64)",
    ),
    ModelInfo(
        "transformer",
        "gradmod.models.transformer:SequenceEncoder",
        "layers of self-attention over a sequence; --width (768), --layers (8)",
    ),
    ModelInfo(
        "mlp",
        "gradmod.models.mlp:MLP",
        "two linear layers; --width: units of the first (128), --norm: batch norm",
    ),
)
FUSIONS = _by_name(
    ModelInfo("late", "gradmod.models.fusion:LateFusion", "concatenation, one linear head"),
    ModelInfo(
        "sum", "gradmod.models.fusion:SumFusion", "a linear head for each modality, logits added"
    ),
    ModelInfo(
        "early", "gradmod.models.fusion:EarlyFusion", "concatenation, MaxOut network, linear head"
    ),
)
