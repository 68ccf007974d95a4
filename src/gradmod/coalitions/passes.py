"""Coalitions by passes through the whole model, for anything callable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import concatenate, mask, proper_coalitions
from gradmod.coalitions.modes import masked_pass_mode
from gradmod.coalitions.protocols import split_output
from gradmod.coalitions.strategy import Evaluation, Strategy, responses_from_coalitions


class Looped(Strategy):
    """One pass for each coalition: 2^M - 1 passes, and the least memory."""

    name = "looped"

    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
    ) -> Evaluation:
        """See `Strategy.evaluate`."""
        output = model(inputs)
        full, _ = split_output(output)
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()), masked_pass_mode(model):
            hidden = {m: mask(model, m, inputs[m]) for m in modalities} if len(modalities) > 1 else {}
            masked = [
                split_output(model({**inputs, **{m: hidden[m] for m in modalities if m not in coalition}}))[0]
                for coalition in proper_coalitions(modalities)
            ]
            responses = responses_from_coalitions(full, masked)
        return Evaluation(output, responses)


class Batched(Strategy):
    """The masked coalitions stacked on the batch axis: one pass on all modalities, and one larger pass in eval mode.

    Right for a model that treats the samples of a batch one by one in eval mode, as every classifier should.
    """

    name = "batched"

    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
    ) -> Evaluation:
        """See `Strategy.evaluate`."""
        output = model(inputs)
        full, _ = split_output(output)
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()), masked_pass_mode(model):
            masked = self._stacked_pass(model, inputs, modalities)
            responses = responses_from_coalitions(full, masked)
        return Evaluation(output, responses)

    def _stacked_pass(self, model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str]) -> Sequence[Tensor]:
        coalitions = proper_coalitions(modalities)
        if not coalitions:
            return ()
        stacked = {key: concatenate([x] * len(coalitions)) for key, x in inputs.items() if key not in modalities}
        for m in modalities:
            hidden = mask(model, m, inputs[m])
            stacked[m] = concatenate([inputs[m] if m in coalition else hidden for coalition in coalitions])
        logits, _ = split_output(model(stacked))
        return logits.chunk(len(coalitions))
