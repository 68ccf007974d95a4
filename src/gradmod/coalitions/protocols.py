"""What gradmod knows of a model: what it returns, and what it may declare so that coalitions cost less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


class Output(NamedTuple):
    """Logits together with a loss of the model's own; a tuple, so that DDP and Fabric can look into it.

    Attributes:
        logits: [..., K], what is modulated.
        extra_loss: scalar, added to the task's loss as it is; the masked passes' extra losses are not used.
    """

    logits: Tensor
    extra_loss: Tensor


def split_output(output: Tensor | Output) -> tuple[Tensor, Tensor | None]:
    """Return the logits and, if there is one, the extra loss.

    Raises:
        TypeError: the model returned something else.
        ValueError: the logits have fewer than two axes.
    """
    logits, extra_loss = output if isinstance(output, Output) else (output, None)
    if isinstance(logits, Tensor):
        if logits.dim() < 2:
            raise ValueError(
                f"the model returned logits of shape {list(logits.shape)}; expected [B, ..., K], the batch first and "
                "the outputs last. For one output a sample: logits.unsqueeze(-1)"
            )
        return logits, extra_loss
    raise TypeError(
        f"the model returned {type(output).__name__}; expected a logits tensor [..., K] or gradmod.Output(logits, "
        "extra_loss): wrap it with gradmod.adapt(net, call=...)"
    )


@runtime_checkable
class Encodes(Protocol):
    """A model that says how it encodes each modality and fuses the features.

    Its `forward(inputs)` must equal `head(fuse({m: encode(m, inputs[m]) for every modality m}))`, and `encode(m, x)`
    must run no module but `encoders[m]`.
    """

    encoders: Mapping[str, nn.Module]

    def encode(self, modality: str, x: Any) -> Tensor:
        """Features [B, ...] of one modality's input."""

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint feature [B, ...], what the head reads."""

    def head(self, joint: Tensor) -> Tensor:
        """Logits [B, ..., K] of a joint feature."""


@runtime_checkable
class Additive(Encodes, Protocol):
    """A model whose logits are a sum: a term for each modality, and a constant."""

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        """Term [B, ..., K] of one modality. A bias that belongs to no modality is left out."""


@runtime_checkable
class HasOwnHeads(Encodes, Protocol):
    """A model in which every modality has a head of its own, and so makes predictions of its own."""

    def mono_logits(self, features: Mapping[str, Tensor]) -> Tensor:
        """[M, B, ..., K] each modality's own logits, in the order of `features`."""


@runtime_checkable
class DefinesMask(Protocol):
    """A model that says what a hidden modality looks like; without it, a floating tensor of zeros."""

    def mask(self, modality: str, x: Any) -> Any:
        """The masked input, of the same structure and batch size as `x`."""
