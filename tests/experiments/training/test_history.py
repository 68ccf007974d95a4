"""What an epoch's steps are summed up to."""

from __future__ import annotations

import math

import pytest
import torch

from gradmod.experiments.training.history import EpochHistory
from gradmod.methods.record import StepRecord


def test_quantiles_of_the_coefficients_by_modality() -> None:
    """101 steps from 0 to 1: each quantile is the share that it is named after; the order of the steps is none."""
    history = EpochHistory()
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0)).double() / 100
    for value in order:
        history.add(torch.tensor(1.0), StepRecord(torch.stack([value, 3 - value])))
    found = history.coefficient_quantiles(("audio", "visual"))
    assert found is not None
    assert found["audio"] == pytest.approx(
        {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    )
    assert found["visual"] == pytest.approx(
        {"min": 2.0, "p05": 2.05, "median": 2.5, "p95": 2.95, "max": 3.0}
    )
    assert EpochHistory().coefficient_quantiles(("audio",)) is None


def test_a_loss_that_is_not_finite_is_found_at_its_step_once() -> None:
    history = EpochHistory()
    record = StepRecord(torch.ones(1))
    for loss in (1.0, 2.0):
        history.add(torch.tensor(loss), None)
    assert history.look() is None
    for loss, seen in ((3.0, None), (math.inf, record), (math.nan, None)):
        history.add(torch.tensor(loss), seen)
    assert history.look() == (3, math.inf, record)
    assert history.look() is None
    history.add(torch.tensor(4.0), None)
    assert history.look() is None
    assert float(EpochHistory([torch.tensor(1.0), torch.tensor(2.0)]).mean_loss()) == 1.5
