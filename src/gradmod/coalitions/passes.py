"""Coalitions by passes through the whole model, for anything callable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.chunks import over_samples
from gradmod.coalitions.masking import check_batch_axis, concatenate, map_tensors, mask, proper_coalitions
from gradmod.coalitions.modes import MaskedPassMode
from gradmod.coalitions.protocols import split_output
from gradmod.coalitions.strategy import Evaluation, Strategy, chunks_of_coalitions, responses_from_coalitions


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
        present: Tensor | None = None,
    ) -> Evaluation:
        """See `Strategy.evaluate`."""
        output = model(inputs)
        full, _ = split_output(output)
        mode = MaskedPassMode(model)
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()), mode.entered():
            hidden = {m: mask(model, m, inputs[m]) for m in modalities} if len(modalities) > 1 else {}
            masked = [
                split_output(model({**inputs, **{m: hidden[m] for m in modalities if m not in coalition}}))[0]
                for coalition in proper_coalitions(modalities)
            ]
            responses = responses_from_coalitions(full, masked, present)
        return Evaluation(output, responses)


class Batched(Strategy):
    """The masked coalitions stacked on the batch axis: one pass on all modalities, and one larger pass in eval mode.

    Right for a model that treats the samples of a batch one by one in eval mode, as every classifier should. Where the
    stack would take more than a share of the memory, a few samples at a time (see `chunks`).
    """

    name = "batched"

    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
        present: Tensor | None = None,
    ) -> Evaluation:
        """See `Strategy.evaluate`."""
        check_batch_axis(inputs, modalities)
        output = model(inputs)
        full, _ = split_output(output)
        names = tuple(modalities)
        if len(names) == 1:
            return Evaluation(output, responses_from_coalitions(full, (), present))
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()):
            hidden = {m: mask(model, m, inputs[m]) for m in names}
            mode = MaskedPassMode(model)

            def responses_of(full: Tensor, inputs: Any, hidden: Any, present: Tensor | None) -> Tensor:
                stacked = _stacked_pass(model, mode, inputs, hidden, names, len(full))
                masked = chunks_of_coalitions(stacked, full, len(proper_coalitions(names)))
                return responses_from_coalitions(full, masked, present)

            trees = (full, dict(inputs), hidden, present)
            responses = over_samples(responses_of, trees, len(full), len(proper_coalitions(names)))
        return Evaluation(output, responses)


def _stacked_pass(
    model: nn.Module, mode: MaskedPassMode, inputs: Any, hidden: Any, modalities: Sequence[str], samples: int
) -> Tensor:
    """Logits of the proper coalitions, from one pass on all of them."""
    coalitions = proper_coalitions(modalities)

    def repeat(leaf: Tensor) -> Tensor:
        of_samples = leaf.dim() > 0 and len(leaf) == samples
        return torch.cat([leaf] * len(coalitions)) if of_samples else leaf

    stacked = {key: map_tensors(repeat, x) for key, x in inputs.items() if key not in modalities}
    for m in modalities:
        stacked[m] = concatenate([inputs[m] if m in coalition else hidden[m] for coalition in coalitions])
    with mode.entered():
        logits, _ = split_output(model(stacked))
    return logits
