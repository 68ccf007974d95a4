"""Uni-modal heads that a method needs and the network does not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter, is_lazy


class UniModalHeads(nn.Module):
    """A linear head for each modality, sized by the first features and logits that it sees.

    The parameters exist from the beginning, so that an optimizer can be made before the sizes are known; a state dict
    gives them their sizes as well.

    Args:
        modalities: names, in the order of the logits.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.weights = UnsizedParameters(modalities)
        self.biases = UnsizedParameters(modalities)

    @property
    def has_sizes(self) -> bool:
        """Whether the sizes are known."""
        return not any(
            isinstance(weight, UninitializedParameter) for weight in self.weights.values()
        )

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Weight and bias of a modality's head."""
        return [self.weights[modality], self.biases[modality]]

    def forward(self, features: Mapping[str, Any], logits: Tensor) -> Tensor:
        """[M, B, ..., K] logits of each modality's feature, in the form of the joint `logits` [B, ..., K].

        Raises:
            ValueError: a feature is no tensor, or has not the samples of the logits.
        """
        read = {m: _as_rows(features[m], logits, m) for m in self.modalities}
        outputs = {m: logits.shape[rows.dim() - 1 :].numel() for m, rows in read.items()}
        if not self.has_sizes:
            self._initialize(read, outputs)
        for m, rows in read.items():
            sizes = [outputs[m], rows.shape[-1]]
            if sizes != list(self.weights[m].shape):
                raise ValueError(
                    f"the uni-modal head of {m!r} makes {self.weights[m].shape[0]} numbers of "
                    f"{self.weights[m].shape[1]}, and this batch asks for {sizes[0]} of {sizes[1]}; expected features "
                    "and logits of the same size in every batch"
                )
        each = [
            nn.functional.linear(read[m], self.weights[m], self.biases[m]) for m in self.modalities
        ]
        return torch.stack([own.reshape(logits.shape) for own in each])

    @torch.no_grad()
    def _initialize(self, read: Mapping[str, Tensor], outputs: Mapping[str, int]) -> None:
        """As torch begins a linear layer."""
        for m, rows in read.items():
            layer = nn.Linear(
                rows.shape[-1], outputs[m], device=rows.device, dtype=parameter_dtype(rows)
            )
            begin_as(self.weights[m], layer.weight)
            begin_as(self.biases[m], layer.bias)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for kind in ("weights", "biases"):
            for m, parameter in getattr(self, kind).items():
                take_saved_size(parameter, state_dict.get(f"{prefix}{kind}.{m}"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class UnsizedParameters(nn.ParameterDict):
    """A parameter for each modality, without a size as yet.

    Args:
        modalities: names.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__({m: UninitializedParameter() for m in modalities})

    def extra_repr(self) -> str:
        """Sizes, for `repr`, which torch's own cannot say where there is none."""
        return "\n".join(
            f"({m}): {'no size yet' if is_lazy(p) else list(p.shape)}" for m, p in self.items()
        )


@torch.no_grad()
def begin_as(parameter: nn.Parameter, start: Tensor) -> None:
    """Give a parameter without a size that of `start`, and its values."""
    if isinstance(parameter, UninitializedParameter):
        parameter.materialize(start.shape, start.device, start.dtype)
    parameter.copy_(start)


def take_saved_size(parameter: nn.Parameter, saved: object) -> None:
    """Give a parameter without a size that of a saved tensor, which is going to be loaded into it."""
    if isinstance(parameter, UninitializedParameter) and type(saved) is Tensor:
        parameter.materialize(saved.shape, parameter.device, saved.dtype)


def parameter_dtype(rows: Tensor) -> torch.dtype:
    """Parameters stay in 32 bits where autocast makes the features smaller."""
    enabled = torch.is_autocast_enabled(rows.device.type)
    return torch.float32 if enabled else rows.dtype


def _as_rows(feature: Any, logits: Tensor, modality: str) -> Tensor:
    """The feature as [B, ..., F] with the leading axes of the logits, or, for all of a sample's logits, as [B, F]."""
    if not isinstance(feature, Tensor):
        raise ValueError(
            f"the feature of {modality!r} is {type(feature).__name__}; a uni-modal head of gradmod's own reads a "
            "tensor [B, ..., F]. Give the network heads of its own: gradmod.adapt(net, ..., heads=...)"
        )
    if feature.dim() > 1 and feature.shape[:-1] == logits.shape[:-1]:
        return feature
    if feature.dim() > 1 and len(feature) == len(logits):
        return feature.flatten(1)
    raise ValueError(
        f"the feature of {modality!r} has shape {list(feature.shape)} and the logits {list(logits.shape)}; expected "
        f"{len(logits)} samples and their numbers behind. Give the network heads of its own: gradmod.adapt(net, ..., "
        "heads=...)"
    )
