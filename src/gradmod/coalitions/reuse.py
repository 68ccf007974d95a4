"""Coalitions from features that are encoded once, for models that say how they encode and fuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import (
    append_row,
    first_row,
    map_tensors,
    mask,
    masked_row_is_constant,
    proper_coalitions,
    tensor_leaves,
)
from gradmod.coalitions.modes import same_in_both_modes, samples_stay_apart
from gradmod.coalitions.strategy import (
    Evaluation,
    Strategy,
    responses_from_coalitions,
    split_coalitions,
)
from gradmod.functional import at_least_float32
from gradmod.protocols import logits_of


class EncoderReuse(Strategy):
    """Each encoder once in train mode and once in eval mode; then only the fusion and the head for each coalition.

    The full pass is the model's own forward; what its `encode` returned in it is kept. An encoder that computes the
    same in both modes runs once, the masked row one more sample of its batch.

    Args:
        batch_axes: see `Strategy`; features and joint features have their samples where the logits have them.
        share_train_pass: True: take the features of the train-mode pass for every encoder, batch norm and dropout or
            not. An approximation (`shared`): masked passes then see this batch's statistics in place of the running
            ones.
    """

    def __init__(
        self, batch_axes: Mapping[str, int] | None = None, share_train_pass: bool = False
    ) -> None:
        super().__init__(batch_axes)
        self._uneven: set[str] = set()
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
        net: Any = model
        several = len(modalities) > 1
        same = {m for m in modalities if several and same_in_both_modes(net.encoders[m])}
        # A modality with a tensor that once had other rows than the batch has no single row, whatever comes later.
        self._uneven |= {m for m in modalities if first_row(inputs[m]) is None}
        even = {m for m in modalities if m not in self._uneven}
        appended = {
            m for m in same & even if masked_gradient and samples_stay_apart(net.encoders[m])
        }
        rows = {m: _masked_row(net, m, inputs[m], True) for m in appended}
        encoded = RecordedEncoding(net.encode, rows)
        output, full, before = self.full_pass(model, inputs, recorded_in(model, encoded))
        if not several:
            return Evaluation(output, full, responses_from_coalitions(full, (), present))
        kept = set(modalities) if self.share_train_pass else same
        gradient = masked_gradient and torch.is_grad_enabled()
        with torch.set_grad_enabled(gradient), masked_passes(model, before):
            shown = {m: encoded.feature(m) if m in kept else None for m in modalities}
            shown = {
                m: net.encode(m, self.given(inputs[m])) if feature is None else feature
                for m, feature in shown.items()
            }
            hidden = {m: encoded.masked_feature(m) for m in modalities}
            hidden = {
                m: masked_feature(net, m, self.given(inputs[m]), m in even)
                if feature is None
                else feature
                for m, feature in hidden.items()
            }
            responses = self._responses(net, full, shown, hidden, present)
        return Evaluation(output, full, responses)

    def _responses(
        self,
        model: Any,
        full: Tensor,
        shown: Mapping[str, Any],
        hidden: Mapping[str, Any],
        present: Tensor | None,
    ) -> Tensor:
        """Mono-modal responses [M, ..., K] from each modality's feature, shown [B, ...] and hidden [1 or B, ...]."""
        coalitions = proper_coalitions(tuple(shown))
        stacked = {
            m: stack_coalitions(x, hidden[m], [m in coalition for coalition in coalitions])
            for m, x in shown.items()
        }
        logits = logits_of(model, model.head(model.fuse(stacked)))
        masked = split_coalitions(logits, full, len(coalitions), self.batch_axes.get("logits", 0))
        return responses_from_coalitions(full, masked, present)


class AdditiveHead(EncoderReuse):
    """Encoder reuse where the logits are a sum over modalities: the responses in closed form, for any M.

    With terms c^m of the shown and z^m of the hidden modality (eval mode), the game is additive but for v(empty) = 0
    and for v(all), which is the train-mode pass; both deviations are shared equally:

        phi^m = c^m - z^m + 1/M * [ v(all) - sum_j (c^j - z^j) ]

    Where a sample lacks modalities, M and the sum are over those that it has, and phi^m is 0 for the others.
    """

    def __init__(
        self, batch_axes: Mapping[str, int] | None = None, share_train_pass: bool = False
    ) -> None:
        super().__init__(batch_axes, share_train_pass)
        self.name = "shared (additive head)" if share_train_pass else "additive"

    def _responses(
        self,
        model: Any,
        full: Tensor,
        shown: Mapping[str, Any],
        hidden: Mapping[str, Any],
        present: Tensor | None,
    ) -> Tensor:
        full = at_least_float32(full)
        # A power of two small enough that sums of large but finite terms stay finite; exact, and undone at the end.
        scale = 0.25 / (1 << len(shown).bit_length())
        # Few large operations and not many small ones: for small networks these are most of what AGM costs.
        contributions = {m: model.contribution(m, _joined(shown[m], hidden[m])) for m in shown}
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
            responses = torch.where(
                has, gains + (full * scale - gains.sum(0)) / has.sum(0).clamp(min=1), 0.0
            )
        limit = torch.finfo(full.dtype).max * scale
        return responses.clamp(-limit, limit) / scale


