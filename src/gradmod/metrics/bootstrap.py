"""How sure a difference between two methods is."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def paired_bootstrap(
    ours: Floats, theirs: Floats, *, replicates: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two methods' means, and an interval for what it would be with other seeds and other samples.

    Both were run with the same seeds and scored on the same samples. Two things were drawn by chance:

    - The samples, the same for all seeds. Their part is a bootstrap (Efron and Tibshirani 1993): each replicate draws
      samples with replacement. What differs from seed to seed within a sample is no part of it: an analysis of variance
      with seeds and samples as factors says how much of the spread remains.
    - The seeds. A bootstrap over two or three of them gives intervals that are far too narrow (they hold the true
      difference in 80 to 90 % of cases, not 95 %). Their part is Student's t with S - 1 degrees of freedom instead.

    The interval is that of the sum of both parts, as in the analysis of several readers of the same cases (Dorfman,
    Berbaum and Metz 1992; Hillis 2007). It is exact where seeds vary normally and samples do not matter, and otherwise
    a little wide. It may end beyond what the metric can be. With one seed, nothing is known of other seeds: the
    interval is for other samples alone.

    Args:
        ours: [S, N] what each sample contributes to the metric (1 or 0 for accuracy), by seed.
        theirs: the same of the other method.
        replicates: how many bootstrap replicates are drawn.
        level: share of such intervals that hold the true difference; above 0 and below 1.
        seed: of the draws.

    Returns:
        The difference ours - theirs, and the ends of the interval.

    Raises:
        ValueError: the shapes differ or are empty, or `level` is not between 0 and 1.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or not ours.size:
        raise ValueError(
            f"ours has shape {ours.shape} and theirs {theirs.shape}; expected the same [seeds, samples]"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a share above 0 and below 1, as in 0.95")
    differences = (ours - theirs).astype(np.float64)
    seeds, samples = differences.shape
    difference = float(differences.mean())
    among_samples, within = _mean_squares(differences)
    # What differs from seed to seed within a sample is in the seeds' part already.
    share = float(np.sqrt(max(0.0, 1 - within / among_samples))) if among_samples > 0 else 0.0
    deviations = np.zeros(1)
    if share > 0:
        deviations = share * (_replicated(differences.mean(0), replicates, seed) - difference)
    tails = (1 - level) / 2, (1 + level) / 2
    scale = _scale_of_seeds(differences.mean(1), within / samples, tails[1]) if seeds > 1 else 0.0
    if scale <= 1e-12 * abs(differences).max():  # rounding: no seed differs from another
        low, high = np.quantile(deviations, tails)
    else:
        low, high = (_quantile_of_sum(tail, deviations, scale, seeds - 1) for tail in tails)
    return difference, difference + float(low), difference + float(high)


def _mean_squares(differences: Floats) -> tuple[float, float]:
    """Of [S, N] differences, with seeds and samples as factors: among samples, and what neither of them explains."""
    seeds, samples = differences.shape
    of_samples, of_seeds = differences.mean(0, keepdims=True), differences.mean(1, keepdims=True)
    among_samples = seeds * float(of_samples.var(ddof=1)) if samples > 1 else 0.0
    if seeds == 1 or samples == 1:
        return among_samples, 0.0
    rest = differences - of_samples - of_seeds + differences.mean()
    return among_samples, float((rest**2).sum()) / ((seeds - 1) * (samples - 1))


def _scale_of_seeds(means: Floats, of_rest: float, tail: float) -> float:
    """What Student's t is multiplied by, for the mean of seeds whose differences are `means` [S].

    Two or three seeds may agree by chance. They vary at least by `of_rest`, the variance that is left of what differs
    within samples; that is known from many samples, and has the quantile of a normal distribution.
    """
    seeds = len(means)
    students = _quantile_of_sum(tail, np.zeros(1), 1.0, seeds - 1)
    least = np.sqrt(of_rest) * NormalDist().inv_cdf(tail) / students
    return float(max(means.std(ddof=1), least) / np.sqrt(seeds))


def _replicated(values: Floats, replicates: int, seed: int) -> Floats:
    """[replicates] means of `values` [N] drawn with replacement."""
    rng, samples = np.random.default_rng(seed), len(values)
    means = np.empty(replicates)
    # Counts of 100 replicates at a time: a whole split may be large.
    for start in range(0, replicates, 100):
        count = min(100, replicates - start)
        means[start : start + count] = (
            rng.multinomial(samples, np.full(samples, 1 / samples), size=count) @ values
        )
    return means / samples


def _quantile_of_sum(level: float, values: Floats, scale: float, freedom: int) -> float:
    """Quantile of the sum of one of `values` and `scale` times Student's t, by bisection of its distribution."""
    reach = 1.0
    while float(student_t(np.array([-reach]), freedom)[0]) > min(level, 1 - level):
        reach *= 2
    low, high = float(values.min()) - scale * reach, float(values.max()) + scale * reach
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        below = float(student_t((middle - values) / scale, freedom).mean()) < level
        low, high = (middle, high) if below else (low, middle)


def student_t(values: Floats, freedom: int) -> Floats:
    """Distribution function of Student's t for a whole number of degrees of freedom.

    Abramowitz and Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    angle = np.arctan(values / np.sqrt(freedom))
    sine, cosine = np.sin(angle), np.cos(angle)
    odd = freedom % 2
    term = cosine if odd else np.ones_like(cosine)
    total = term.copy() if freedom > 1 else np.zeros_like(cosine)
    for number in range(2 + odd, freedom, 2):
        term = term * cosine**2 * (number - 1) / number
        total = total + term
    within = (angle + sine * total) * 2 / np.pi if odd else sine * total
    return np.asarray((1 + within) / 2)
