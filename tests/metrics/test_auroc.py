"""Area under the ROC curve, against scikit-learn and by what must hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gradmod.metrics.auroc import auroc


@given(st.integers(4, 60), st.integers(1, 4), st.booleans(), st.integers(0, 2**32))
def test_it_is_scikit_learns(samples: int, labels: int, ties: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(samples, labels, generator=generator)
    scores = scores.round() if ties else scores
    positive = torch.rand(samples, labels, generator=generator) < 0.4
    positive[0], positive[1] = True, False
    expected = roc_auc_score(positive.numpy(), scores.numpy(), average="macro")
    assert float(auroc(scores, positive)) == pytest.approx(expected, abs=1e-12)


def test_by_hand_and_at_the_ends() -> None:
    scores, positive = (
        torch.tensor([[0.1], [0.4], [0.35], [0.8]]),
        torch.tensor([[False], [False], [True], [True]]),
    )
    assert float(auroc(scores, positive)) == 0.75
    assert float(auroc(torch.zeros(4, 1), positive)) == 0.5
    assert float(auroc(-scores, positive)) == 0.25
    never = torch.zeros(4, 1, dtype=torch.bool)
    assert float(auroc(scores.repeat(1, 2), torch.cat([positive, never], 1))) == 0.75
    assert math.isnan(float(auroc(scores, never)))
    assert math.isnan(float(auroc(scores, ~never)))
    assert auroc(scores, positive).dtype == torch.float64


def test_thousands_of_samples_are_counted_exactly() -> None:
    """The sum of 9001 places is odd and beyond 2^24: 32 bits do not hold it."""
    positive = torch.arange(9002).unsqueeze(1) > 0
    assert float(auroc(torch.arange(9002.0).unsqueeze(1), positive)) == 1.0
    assert float(auroc(-torch.arange(9002.0).unsqueeze(1), positive)) == 0.0
