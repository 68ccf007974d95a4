"""A network with one head for all modalities in place of its fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gradmod.coalitions.masking import mask
from gradmod.methods.heads import begin_as, parameter_dtype, take_saved_size
from gradmod.protocols import declared_modules, declares_encoding, logits_of

WEIGHTINGS = ("entropy", "mean")


class SharedHeadFusion(nn.Module):
    """The encoders of a network, one linear head that reads each modality's feature, and a mean of what it says.

        logits = sum over m of  w^m * head(z^m),     w = 1/M, or softmax over m of minus the entropy of head(z^m)

    The weights are those of the sample alone. What else the network has, its own fusion and head, stays in it and is
    not used, but for the number of outputs. Features of unequal sizes are filled up with zeros to the largest.

    Args:
        network: says how it encodes (`gradmod.protocols.Encodes`).
        modalities: names, in their order.
        weighting: entropy, a sample's own weights by how sure the head is of each modality; or mean.

    Attributes:
        head: the shared linear layer, and the mean; its sizes are those of the first batch.

    Raises:
        ValueError: the network does not say how it encodes.
    """

    forward_ignores_mode = True
    encodes_as_declared = True

    def __init__(self, network: nn.Module, modalities: Sequence[str], weighting: str) -> None:
        super().__init__()
        if not declares_encoding(network, modalities):
            raise ValueError(
                f"a shared head takes the place of the network's fusion, but {type(network).__name__} does not say "
                "how it encodes each modality and fuses the features. Give it `encoders`, `encode`, `fuse` and "
                "`head`, or adapt it: gradmod.adapt(net, encoders=..., fuse=..., head=...)"
            )
        self.network = network
        self.modalities = tuple(modalities)
        self.head = _SharedHead(weighting)
        self._rank = 0  # axes of the logits, once they are known

    @property
    def encoders(self) -> Mapping[str, nn.Module]:
        """The network's own."""
        return declared_modules(self.network, "encoders", self.modalities) or {}

    @property
    def mask_is_constant(self) -> bool:
        """Whether the network's mask gives every sample the same."""
        return bool(getattr(self.network, "mask_is_constant", False))

    @property
    def weight(self) -> nn.Parameter:
        """[K, F] of the shared head."""
        return self.head.linear.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter:
        """[K] of the shared head."""
        return self.head.linear.get_parameter("bias")

    @property
    def has_sizes(self) -> bool:
        """Whether the sizes of the head are known."""
        return not isinstance(self.weight, UninitializedParameter)

    def mask(self, modality: str, x: Any) -> Any:
        """What the network sees of a hidden modality."""
        return mask(self.network, modality, x)

    def encode(self, modality: str, x: Any) -> Any:
        """The network's own feature of one modality."""
        return self.network.encode(modality, x)  # type: ignore[operator]

    def rows(self, modality: str, feature: Any) -> Tensor:
        """[B, ..., F] what the head reads of a feature.

        Raises:
            ValueError: the feature is no tensor, or of another size than the first batch's.
        """
        read = _rows(modality, feature, self._rank)
        if read.shape[-1] > self.weight.shape[1]:
            raise ValueError(
                f"the feature of {modality!r} has {read.shape[-1]} numbers; the shared head reads "
                f"{self.weight.shape[1]}, as in the first batch. Expected the same in every batch"
            )
        return F.pad(read, (0, self.weight.shape[1] - read.shape[-1]))

    def alone(self, modality: str, feature: Any) -> Tensor:
        """[B, ..., K] what the head says of one modality's feature."""
        logits: Tensor = self.head.linear(self.rows(modality, feature))
        return logits

    def mono_logits(self, features: Mapping[str, Any]) -> Tensor:
        """[M, B, ..., K] what the head says of each feature, in the order of `features`."""
        return torch.stack([self.alone(m, feature) for m, feature in features.items()])

    def fuse(self, features: Mapping[str, Any]) -> Tensor:
        """[B, ..., M, F] what the head reads of each modality."""
        return torch.stack([self.rows(m, features[m]) for m in self.modalities], -2)

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Logits [B, ..., K]."""
        features = {m: self.encode(m, inputs[m]) for m in self.modalities}
        if not self.has_sizes:
            self._initialize(features)
        logits: Tensor = self.head(self.fuse(features))
        return logits

    @torch.no_grad()
    def _initialize(self, features: Mapping[str, Any]) -> None:
        """Take the sizes from the features and from the network's own logits; begin as torch begins a linear layer."""
        net: Any = self.network
        logits = logits_of(net, net.head(net.fuse(features)))
        self._rank = logits.dim()
        read = {m: _rows(m, feature, self._rank) for m, feature in features.items()}
        for m, rows in read.items():
            if rows.shape[:-1] != logits.shape[:-1]:
                raise ValueError(
                    f"the feature of {m!r} has shape {list(features[m].shape)} and the network's logits "
                    f"{list(logits.shape)}; expected [B, ..., F] with the axes of the logits before the last"
                )
        first = next(iter(read.values()))
        size = max(rows.shape[-1] for rows in read.values())
        layer = nn.Linear(size, logits.shape[-1], device=first.device, dtype=parameter_dtype(first))
        begin_as(self.weight, layer.weight)
        begin_as(self.bias, layer.bias)

    def get_extra_state(self) -> Tensor:
        """The number of the logits' axes."""
        return torch.tensor(self._rank)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back what `get_extra_state` gave."""
        self._rank = int(state)


class _SharedHead(nn.Module):
    """One linear layer over [B, ..., M, F], and the mean over modalities, each sample's weights its own."""

    forward_ignores_mode = True

    def __init__(self, weighting: str) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        self.weighting = weighting
        self.linear = nn.Linear(1, 1)
        for name in ("weight", "bias"):  # sized by the first batch
            setattr(self.linear, name, UninitializedParameter())

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"weighting={self.weighting!r}"

    def forward(self, joint: Tensor) -> Tensor:
        """[B, ..., K]."""
        logits: Tensor = self.linear(joint)
        if self.weighting == "mean":
            return logits.mean(-2)
        logarithms = logits.log_softmax(-1)
        entropy = -(logarithms.exp() * logarithms).sum(-1, keepdim=True)
        return (torch.softmax(-entropy, -2) * logits).sum(-2)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, parameter in self.linear.named_parameters():
            take_saved_size(parameter, state_dict.get(f"{prefix}linear.{name}"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _rows(modality: str, feature: Any, rank: int) -> Tensor:
    """The feature as [B, ..., F] with as many axes as the logits have."""
    if not isinstance(feature, Tensor) or feature.dim() < rank:
        what = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise ValueError(
            f"the feature of {modality!r} is {what}; a shared head reads a tensor [B, ..., F] with the axes of the "
            f"logits, {rank} of them. Let encode return one: gradmod.adapt(net, encode=...)"
        )
    return feature.flatten(rank - 1)
