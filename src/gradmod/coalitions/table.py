"""What a model says on every coalition, the empty one included: for looking at a trained model, not for training it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import check_inputs, copy_containers, mask
from gradmod.coalitions.no_gradient import without_gradient
from gradmod.functional import MAX_ENUMERATED_MODALITIES
from gradmod.protocols import declares_encoding, logits_of
from gradmod.signatures import explained, refuse_foreign


@without_gradient()
def coalition_logits(
    model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str]
) -> Tensor:
    """Logits of every coalition in the model's present mode, without gradient.

    Every row is what the network's own forward says on the masked inputs. Up to two modalities it is called for each
    coalition. With more, a network that has encoders, `encode`, `fuse` and `head` runs each encoder on what is shown
    and on what is masked once, and only the fusion and the head for each coalition; whether that is what its forward
    computes is looked at on two of the coalitions, and where it is not (methods that are merely named so) the network
    is called 2^M times like any other.

    Every call gets copies: a network that writes into its inputs changes neither the caller's nor the next call's.

    Args:
        model: the network.
        inputs: the batch, by modality. Keys that are no modality are shown in every coalition.
        modalities: the players.

    Returns:
        [2^M, B, ..., K]; row i is the coalition whose members are the bits set in i, as in
        `gradmod.functional.shapley_values`.

    Raises:
        ValueError: inputs without one of the modalities; more than 10 modalities; an input that cannot be masked.
        TypeError: the network is not called with a dict of inputs, or returns no logits.
    """
    check_inputs(inputs, modalities)
    if len(modalities) > MAX_ENUMERATED_MODALITIES:
        raise ValueError(
            f"{len(modalities)} modalities have {1 << len(modalities)} coalitions; at most {MAX_ENUMERATED_MODALITIES} "
            "modalities are enumerated"
        )
    refuse_foreign(model, list(inputs))
    hidden = {m: mask(model, m, copy_containers(inputs[m], with_tensors=True)) for m in modalities}

    def shown_in(code: int) -> dict[str, Any]:
        return {
            **inputs,
            **{m: hidden[m] for bit, m in enumerate(modalities) if not code >> bit & 1},
        }

    def called(code: int) -> Tensor:
        # A network may hand out a tensor that it keeps and overwrites in the next call.
        return logits_of(model, model(copy_containers(shown_in(code), with_tensors=True))).clone()

    everything = (1 << len(modalities)) - 1
    with explained(model, list(inputs)):
        output = model(copy_containers(shown_in(everything), with_tensors=True))
    whole = logits_of(model, output).clone()
    if len(modalities) > 2 and declares_encoding(model, modalities):
        rows = _from_features(model, inputs, hidden, modalities)
        if rows is not None and _agree(rows[everything], whole) and _agree(rows[1], called(1)):
            return torch.stack([*rows[:everything], whole])
    return torch.stack([*(called(code) for code in range(everything)), whole])


def _from_features(
    model: Any, inputs: Mapping[str, Any], hidden: Mapping[str, Any], modalities: Sequence[str]
) -> list[Tensor] | None:
    """Logits of every coalition from features that are encoded once; None where the methods do something else."""
    try:
        encoded = {
            m: [
                model.encode(m, copy_containers(x, with_tensors=True)).clone()
                for x in (hidden[m], inputs[m])
            ]
            for m in modalities
        }
        return [
            model.head(
                model.fuse(
                    {m: encoded[m][code >> bit & 1].clone() for bit, m in enumerate(modalities)}
                )
            ).clone()
            for code in range(1 << len(modalities))
        ]
    except Exception:  # methods of these names may be anything; the network's own forward decides
        return None


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two results of the same computation are equal but for rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    exact = torch.finfo(one.dtype).eps ** 0.5
    scale = float(other[other.isfinite()].abs().max()) if other.isfinite().any() else 1.0
    return torch.allclose(one, other, rtol=exact, atol=exact * scale, equal_nan=True)


def hiding_changes(model: nn.Module, modality: str, x: Any) -> bool:
    """Whether a hidden modality's input differs from `x` in any sample of this batch."""
    return not _is_same(mask(model, modality, copy_containers(x, with_tensors=True)), x)


def differs_between_samples(x: Any) -> bool:
    """Whether an input is surely not the same for every sample of this batch."""
    if isinstance(x, Tensor):
        return x.dim() > 0 and len(x) > 1 and not torch.equal(x, x[:1].expand_as(x))
    if isinstance(x, Mapping):
        return any(map(differs_between_samples, x.values()))
    if isinstance(x, (list, tuple)):
        return any(map(differs_between_samples, x)) or not all(_is_same(entry, x[0]) for entry in x)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return any(
            differs_between_samples(getattr(x, field.name)) for field in dataclasses.fields(x)
        )
    return isinstance(x, np.ndarray) and x.ndim > 0 and bool((x != x[:1]).any())


def _is_same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if dataclasses.is_dataclass(one) and not isinstance(one, type):
        return all(
            _is_same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool((one == other).all())
    try:
        kind: Any = type(one)
        by_identity = hasattr(one, "__dict__") and kind.__eq__ is object.__eq__
        return _is_same(vars(one), vars(other)) if by_identity else bool(one == other)
    except Exception:  # an object whose comparison is something else, or that holds itself
        return False
