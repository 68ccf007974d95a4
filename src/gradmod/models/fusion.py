"""Networks made of one encoder for each modality and a fusion: late, sum and early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod.coalitions.masking import zeroed
from gradmod.models.maxout import MaxOutMLP


class _Fusion(nn.Module):
    """Encoders, and what the fusions have in common.

    Args:
        encoders: a module with `out_features` for each modality; their order is that of the joint feature.
        classes: number of logits.
    """

    forward_ignores_mode = True
    mask_is_constant = True
    encodes_as_declared = True
    head: nn.Module

    def __init__(self, encoders: Mapping[str, nn.Module], classes: int) -> None:
        super().__init__()
        if not encoders:
            raise ValueError("encoders is empty; expected one for each modality")
        if classes < 1:
            raise ValueError(f"classes is {classes}; expected a number >= 1")
        self.modalities = tuple(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.feature_sizes = {m: int(encoder.out_features) for m, encoder in encoders.items()}  # type: ignore[arg-type]

    def encode(self, modality: str, x: Any) -> Tensor:
        """Features [B, F] of one modality."""
        feature: Tensor = self.encoders[modality](x)
        return feature

    def mask(self, modality: str, x: Any) -> Any:
        """The input of a hidden modality: what its encoder's `mask(x)` says, the same for every sample; else zeros."""
        own = getattr(self.encoders[modality], "mask", None)
        return zeroed(modality, x) if own is None else own(x)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint feature [B, ...], what the head reads."""
        return torch.cat([features[m] for m in self.modalities], 1)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Logits [B, classes] of a batch by modality.

        Raises:
            ValueError: `inputs` lacks a modality.
        """
        missing = [m for m in self.modalities if m not in inputs]
        if missing:
            raise ValueError(
                f"inputs lack {', '.join(map(repr, missing))}; they hold {list(inputs)}"
            )
        logits: Tensor = self.head(
            self.fuse({m: self.encode(m, inputs[m]) for m in self.modalities})
        )
        return logits


class LateFusion(_Fusion):
    """Encoders, concatenation, one linear head: the logits are a sum over modalities, and a bias."""

    def __init__(self, encoders: Mapping[str, nn.Module], classes: int) -> None:
        super().__init__(encoders, classes)
        self.head: nn.Linear = nn.Linear(sum(self.feature_sizes.values()), classes)

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        """The modality's term [B, classes] of the logits; the bias is no modality's."""
        position = self.modalities.index(modality)
        start = sum(self.feature_sizes[m] for m in self.modalities[:position])
        return F.linear(feature, self.head.weight[:, start : start + self.feature_sizes[modality]])


class SumFusion(_Fusion):
    """Encoders, a linear head for each modality, and the sum of their logits."""

    def __init__(self, encoders: Mapping[str, nn.Module], classes: int) -> None:
        super().__init__(encoders, classes)
        self.heads = nn.ModuleDict(
            {m: nn.Linear(size, classes) for m, size in self.feature_sizes.items()}
        )
        self.head = _SumOfHeads()

    def mono_logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """[M, B, classes] each modality's own logits, in the order of `features`."""
        return torch.stack([self.contribution(m, feature) for m, feature in features.items()])

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """[B, M, classes]: each modality's own logits, which the head adds up."""
        return torch.stack([self.contribution(m, features[m]) for m in self.modalities], 1)

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        """The modality's own logits [B, classes]."""
        logits: Tensor = self.heads[modality](feature)
        return logits


class _SumOfHeads(nn.Module):
    forward_ignores_mode = True

    def forward(self, joint: Tensor) -> Tensor:
        return joint.sum(1)


class EarlyFusion(_Fusion):
    """Encoders, concatenation, a MaxOut network, one linear head.

    Args:
        encoders: a module with `out_features` for each modality.
        classes: number of logits.
        hidden: sizes of the MaxOut network.
        pool: pieces of each maximum.
        dropout: in the MaxOut network.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        classes: int,
        hidden: Sequence[int] = (2048, 1024),
        pool: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__(encoders, classes)
        self.joint = MaxOutMLP(sum(self.feature_sizes.values()), hidden, pool, dropout)
        self.head: nn.Linear = nn.Linear(self.joint.out_features, classes)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Output [B, hidden[-1]] of the MaxOut network."""
        joint: Tensor = self.joint(super().fuse(features))
        return joint
