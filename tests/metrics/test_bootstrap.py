"""The interval of a difference between two methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod.metrics.bootstrap import _mean_squares, paired_bootstrap, student_t

T_975 = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 9: 2.2621572}
"""97.5 % quantiles of Student's t by degrees of freedom, from tables."""


def draw(seed: int, seeds: int, samples: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((2, seeds, samples)) < 0.7).astype(float)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40))
def test_what_holds_always(seed: int, seeds: int, samples: int) -> None:
    ours, theirs = draw(seed, seeds, samples)
    value, low, high = paired_bootstrap(ours, theirs, replicates=200)
    assert value == pytest.approx(ours.mean() - theirs.mean())
    assert low <= value <= high
    assert paired_bootstrap(theirs, ours, replicates=200) == pytest.approx((-value, -high, -low))
    assert paired_bootstrap(ours, ours, replicates=50) == (0, 0, 0)
    assert paired_bootstrap(ours + 0.25, ours, replicates=50) == pytest.approx((0.25, 0.25, 0.25))
    _, wide_low, wide_high = paired_bootstrap(ours, theirs, replicates=200, level=0.99)
    assert wide_low <= low + 1e-12
    assert high <= wide_high + 1e-12


def coverage(
    seeds: int, deviation: float, of_samples: float, trials: int = 200, samples: int = 100
) -> float:
    """Share of the 95 % intervals that hold the true difference, 0, of two methods that are equally good.

    Args:
        seeds: how many.
        deviation: of a method's accuracy from seed to seed.
        of_samples: how far the methods differ on a sample, whatever the seed.
        trials: how many comparisons.
        samples: of each.
    """
    rng = np.random.default_rng(seeds)
    held = 0
    for trial in range(trials):
        difficulty, preference = rng.normal(size=samples), of_samples * rng.normal(size=samples)
        made = []
        for sign in (1, -1):
            shifts = rng.normal(0, deviation, (seeds, 1))
            share = np.clip(0.7 + 0.2 * np.tanh(difficulty) + shifts, 0, 1)
            correct = (rng.random((seeds, samples)) < share).astype(float)
            # A part of the samples that one of them always gets right: the same for all seeds.
            made.append(np.where(sign * preference > 1, 1.0, correct))
        _, low, high = paired_bootstrap(*made, replicates=100, seed=trial)
        held += low <= 0 <= high
    return held / trials


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_95_of_100_intervals_hold_the_true_difference(seeds: int) -> None:
    """Within three standard errors of 200 trials, 0.046; of a single seed, with that seed."""
    for deviation in (0.02, 0.05) if seeds > 1 else (0.0,):
        assert coverage(seeds, deviation, 0.0) >= 0.95 - 0.046
        assert coverage(seeds, deviation, 1.0) >= 0.95 - 0.046


def test_few_seeds_have_students_t() -> None:
    """Where samples play no part the interval is that of a textbook."""
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 4, 5, 10):
        of_seeds = rng.normal(0, 0.02, seeds)
        ours = np.repeat(of_seeds[:, None], 50, axis=1)
        value, low, high = paired_bootstrap(ours, np.zeros_like(ours))
        half = T_975[seeds - 1] * of_seeds.std(ddof=1) / np.sqrt(seeds)
        assert (value, low, high) == pytest.approx(
            (of_seeds.mean(), value - half, value + half), abs=1e-9
        )


def test_the_level_is_that_which_was_asked_for() -> None:
    ours = np.repeat(np.array([[0.0], [0.1], [0.3]]), 20, axis=1)
    for level, quantile in ((0.9, 2.9199856), (0.95, 4.3026527), (0.99, 9.9248432)):
        value, low, high = paired_bootstrap(ours, np.zeros_like(ours), level=level)
        half = quantile * ours[:, 0].std(ddof=1) / np.sqrt(3)
        assert (low, high) == pytest.approx((value - half, value + half))
    # Samples alone, whose differences are normal enough for the quantiles of a normal distribution.
    ours, theirs = draw(1, 1, 400)
    error = (ours - theirs).std() / np.sqrt(400)
    for level, quantile in ((0.9, 1.645), (0.95, 1.960)):
        value, low, high = paired_bootstrap(ours, theirs, replicates=20_000, level=level)
        assert (high - low) / 2 == pytest.approx(quantile * error, rel=0.03)


