"""Encoders, fusions, and the networks made of them."""

from gradmod.models.coattention import CoAttention
from gradmod.models.fusion import EarlyFusion, LateFusion, SumFusion
from gradmod.models.maxout import MaxOutMLP
from gradmod.models.mlp import MLP
from gradmod.models.psp import PositiveSamplePropagation
from gradmod.models.resnet import ResNet18
from gradmod.models.small_cnn import SmallCNN
from gradmod.models.transformer import SequenceEncoder

__all__ = [
    "MLP",
    "CoAttention",
    "EarlyFusion",
    "LateFusion",
    "MaxOutMLP",
    "PositiveSamplePropagation",
    "ResNet18",
    "SequenceEncoder",
    "SmallCNN",
    "SumFusion",
]
