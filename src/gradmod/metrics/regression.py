"""Mean absolute error, correlation and accuracy of the sign over samples, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of |prediction - target| over all entries: float64 scalar, in the target's unit."""
    return (prediction.double() - target.double()).abs().mean()


def correlation(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson's correlation over all entries: float64 scalar from -1 to 1; 0 where one of both is constant."""
    x, y = prediction.double().flatten(), target.double().flatten()
    x, y = x - x.mean(), y - y.mean()
    product = x.norm() * y.norm()
    return torch.where(product > 0, (x @ y) / product.clamp(min=torch.finfo(torch.float64).tiny), product)


def sign_accuracy(prediction: Tensor, target: Tensor, *, with_zero: bool) -> Tensor:
    """Share of the entries whose sign is right: float64 scalar from 0 to 1; NaN where no entry counts.

    Args:
        prediction: any shape.
        target: of the same shape.
        with_zero: compare "< 0" with ">= 0", as CMU-MOSEI's 2-class accuracy with zero does; else leave out targets of
            exactly 0 and compare "< 0" with "> 0".
    """
    if with_zero:
        return ((prediction >= 0) == (target >= 0)).double().mean()
    counted = target != 0
    return ((prediction > 0) == (target > 0))[counted].double().mean()
