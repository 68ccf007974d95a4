"""Clusters and their purity, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from gradmod.metrics.clusters import k_means, purity


@pytest.mark.parametrize("seed", range(5))
def test_blobs_are_found_as_scikit_learn_finds_them(seed: int) -> None:
    points, truth = make_blobs(300, 6, centers=5, cluster_std=0.5, random_state=seed)
    theirs = KMeans(5, n_init=10, random_state=0).fit_predict(points)
    ours = k_means(torch.from_numpy(points), 5, seed)
    assert adjusted_rand_score(theirs, truth) == 1.0
    assert adjusted_rand_score(ours.numpy(), truth) > 0.75  # one start may join two blobs
    found = [
        purity(k_means(torch.from_numpy(points), 5, s), torch.from_numpy(truth)) for s in range(9)
    ]
    assert max(found) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_no_point_is_nearer_to_another_centre(seed: int) -> None:
    """The end of Lloyd's algorithm: within its tolerance every point is with the nearest mean."""
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(seed)).double()
    labels = k_means(points, 6, seed)
    assert sorted(labels.unique().tolist()) == list(range(6))
    means = torch.stack([points[labels == c].mean(0) for c in range(6)])
    own = (points - means[labels]).norm(dim=1)
    assert bool((own <= torch.cdist(points, means).min(1).values + 0.05).all())
    inertia = KMeans(6, n_init=1, random_state=seed).fit(points.numpy()).inertia_
    assert float(own.square().sum()) < 1.1 * inertia


def test_the_same_seed_gives_the_same_and_points_may_coincide() -> None:
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(k_means(points, 4, 1), k_means(points, 4, 1))
    state = torch.get_rng_state()
    assert k_means(torch.zeros(5, 2), 3).max() <= 2
    assert torch.equal(state, torch.get_rng_state())


def slow_purity(clusters: list[int], classes: list[int]) -> float:
    right = 0
    for cluster in set(clusters):
        inside = [c for k, c in zip(clusters, classes, strict=True) if k == cluster]
        right += max(inside.count(c) for c in set(inside))
    return right / len(clusters)


@given(st.lists(st.tuples(st.integers(-3, 4), st.integers(0, 5)), min_size=1, max_size=30))
def test_purity_is_what_it_says_and_does_not_care_for_names(pairs: list[tuple[int, int]]) -> None:
    clusters, classes = (list(column) for column in zip(*pairs, strict=True))
    found = purity(torch.tensor(clusters), torch.tensor(classes))
    assert found == pytest.approx(slow_purity(clusters, classes))
    renamed = torch.tensor([7 - 3 * c for c in clusters])
    assert purity(renamed, torch.tensor(classes)) == found
    assert purity(torch.tensor(classes), torch.tensor(classes)) == 1.0


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="clusters 4; expected"):
        k_means(torch.zeros(3, 2), 4)
    with pytest.raises(ValueError, match="not finite"):
        k_means(torch.full((3, 2), np.nan), 2)
