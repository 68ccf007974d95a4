"""Accuracy and macro F1 where a sample may carry several labels at once, as pure functions."""

from __future__ import annotations

from torch import Tensor


def label_accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of the labels that are right, a label being predicted where its logit is above 0.

    Args:
        logits: [..., K].
        target: [..., K], 0 or 1.

    Returns:
        float64 scalar, from 0 to 1.
    """
    return ((logits > 0) == (target > 0.5)).double().mean()


def label_macro_f1(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the labels of the F1 score of their presence; a label neither present nor predicted counts as 0.

    Args:
        logits: [..., K].
        target: [..., K], 0 or 1.

    Returns:
        float64 scalar, from 0 to 1 (scikit-learn's f1_score(average="macro", zero_division=0)).
    """
    predicted, true = (logits > 0).flatten(0, -2), (target > 0.5).flatten(0, -2)
    hits = (predicted & true).sum(0).double()
    occurrences = predicted.sum(0) + true.sum(0)
    return (2 * hits / occurrences.clamp(min=1)).mean()
