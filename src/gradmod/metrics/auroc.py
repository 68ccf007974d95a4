"""Area under the ROC curve over samples, as a pure function."""

from __future__ import annotations

import torch
from torch import Tensor


def auroc(scores: Tensor, positive: Tensor, known: Tensor | None = None) -> Tensor:
    """Mean over the labels of the area under the ROC curve: how often a positive sample is scored above a negative one.

    Equal scores count half, as in scikit-learn's `roc_auc_score(average="macro")`.

    Args:
        scores: [N, K], higher where a label is likelier.
        positive: [N, K] bool, which label is there; for classes, one-hot (one class against the rest).
        known: [N, K] bool, which labels are known; None: all are.

    Returns:
        float64 scalar, from 0 to 1; 0.5 is chance. NaN where a label that is there has no negative sample, or no label
        is there; a label that no sample has does not count.
    """
    known = torch.ones_like(positive) if known is None else known
    seen = (positive & known).any(0)
    areas = []
    for column in seen.nonzero().flatten().tolist():
        of_column = known[:, column]
        values, rows = scores[of_column, column].double(), positive[of_column, column]
        _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
        # The rank of equal scores is the mean of the places that they take.
        ranks = (counts.cumsum(0).double() - (counts - 1) / 2)[place]
        there = rows.sum().double()
        areas.append((ranks[rows].sum() - there * (there + 1) / 2) / (there * (len(rows) - there)))
    return torch.stack(areas).mean() if areas else torch.full((), torch.nan, dtype=torch.float64)