class RecordedEncoding:
    """What `encode` returned for each modality in one pass of a model's own forward.

    Args:
        encode: the model's own.
        rows: by modality a masked input [1, ...] to be encoded as one more sample.
    """

    def __init__(self, encode: Any, rows: Mapping[str, Any]) -> None:
        self._encode, self._rows = encode, rows
        self._features: dict[str, tuple[Any, list[int]]] = {}
        self._masked: dict[str, Any] = {}
        self._calls: dict[str, int] = {}

    def __call__(self, modality: str, x: Any) -> Any:
        """`encode(modality, x)`, with a masked row as one more sample where there is one for it."""
        row = self._rows.get(modality)
        joined = None if row is None else append_row(x, row)
        feature = self._encode(modality, x if joined is None else joined)
        if joined is not None:
            samples = len(next(tensor_leaves(joined)))
            if samples and all(
                leaf.dim() > 0 and len(leaf) % samples == 0 for leaf in tensor_leaves(feature)
            ):
                # Some encoders give several rows a sample: frames folded into the batch.
                self._masked[modality] = map_tensors(
                    lambda leaf: leaf[-(len(leaf) // samples) :], feature
                )
                feature = map_tensors(lambda leaf: leaf[: -(len(leaf) // samples)], feature)
            else:
                feature = self._encode(modality, x)
        self._calls[modality] = self._calls.get(modality, 0) + 1
        self._features[modality] = feature, _versions(feature)
        return feature

    def feature(self, modality: str) -> Any:
        """The modality's feature; None where the forward did not encode it, or not once, or wrote into it since."""
        if self._calls.get(modality) != 1:
            return None
        feature, versions = self._features[modality]
        return feature if versions == _versions(feature) else None

    def masked_feature(self, modality: str) -> Any:
        """The masked row's feature [1, ...]; None where it was not encoded with the others."""
        return self._masked.get(modality) if self.feature(modality) is not None else None


@contextmanager
def recorded_in(model: Any, recorded: Callable[[str, Any], Any]) -> Iterator[None]:
    """While entered, `model.encode` is `recorded`."""
    own = model.__dict__.get("encode")
    model.__dict__["encode"] = recorded
    try:
        yield
    finally:
        if own is None:
            del model.__dict__["encode"]
        else:
            model.__dict__["encode"] = own


def _versions(feature: Any) -> list[int]:
    if torch.compiler.is_compiling():
        return []
    return [leaf._version for leaf in tensor_leaves(feature) if not leaf.is_inference()]


def stack_coalitions(shown: Any, hidden: Any, is_shown: Sequence[bool]) -> Any:
    """The samples of each coalition one after another; features may be nested."""
    hidden_leaves = tensor_leaves(hidden)

    def of_leaf(leaf: Tensor) -> Tensor:
        masked = _for_every_sample(next(hidden_leaves), leaf)
        return torch.cat([leaf if show else masked for show in is_shown])

    return map_tensors(of_leaf, shown)


def _for_every_sample(masked: Tensor, shown: Tensor) -> Tensor:
    """The masked feature of one sample (of [1, ...], or of several rows) for as many samples as `shown` holds."""
    if len(masked) == 1:
        return masked.expand_as(shown)
    if len(masked) == len(shown):
        return masked
    return masked.repeat(len(shown) // len(masked), *(1,) * (masked.dim() - 1))


def _joined(shown: Any, hidden: Any) -> Any:
    hidden_leaves = tensor_leaves(hidden)
    return map_tensors(lambda leaf: torch.cat([leaf, next(hidden_leaves)]), shown)


def _masked_row(model: nn.Module, modality: str, x: Any, is_even: bool) -> Any:
    """The masked input [1, ...], where it is the same for every sample; else None."""
    row = first_row(x) if is_even and masked_row_is_constant(model) else None
    return None if row is None else mask(model, modality, row)


def masked_feature(model: Any, modality: str, x: Any, is_even: bool) -> Any:
    """Feature of the masked input: [1, ...] where it is the same for every sample, else [B, ...]."""
    row = _masked_row(model, modality, x, is_even)
    return model.encode(modality, mask(model, modality, x) if row is None else row)