def test_samples_are_the_same_for_all_seeds() -> None:
    """Seeds that agree on every sample tell no more of other samples than one of them."""
    one, other = draw(2, 1, 300)
    _, low, high = paired_bootstrap(one, other)
    _, many_low, many_high = paired_bootstrap(np.repeat(one, 25, 0), np.repeat(other, 25, 0))
    assert (many_low, many_high) == pytest.approx((low, high), abs=1e-9)


def test_seeds_and_samples_add_up() -> None:
    """With many seeds and many samples the interval is the normal one of both variances."""
    rng = np.random.default_rng(3)
    seeds, samples = 60, 400
    ours = (
        rng.normal(0, 0.5, samples)
        + rng.normal(0, 0.03, (seeds, 1))
        + rng.normal(0, 0.7, (seeds, samples))
    )
    _, low, high = paired_bootstrap(ours, np.zeros_like(ours), replicates=4000)
    of_samples = 0.5**2 / samples
    of_seeds = 0.03**2 / seeds + 0.7**2 / (seeds * samples)
    assert (high - low) / 2 == pytest.approx(1.98 * np.sqrt(of_samples + of_seeds), rel=0.1)


def test_seeds_that_agree_by_chance_are_not_taken_for_certainty() -> None:
    """Accuracies are counts: those of two or three seeds are equal now and then."""
    rng = np.random.default_rng(5)
    # 300 of 600 right, others for each seed.
    ours = rng.permuted(np.repeat([[1.0, 0.0]], 300, 1).repeat(3, 0), axis=1)
    theirs = rng.permuted(ours, axis=1)
    value, low, high = paired_bootstrap(ours, theirs)
    assert value == 0
    assert high == pytest.approx(1.96 * np.sqrt(0.5 / (3 * 600)), rel=0.1)
    assert low == pytest.approx(-high)


def test_what_varies_within_a_sample_is_counted_once() -> None:
    """Noise of seeds on samples is in the seeds' part already: the samples' own share is none here."""
    rng = np.random.default_rng(4)
    ours = rng.normal(size=(4, 5000))
    _, low, high = paired_bootstrap(ours, np.zeros_like(ours))
    half = max(T_975[3] * ours.mean(1).std(ddof=1) / 2, 1.96 / np.sqrt(4 * 5000))
    assert 0.98 * half <= (high - low) / 2 <= 1.15 * half


def test_a_single_seed_varies_over_samples_and_one_sample_over_seeds() -> None:
    ours, theirs = draw(1, 1, 400)
    _, low, high = paired_bootstrap(ours, theirs)
    expected = 1.96 * (ours - theirs).std() / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    ours, theirs = draw(2, 6, 1)
    _, low, high = paired_bootstrap(ours, theirs)
    assert low < high


def test_mean_squares_by_hand() -> None:
    """Means of samples 1 and 4, of seeds 2 and 3: 2 x 4.5, and four times a rest of 0.5."""
    assert _mean_squares(np.array([[1.0, 3.0], [1.0, 5.0]])) == pytest.approx((9, 1))
    assert _mean_squares(np.array([[1.0, 3.0]])) == (2, 0)
    assert _mean_squares(np.array([[1.0], [3.0]])) == (0, 0)


def test_students_t() -> None:
    assert student_t(np.array([0.0]), 7) == pytest.approx([0.5])
    for freedom, quantile in T_975.items():
        assert student_t(np.array([quantile, -quantile]), freedom) == pytest.approx(
            [0.975, 0.025], abs=1e-8
        )
    scipy = pytest.importorskip("scipy.stats", reason="the oracle")
    values = np.linspace(-30, 30, 61)
    for freedom in (1, 2, 3, 4, 5, 6, 11, 40):
        assert student_t(values, freedom) == pytest.approx(scipy.t.cdf(values, freedom), abs=1e-12)


def test_what_is_refused() -> None:
    for shapes in (((2, 3), (2, 4)), ((3,), (3,)), ((2, 0), (2, 0))):
        with pytest.raises(ValueError, match=r"expected the same \[seeds, samples\]"):
            paired_bootstrap(*(np.zeros(shape) for shape in shapes))
    for level in (0.0, 1.0, 95, float("nan")):
        with pytest.raises(ValueError, match="level is"):
            paired_bootstrap(np.zeros((2, 3)), np.zeros((2, 3)), level=level)
