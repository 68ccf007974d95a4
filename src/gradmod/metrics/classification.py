"""Accuracy and macro F1 over samples, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    """Share of samples (or segments) whose largest logit is the target's.

    Args:
        logits: [..., K].
        target: [...] int64 classes.

    Returns:
        float64 scalar, from 0 to 1; NaN of no sample.

    Raises:
        ValueError: other shapes: they would be broadcast, and the share be that of other pairs.
    """
    _check_shapes(logits, target)
    return (logits.argmax(-1) == target).double().mean()


def macro_f1(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes of the F1 score; classes neither present nor predicted do not count (as in scikit-learn).

    Args:
        logits: [..., K].
        target: [...] int64 classes.

    Returns:
        float64 scalar, from 0 to 1; NaN of no sample.

    Raises:
        ValueError: other shapes.
    """
    _check_shapes(logits, target)
    classes = logits.shape[-1]
    predicted, true = logits.argmax(-1).flatten(), target.flatten()
    hits = torch.bincount(true[predicted == true], minlength=classes).double()
    occurrences = torch.bincount(predicted, minlength=classes) + torch.bincount(
        true, minlength=classes
    )
    seen = occurrences > 0
    return (2 * hits[seen] / occurrences[seen]).mean()


def _check_shapes(logits: Tensor, target: Tensor) -> None:
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"target has shape {list(target.shape)}; expected {list(logits.shape[:-1])}, the leading axes of the "
            f"logits {list(logits.shape)}: one class index for each prediction"
        )
