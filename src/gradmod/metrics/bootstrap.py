"""How sure a difference between two methods is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def paired_bootstrap(
    ours: Floats, theirs: Floats, *, replicates: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two methods' means, and its bootstrap interval over seeds and samples.

    Both were run with the same seeds and scored on the same samples. Each replicate draws seeds and samples with
    replacement, the same for both methods and the samples the same for all seeds (Efron and Tibshirani 1993, percentile
    interval).

    Args:
        ours: [S, N] what each sample contributes to the metric (1 or 0 for accuracy), by seed.
        theirs: the same of the other method.
        replicates: how many are drawn.
        level: share of the replicates inside the interval.
        seed: of the draws.

    Returns:
        The difference ours - theirs, and the ends of the interval.

    Raises:
        ValueError: the shapes differ or are empty.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(f"ours has shape {ours.shape} and theirs {theirs.shape}; expected the same [seeds, samples]")
    differences = (ours - theirs).astype(np.float64)
    seeds, samples = differences.shape
    rng = np.random.default_rng(seed)
    draws = np.empty(replicates)
    for start in range(0, replicates, 100):  # counts of 100 replicates at a time: a whole split may be large
        count = min(100, replicates - start)
        weights = rng.multinomial(samples, np.full(samples, 1 / samples), size=count) / samples
        by_seed = weights @ differences.T
        chosen = rng.integers(seeds, size=(count, seeds))
        draws[start : start + count] = np.take_along_axis(by_seed, chosen, 1).mean(1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(differences.mean()), float(low), float(high)
