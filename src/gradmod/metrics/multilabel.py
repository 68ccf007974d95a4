"""Accuracy and macro F1 where a sample may carry several labels at once, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def label_accuracy(logits: Tensor, target: Tensor, scored: Tensor | None = None) -> Tensor:
    """Share of the labels that are right, a label being predicted where its logit is above 0.

    Args:
        logits: [..., K].
        target: [..., K], 0 or 1; a soft label counts as 1 above 0.5.
        scored: [..., K] bool, which labels are known; None: all.

    Returns:
        float64 scalar, from 0 to 1; NaN where no label is known.

    Raises:
        ValueError: other shapes: they would be broadcast, and the share be that of other pairs.
    """
    check_same_shape(logits, target)
    right = ((logits > 0) == (target > 0.5)).double()
    return right.mean() if scored is None else (right * scored).sum() / scored.sum()


def label_macro_f1(logits: Tensor, target: Tensor, scored: Tensor | None = None) -> Tensor:
    """Mean over the labels of the F1 score of their presence; a label neither present nor predicted counts as 0.

    Args:
        logits: [..., K].
        target: [..., K], 0 or 1; a soft label counts as 1 above 0.5.
        scored: [..., K] bool, which labels are known; None: all. A label that is known of no sample does not count.

    Returns:
        float64 scalar, from 0 to 1 (scikit-learn's f1_score(average="macro", zero_division=0)); NaN where no label is
        known.

    Raises:
        ValueError: other shapes.
    """
    check_same_shape(logits, target)
    predicted, true = (logits > 0).flatten(0, -2), (target > 0.5).flatten(0, -2)
    if scored is not None:
        predicted, true = predicted & scored.flatten(0, -2), true & scored.flatten(0, -2)
    hits = (predicted & true).sum(0).double()
    occurrences = predicted.sum(0) + true.sum(0)
    scores = 2 * hits / occurrences.clamp(min=1)
    if scored is None:
        return scores.mean()
    known = scored.flatten(0, -2).any(0)
    return torch.where(known, scores, 0.0).sum() / known.sum()


def check_same_shape(prediction: Tensor, target: Tensor) -> None:
    """Raise ValueError where a target would be broadcast against the predictions."""
    if target.shape != prediction.shape:
        raise ValueError(
            f"target has shape {list(target.shape)}; expected {list(prediction.shape)} like the model's output"
        )
