"""The features that a network would have with other weights in its encoders."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.features import features_pass
from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes

EncoderState = Mapping[str, Tensor]
"""Parameters and buffers of an encoder, by the names of its `state_dict`."""


@torch.no_grad()
def features_with(
    model: nn.Module,
    encoders: Mapping[str, nn.Module],
    states: Mapping[str, EncoderState],
    inputs: Mapping[str, Any],
    modalities: Sequence[str],
    before: NetworkState | None,
) -> dict[str, Any]:
    """What the encoders give with other weights, in eval mode and without gradient; nothing is left changed by it.

    Args:
        model: the network, after its full pass.
        encoders: its encoder of each modality.
        states: the other weights, by modality.
        inputs: the batch, by modality.
        modalities: whose features.
        before: the network's state before the full pass; None in a compiled step.

    Returns:
        Features by modality.
    """
    places = {id(tensor): name for name, tensor in _tensors_of(model)}
    replaced: dict[str, Tensor] = {}
    for m in modalities:
        own = dict(_tensors_of(encoders[m]))
        replaced |= {f"model.{places[id(own[name])]}": t for name, t in states[m].items()}
    with masked_passes(model, before):
        features: dict[str, Any] = torch.func.functional_call(
            _Features(model, modalities), replaced, (inputs,)
        )
    return features


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(module.named_parameters(), module.named_buffers())


class _Features(nn.Module):
    """The network's features as the answer of a module, whose parameters can then be named."""

    def __init__(self, model: nn.Module, modalities: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(modalities)
        self.training = model.training

    def forward(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return features_pass(self.model, inputs, self.names, gradient=False).features
