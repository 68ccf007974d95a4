"""The interval of a difference between two methods."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod.metrics.bootstrap import paired_bootstrap


def draw(seed: int, seeds: int, samples: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((2, seeds, samples)) < 0.7).astype(float)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 40))
def test_what_holds_always(seed: int, seeds: int, samples: int) -> None:
    ours, theirs = draw(seed, seeds, samples)
    value, low, high = paired_bootstrap(ours, theirs, replicates=200)
    assert value == pytest.approx(ours.mean() - theirs.mean())
    assert -1 <= low <= high <= 1
    assert paired_bootstrap(theirs, ours, replicates=200) == pytest.approx((-value, -high, -low))
    assert paired_bootstrap(ours, ours, replicates=50) == (0, 0, 0)
    assert paired_bootstrap(ours + 0.25, ours, replicates=50) == pytest.approx((0.25, 0.25, 0.25))


def test_it_is_the_plain_resampling_of_seeds_and_samples() -> None:
    """The oracle draws numbers of samples one replicate at a time."""
    ours, theirs = draw(0, 4, 90)
    rng = np.random.default_rng(7)
    draws = []
    for _ in range(20_000):
        samples = rng.integers(90, size=90)
        chosen = rng.integers(4, size=4)
        draws.append((ours - theirs)[np.ix_(chosen, samples)].mean())
    value, low, high = paired_bootstrap(ours, theirs, replicates=20_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.006)
    assert low < value < high


def test_a_single_seed_varies_over_samples_and_one_sample_over_seeds() -> None:
    ours, theirs = draw(1, 1, 400)
    _, low, high = paired_bootstrap(ours, theirs)
    expected = 1.96 * (ours - theirs).std() / np.sqrt(400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1)
    ours, theirs = draw(2, 6, 1)
    _, low, high = paired_bootstrap(ours, theirs)
    assert low < high


def test_shapes_are_checked() -> None:
    for shapes in (((2, 3), (2, 4)), ((3,), (3,)), ((2, 0), (2, 0))):
        with pytest.raises(ValueError, match=r"expected the same \[seeds, samples\]"):
            paired_bootstrap(*(np.zeros(shape) for shape in shapes))
