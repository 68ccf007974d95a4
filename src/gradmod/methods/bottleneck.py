"""A conditional entropy bottleneck: a decoder says what the prediction tells of the features, the rest is a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from gradmod.functional import at_least_float32
from gradmod.methods.heads import UnsizedParameters, begin_as, parameter_dtype, take_saved_size


class FeatureDecoder(nn.Module):
    """What each modality's feature is in the mean, given the logits; sized by the first features and logits.

        d^m(logits) = W^m relu(V logits)          V [F, K], W^m [F^m, F], F the largest of the F^m; no biases

    The parameters exist from the beginning, so that an optimizer can be made before the sizes are known; a state dict
    gives them their sizes as well.

    Args:
        modalities: names.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.hidden = cast("nn.Parameter", UninitializedParameter())
        self.weights = UnsizedParameters(modalities)

    @property
    def has_sizes(self) -> bool:
        """Whether the sizes are known."""
        return not isinstance(self.hidden, UninitializedParameter)

    @torch.no_grad()
    def take_sizes(self, features: Mapping[str, Any], logits: Tensor) -> None:
        """Take the sizes of features [B, ..., F^m] and logits [B, ..., K]; begin as torch begins linear layers.

        Raises:
            ValueError: a feature is no tensor, or has not the axes of the logits before the last.
        """
        for m in self.modalities:
            _check_axes(m, features[m], logits)
        sizes = {m: features[m].shape[-1] for m in self.modalities}
        width = max(sizes.values())
        device, dtype = logits.device, parameter_dtype(logits)
        first = nn.Linear(logits.shape[-1], width, device=device, dtype=dtype)
        begin_as(self.hidden, first.weight)
        for m in sorted(sizes):  # the order in which they are named makes no difference
            layer = nn.Linear(width, sizes[m], device=device, dtype=dtype)
            begin_as(self.weights[m], layer.weight)

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        """By modality [B, ..., F^m], of logits [B, ..., K]."""
        # A class that is ruled out, by a logit of minus infinity, says nothing of the features.
        finite = torch.where(logits.isinf(), 0, logits)
        hidden = nn.functional.linear(finite, self.hidden).relu()
        return {m: nn.functional.linear(hidden, weight) for m, weight in self.weights.items()}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        take_saved_size(self.hidden, state_dict.get(f"{prefix}hidden"))
        for m, weight in self.weights.items():
            take_saved_size(weight, state_dict.get(f"{prefix}weights.{m}"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def bottleneck_loss(
    decoder: FeatureDecoder, features: Mapping[str, Any], logits: Tensor, counted: Tensor
) -> Tensor:
    """How far features are from what the logits say of them: their mean squared distance.

        mean over modalities, samples and numbers of  ( z^m - d^m(logits) )^2

    This is the conditional entropy bottleneck (Fischer 2020) of encoders without noise. It bounds from above what
    features Z keep of the inputs X beyond the prediction Y,

        I(Z; X | Y)  <=  E[ log e(z|x) - log b(z|y) ]

    with b a Gaussian around d^m of the variance 1/2: of a number, the divergence of two such Gaussians, one around the
    feature and one around what the logits say, is the squared distance. The logits are a condition, and get no
    gradient; encoders and decoder do.

    Args:
        decoder: whose sizes are known.
        features: by modality, [B, ..., F^m].
        logits: [B, ..., K].
        counted: [M, B, ...] above 0 where there is a feature, in the order of the decoder's modalities.

    Returns:
        Scalar; 0, with a graph, where nothing counts.

    Raises:
        ValueError: a feature is no tensor, or of other axes or another size than the decoder knows.
    """
    said = decoder(logits.detach())
    total = counted.new_zeros(())
    numbers = counted.new_zeros((), dtype=torch.long)
    for m, counts in zip(decoder.modalities, counted > 0, strict=True):
        _check_axes(m, features[m], logits)
        if features[m].shape != said[m].shape:
            raise ValueError(
                f"the feature of {m!r} has {features[m].shape[-1]} numbers, and the bottleneck's decoder makes "
                f"{said[m].shape[-1]}, as in the first batch. Expected the same in every batch"
            )
        distance = at_least_float32(features[m]) - at_least_float32(said[m])
        total = total + torch.where(counts.unsqueeze(-1), distance, 0).square().sum()
        numbers = numbers + counts.sum() * distance.shape[-1]
    return total / numbers.clamp(min=1)


def _check_axes(modality: str, feature: Any, logits: Tensor) -> None:
    """Raise ValueError unless the feature is [B, ..., F] with the axes of the logits before the last."""
    if not isinstance(feature, Tensor) or feature.shape[:-1] != logits.shape[:-1]:
        what = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise ValueError(
            f"the bottleneck says from the logits {list(logits.shape)} what features are, and that of {modality!r} is "
            f"{what}; expected {[*logits.shape[:-1], 'F']}. Let encode return pooled features, or use bottleneck=0"
        )
