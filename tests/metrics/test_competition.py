"""Competition strength: recorded numbers, scikit-learn's ridge regression, and its two ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from gradmod.metrics.competition import competition_strength, ridge

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "competition_strength.npz"
Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_the_recorded_numbers(modality: str) -> None:
    with np.load(GOLDEN) as golden:
        strength = competition_strength(
            golden["fit_features"],
            golden[f"fit_concept_{modality}"],
            golden["eval_features"],
            golden[f"eval_concept_{modality}"],
            float(golden["ridge_alpha"]),
        )
        assert strength == pytest.approx(
            float(golden[f"competition_strength_{modality}"]), rel=1e-9
        )


@given(st.integers(2, 40), st.integers(1, 60), st.floats(0.1, 500), st.integers(0, 2**32))
def test_ridge_is_scikit_learns(samples: int, size: int, penalty: float, seed: int) -> None:
    """With more features than samples another system is solved."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(2, 1, (samples, size)), rng.normal(-1, 3, (samples, 3))
    weights, intercept = ridge(x, y, penalty)
    expected = Ridge(alpha=penalty, solver="svd").fit(x, y)
    np.testing.assert_allclose(weights, expected.coef_.T, atol=1e-8)
    np.testing.assert_allclose(intercept, expected.intercept_, atol=1e-8)


def arrays(seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(300, 6)),
        rng.normal(size=(300, 4)),
        rng.normal(size=(200, 6)),
        rng.normal(size=(200, 4)),
    )


def test_what_can_be_read_is_not_suppressed_and_what_cannot_is() -> None:
    fit, other_fit, evaluated, other = arrays(0)
    mixing = np.random.default_rng(1).normal(size=(6, 4))
    assert (
        competition_strength(fit, fit @ mixing + 5, evaluated, evaluated @ mixing + 5, 1e-6) < 1e-9
    )
    assert competition_strength(fit, other_fit, evaluated, other) == pytest.approx(1, abs=0.05)
    constant = np.zeros_like(fit)
    assert competition_strength(
        constant, other_fit, np.zeros_like(evaluated), other
    ) == pytest.approx(1, abs=0.03)


@given(st.integers(0, 1000))
def test_it_does_not_depend_on_how_the_concept_is_written(seed: int) -> None:
    """Any linear rewriting of the concept's outputs has the same strength: errors are measured in its own spread."""
    fit, fit_concept, evaluated, concept = arrays(seed)
    rewriting = np.random.default_rng(seed + 1).normal(size=(4, 4)) + 3 * np.eye(4)
    once = competition_strength(fit, fit_concept, evaluated, concept)
    again = competition_strength(fit, fit_concept @ rewriting, evaluated, concept @ rewriting)
    assert again == pytest.approx(once, rel=1e-6)


def test_a_penalty_of_nothing_and_features_that_repeat() -> None:
    fit, fit_concept, evaluated, concept = arrays(3)
    plain = competition_strength(fit, fit_concept, evaluated, concept, 0)
    doubled = competition_strength(
        np.hstack([fit, fit]), fit_concept, np.hstack([evaluated, evaluated]), concept, 0
    )
    assert doubled == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((3, 6)), "differ in their number of samples"),
        (0, np.zeros((300, 5)), "differ in size"),
        (1, np.zeros(300), r"fit_concept has shape \[300\]"),
        (2, np.full((200, 6), np.nan), "eval_features holds values that are not finite in row 0"),
        (3, np.ones((200, 4)), "the same for every sample"),
        (3, np.ones((1, 4)), r"eval_concept has shape \[1, 4\]"),
    ],
)
def test_what_is_refused(position: int, value: Floats, message: str) -> None:
    given = list(arrays(0))
    given[position] = value
    with pytest.raises(ValueError, match=message):
        competition_strength(*given)
    with pytest.raises(ValueError, match="penalty is -1"):
        competition_strength(*arrays(0), penalty=-1)
