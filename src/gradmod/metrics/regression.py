"""Mean absolute error, correlation and accuracy of the sign over samples, as pure functions.

Entries whose target is NaN have none and do not count. All raise ValueError where the shapes differ: they would be
broadcast, and the figure be that of other pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmod.metrics.multilabel import check_same_shape


def mean_absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of |prediction - target| over all entries: float64 scalar, in the target's unit; NaN where no entry counts.

    Nothing is read from the device.
    """
    check_same_shape(prediction, target)
    scored = ~target.isnan()
    errors = (prediction.double() - target.double()).abs()
    return torch.where(scored, errors, 0.0).sum() / scored.sum()


def correlation(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson's correlation over all entries: float64 scalar from -1 to 1; 0 where one of both is constant."""
    x, y = (values.double() for values in _scored(prediction, target))
    x, y = x - x.mean(), y - y.mean()
    product = x.norm() * y.norm()
    return torch.where(
        product > 0, (x @ y) / product.clamp(min=torch.finfo(torch.float64).tiny), product
    )


def sign_accuracy(prediction: Tensor, target: Tensor, *, with_zero: bool) -> Tensor:
    """Share of the entries whose sign is right: float64 scalar from 0 to 1; NaN where no entry counts.

    Args:
        prediction: any shape.
        target: of the same shape.
        with_zero: compare "< 0" with ">= 0", as CMU-MOSEI's 2-class accuracy with zero does; else leave out targets of
            exactly 0 and compare "< 0" with "> 0".
    """
    prediction, target = _scored(prediction, target)
    if with_zero:
        return ((prediction >= 0) == (target >= 0)).double().mean()
    counted = target != 0
    return ((prediction > 0) == (target > 0))[counted].double().mean()


def _scored(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The entries that have a target, flat."""
    check_same_shape(prediction, target)
    scored = ~target.isnan()
    return prediction[scored], target[scored]
