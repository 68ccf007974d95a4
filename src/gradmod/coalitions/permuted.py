"""Logits of features that are permuted among the samples of a batch, one modality's at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradmod.coalitions.masking import map_tensors
from gradmod.functional import at_least_float32
from gradmod.protocols import logits_of


def logits_of_permuted(
    model: Any, features: Mapping[str, Any], moved: str, orders: Tensor, *, by_terms: bool = False
) -> Tensor:
    """[1 + R, B, ..., K] logits of the features as they are, and with those of one modality permuted R times.

    Args:
        model: says how it encodes (`gradmod.protocols.Encodes`); with `by_terms` its terms, too (`Additive`).
        features: by modality, the B samples on the first axis.
        moved: the modality.
        orders: [R, B] which sample's feature each sample gets.
        by_terms: take the terms of the logits, and permute those: fusion and head run on B rows and not on (1 + R) B.
    """
    if by_terms:
        logits = at_least_float32(logits_of(model, model.head(model.fuse(features))))
        term = at_least_float32(model.contribution(moved, features[moved]))
        permuted = term[orders.to(term.device)]
        return torch.cat([logits[None], (logits - term) + permuted])
    times = len(orders) + 1

    def repeated(leaf: Tensor) -> Tensor:
        return leaf.expand(times, *leaf.shape).flatten(0, 1)

    def moved_along(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[orders.flatten().to(leaf.device)]])

    shown = {
        m: map_tensors(moved_along if m == moved else repeated, x) for m, x in features.items()
    }
    logits = at_least_float32(logits_of(model, model.head(model.fuse(shown))))
    return logits.reshape(times, -1, *logits.shape[1:])


@torch.no_grad()
def check_terms(model: Any, features: Mapping[str, Any], orders: Tensor) -> None:
    """Check that permuting a term of the logits does what permuting the feature does.

    Args:
        model: declares its terms (`gradmod.protocols.Additive`); in eval mode.
        features: by modality, the samples on the first axis.
        orders: [M, R, B] permutations by modality; the first one of each is looked at.

    Raises:
        ValueError: it does not.
    """
    for m, order in zip(features, orders[:, :1], strict=True):
        expected = logits_of_permuted(model, features, m, order)
        found = logits_of_permuted(model, features, m, order, by_terms=True)
        reduced = torch.is_autocast_enabled(found.device.type)
        tolerance = 0.1 if reduced else 1e-8 if found.dtype == torch.float64 else 5e-3
        distance, size = float((found - expected).abs().max()), float(expected.abs().max())
        if distance > tolerance * (size + 1e-6):
            raise ValueError(
                f"the term of {m!r} that {type(model).__name__} declares (`contribution`) is not what its logits owe "
                f"to {m!r}: with the features of other samples in its place the two are {distance:.3g} apart, where "
                f"the logits are up to {size:.3g}; expected no more than rounding. Correct `contribution`, or leave it "
                "out: then fusion and head run once more for every permutation"
            )
