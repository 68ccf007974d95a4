"""Coalitions from features that are encoded once, for models that say how they encode and fuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.chunks import over_samples
from gradmod.coalitions.masking import (
    can_concatenate,
    check_batch_axis,
    concatenate,
    map_tensors,
    mask,
    masked_row_is_constant,
    proper_coalitions,
)
from gradmod.coalitions.modes import MaskedPassMode, same_in_both_modes, samples_stay_apart
from gradmod.coalitions.protocols import Encodes
from gradmod.coalitions.strategy import Evaluation, Strategy, chunks_of_coalitions, responses_from_coalitions
from gradmod.functional import at_least_float32


class EncoderReuse(Strategy):
    """Each encoder once in train mode and once in eval mode; then only the fusion and the head for each coalition.

    An encoder that computes the same in both modes runs once, the masked row one more sample of its batch.

    Args:
        share_train_pass: True: take the features of the train-mode pass for every encoder, batch norm and dropout or
            not. An approximation (`shared`): masked passes then see this batch's statistics in place of the running
            ones.
    """

    def __init__(self, share_train_pass: bool = False) -> None:
        self.share_train_pass = share_train_pass
        self.exact = not share_train_pass
        self.name = "shared" if share_train_pass else "reuse"

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
        if not isinstance(model, Encodes):
            raise TypeError(
                f"{type(model).__name__} does not declare encode, fuse, head and encoders; use 'batched' or 'looped'"
            )
        check_batch_axis(inputs, modalities)
        same = {m for m in modalities if same_in_both_modes(model.encoders[m])}
        features: dict[str, Tensor] = {}
        hidden: dict[str, Tensor] = {}
        for m in modalities:
            stack = m in same and masked_gradient and len(modalities) > 1 and samples_stay_apart(model.encoders[m])
            row = _masked_row(model, m, inputs[m]) if stack else None
            if row is None:
                features[m] = model.encode(m, inputs[m])
            else:
                encoded = model.encode(m, concatenate((inputs[m], row)))
                features[m], hidden[m] = encoded[:-1], encoded[-1:]
        full = model.head(model.fuse(features))
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()):
            if len(modalities) == 1:
                return Evaluation(full, responses_from_coalitions(full, (), present))
            kept = modalities if self.share_train_pass else same
            mode = MaskedPassMode(model)
            with mode.entered():
                shown = {m: features[m] if m in kept else model.encode(m, inputs[m]) for m in modalities}
                for m in modalities:
                    if m not in hidden:
                        hidden[m] = _hidden_feature(model, m, inputs[m])
            responses = self._responses(model, mode, full, shown, hidden, present)
        return Evaluation(full, responses)

    def _responses(
        self,
        model: Any,
        mode: MaskedPassMode,
        full: Tensor,
        shown: Mapping[str, Tensor],
        hidden: Mapping[str, Tensor],
        present: Tensor | None,
    ) -> Tensor:
        """Mono-modal responses [M, ..., K] from each modality's feature, shown [B, ...] and hidden [1 or B, ...]."""
        coalitions = proper_coalitions(tuple(shown))

        def responses_of(full: Tensor, shown: Any, hidden: Any, present: Tensor | None) -> Tensor:
            stacked = {
                m: torch.cat([x if m in coalition else hidden[m].expand_as(x) for coalition in coalitions])
                for m, x in shown.items()
            }
            with mode.entered():
                logits: Tensor = model.head(model.fuse(stacked))
            return responses_from_coalitions(full, chunks_of_coalitions(logits, full, len(coalitions)), present)

        return over_samples(responses_of, (full, shown, hidden, present), len(full), len(coalitions))


class AdditiveHead(EncoderReuse):
    """Encoder reuse where the logits are a sum over modalities: the responses in closed form, for any M.

    With terms c^m of the shown and z^m of the hidden modality (eval mode), the game is additive but for v(empty) = 0
    and for v(all), which is the train-mode pass; both deviations are shared equally:

        phi^m = c^m - z^m + 1/M * [ v(all) - sum_j (c^j - z^j) ]

    Where a sample lacks modalities, M and the sum are over those that it has, and phi^m is 0 for the others.
    """

    def __init__(self, share_train_pass: bool = False) -> None:
        super().__init__(share_train_pass)
        self.name = "shared (additive head)" if share_train_pass else "additive"

    def _responses(
        self,
        model: Any,
        mode: MaskedPassMode,
        full: Tensor,
        shown: Mapping[str, Tensor],
        hidden: Mapping[str, Tensor],
        present: Tensor | None,
    ) -> Tensor:
        full = at_least_float32(full)
        # A power of two small enough that sums of large but finite terms stay finite; exact, and undone at the end.
        scale = 0.25 / (1 << len(shown).bit_length())
        # Few large operations and not many small ones: for small networks these are most of what AGM costs.
        with mode.entered():
            contributions = {m: model.contribution(m, torch.cat([shown[m], hidden[m]])) for m in shown}
        for m, term in contributions.items():
            if term.shape[1:] != full.shape[1:]:
                raise ValueError(
                    f"contribution({m!r}, ...) has shape {list(term.shape)} and the logits {list(full.shape)}; "
                    "expected the same behind the first axis"
                )
        terms = torch.stack(tuple(contributions.values())) * scale
        gains = (terms[:, : len(full)] - terms[:, len(full) :]).to(full.dtype)
        if present is None:
            responses = gains + (full * scale - gains.sum(0)) / len(shown)
        else:
            has = present.T.reshape(gains.shape[:2] + (1,) * (full.dim() - 1))
            gains = torch.where(has, gains, 0.0)
            responses = torch.where(has, gains + (full * scale - gains.sum(0)) / has.sum(0).clamp(min=1), 0.0)
        limit = torch.finfo(full.dtype).max * scale
        return responses.clamp(-limit, limit) / scale


def _masked_row(model: nn.Module, modality: str, x: Any) -> Any:
    """The masked input [1, ...], where it is the same for every sample and can be one more row of `x`; else None."""
    if not masked_row_is_constant(model):
        return None
    row = mask(model, modality, map_tensors(lambda leaf: leaf[:1], x))
    return row if can_concatenate(x, row) else None


def _hidden_feature(model: Any, modality: str, x: Any) -> Tensor:
    """Feature of the masked input: [1, ...] where it is the same for every sample, else [B, ...]."""
    if masked_row_is_constant(model):
        x = map_tensors(lambda leaf: leaf[:1], x)
    feature: Tensor = model.encode(modality, mask(model, modality, x))
    return feature
