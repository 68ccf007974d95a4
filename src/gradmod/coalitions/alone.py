"""What a network says of one modality alone, where nothing but that modality's encoder learns from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradmod.coalitions.features import features_pass
from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import first_row, map_tensors, mask, with_items
from gradmod.coalitions.reuse import masked_feature, stack_coalitions
from gradmod.protocols import declared_modules, declares_encoding, logits_of


class DisentangledPass(NamedTuple):
    """A full pass whose gradient ends before the encoders, and what the network says of each modality alone.

    Attributes:
        output: what the network returned; its loss reaches the fusion and the head.
        alone: [M, B, ..., K] logits of each modality alone; a loss of them reaches its encoder, and nothing else.
    """

    output: Any
    alone: Tensor


def disentangled_pass(
    model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str], *, zero: bool
) -> DisentangledPass:
    """Run the network's own forward on features without gradient, and its fusion on each modality alone.

    The passes alone are in eval mode, as every masked pass is. A network that says how it encodes runs each encoder
    once; another one runs whole for every modality.

    Args:
        model: the network; declares its `encoders`.
        inputs: the batch, by modality.
        modalities: their order.
        zero: alone means that the features of the others are zeros; else that their inputs are masked.

    Raises:
        RuntimeError: see `features_pass`.
    """
    before = NetworkState(model)
    output, features = features_pass(model, inputs, modalities, change=_without_gradient)
    with _held_fixed(model, modalities), masked_passes(model, before):
        if declares_encoding(model, modalities):
            hidden = _zeros(features) if zero else _masked(model, inputs, modalities)
            return DisentangledPass(output, _through_fusion(model, modalities, features, hidden))
        return DisentangledPass(output, _through_network(model, inputs, modalities, zero))


@torch.no_grad()
def say_alone(
    model: nn.Module,
    inputs: Mapping[str, Any],
    modalities: Sequence[str],
    features: Mapping[str, Any],
    before: NetworkState,
) -> Tensor:
    """[M, B, ..., K] what a network says of each modality alone, from features that are there; values only.

    Args:
        model: says how it encodes.
        inputs: the batch, by modality.
        modalities: their order.
        features: of the batch.
        before: the network's state before they were encoded.
    """
    with masked_passes(model, before):
        return _through_fusion(model, modalities, features, _masked(model, inputs, modalities))


@torch.no_grad()
def _masked(model: Any, inputs: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, Any]:
    """The feature of each modality's masked input."""
    return {
        m: masked_feature(model, m, inputs[m], first_row(inputs[m]) is not None) for m in modalities
    }


def _zeros(features: Mapping[str, Any]) -> dict[str, Any]:
    return {m: map_tensors(torch.zeros_like, feature) for m, feature in features.items()}


def _through_fusion(
    model: Any, modalities: Sequence[str], features: Mapping[str, Any], hidden: Mapping[str, Any]
) -> Tensor:
    """One pass of fusion and head over the samples once for each modality, the others as in `hidden`."""
    stacked = {
        m: stack_coalitions(features[m], hidden[m], [m == shown for shown in modalities])
        for m in modalities
    }
    logits = logits_of(model, model.head(model.fuse(stacked)))
    return logits.reshape(len(modalities), -1, *logits.shape[1:])


def _through_network(
    model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str], zero: bool
) -> Tensor:
    """The whole network once for each modality; the others' features are zeros, or held back."""
    hidden = {m: mask(model, m, inputs[m]) for m in modalities}

    def said_of(shown: str) -> Tensor:
        seen = with_items(inputs, {m: hidden[m] for m in modalities if m != shown})

        def change(modality: str, feature: Any) -> Any:
            if modality == shown:
                return feature
            if zero:
                return map_tensors(torch.zeros_like, feature)
            return _without_gradient(modality, feature)

        return logits_of(model, features_pass(model, seen, modalities, change=change).output)

    return torch.stack([said_of(m) for m in modalities])


def _without_gradient(modality: str, feature: Any) -> Any:
    return map_tensors(lambda leaf: leaf.detach(), feature)


@contextmanager
def _held_fixed(model: nn.Module, modalities: Sequence[str]) -> Iterator[None]:
    """While entered, what is computed reaches no parameter but those of the encoders."""
    encoders = declared_modules(model, "encoders", modalities) or {}
    own = {id(parameter) for m in modalities for parameter in encoders[m].parameters()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
