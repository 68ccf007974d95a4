"""How well classes stand apart in a feature: the purity of its clusters."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 300
TOLERANCE = 1e-4


def k_means(points: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii, 2007).

    Args:
        points: [N, F].
        clusters: their number, 1 to N.
        seed: of the starts.

    Returns:
        [N] the cluster of each point, numbered from 0.

    Raises:
        ValueError: fewer points than clusters, or points that are not finite.

    Example:
        >>> import torch
        >>> labels = k_means(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2)
        >>> bool(labels[0] == labels[1] and labels[2] == labels[3] and labels[0] != labels[2])
        True
    """
    if points.dim() != 2 or not 1 <= clusters <= len(points):
        raise ValueError(
            f"points are {list(points.shape)} and clusters {clusters}; expected [N, F] and a number from 1 to N"
        )
    if not points.isfinite().all():
        raise ValueError("points are not finite; expected finite numbers")
    points = points.double()
    centres = _starts(points, clusters, torch.Generator().manual_seed(seed))
    spread = points.var(0, correction=0).mean()
    for _ in range(ITERATIONS):
        distances = torch.cdist(points, centres)
        nearest, labels = distances.min(1)
        moved = torch.zeros_like(centres).index_add_(0, labels, points)
        counts = torch.bincount(labels, minlength=clusters)
        moved /= counts.clamp(min=1)[:, None]
        # A cluster that lost its last point begins again at the point that is farthest from its own.
        for empty, far in zip(
            (counts == 0).nonzero().flatten(), nearest.argsort(descending=True), strict=False
        ):
            moved[empty] = points[far]
        change = (moved - centres).square().sum()
        centres = moved
        if change <= TOLERANCE * spread:
            break
    return torch.cdist(points, centres).argmin(1)


def purity(clusters: Tensor, classes: Tensor) -> float:
    """Share of points that are of the most frequent class of their cluster.

    Args:
        clusters: [N] whole numbers.
        classes: [N] whole numbers.

    Returns:
        From above 0 to 1; 1: every cluster is of one class.

    Example:
        >>> import torch
        >>> purity(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 2, 0]))
        0.75
    """
    _, rows = torch.unique(clusters, return_inverse=True)
    _, columns = torch.unique(classes, return_inverse=True)
    table = torch.zeros(int(rows.max()) + 1, int(columns.max()) + 1, dtype=torch.int64)
    table.index_put_((rows, columns), torch.ones_like(rows), accumulate=True)
    return float(table.max(1).values.sum()) / len(clusters)


def _starts(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Points far from each other: each is drawn by its squared distance to the nearest so far."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < clusters:
        weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        # multinomial takes at most 2^24 weights; the cumulative sum takes any number.
        at = torch.rand(1, generator=generator, dtype=torch.float64) * weights.sum()
        chosen.append(min(int(torch.searchsorted(weights.cumsum(0), at)), len(points) - 1))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen].clone()
