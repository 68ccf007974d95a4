"""A supervised contrastive loss of all modalities' features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.functional import at_least_float32


def contrastive_loss(rows: Tensor, classes: Tensor, temperature: float = 0.5) -> Tensor:
    """Supervised contrastive loss (NT-Xent), the mean over all ordered pairs of two rows of the same class.

        - log( exp(s_ap) / (exp(s_ap) + sum over rows n of other classes of exp(s_an)) ),   s = cosine / temperature

    Args:
        rows: [N, F].
        classes: [N]; below 0: the row is left out.
        temperature: of the cosines; 0.5 in the published code.

    Returns:
        Scalar; 0 where there is no such pair.
    """
    unit = torch.nn.functional.normalize(rows, dim=1)
    similar = unit @ unit.T / temperature
    known = (classes >= 0) & (classes >= 0)[:, None]
    same = classes == classes[:, None]
    others = similar.masked_fill(~(known & ~same), torch.finfo(similar.dtype).min / 4)
    terms = torch.nn.functional.softplus(others.logsumexp(1, keepdim=True) - similar)
    pairs = known & same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return torch.where(pairs, terms, 0.0).sum() / pairs.sum().clamp(min=1)


def features_with_classes(
    features: Mapping[str, Any], target: Tensor, counted: Tensor, modalities: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """All features of all modalities as rows, and the class of each.

    Args:
        features: by modality, [B, F] each.
        target: [B] classes.
        counted: [M, B] above 0 where there is a feature and a target.
        modalities: their order.

    Returns:
        [M * B, F], and [M * B] classes, -1 for rows that do not count.

    Raises:
        ValueError: features of other shapes, or of several; targets that are not one class a sample.
    """
    first = features[modalities[0]]
    for m in modalities:
        feature = features[m]
        if not isinstance(feature, Tensor) or feature.dim() != 2 or feature.shape != first.shape:
            shape = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            raise ValueError(
                f"the contrastive loss compares features with each other, and that of {m!r} is {shape}; expected "
                "[B, F] of the same size for all. Use contrastive=0"
            )
    if target.dim() != 1:
        raise ValueError(
            f"the contrastive loss compares features, and targets have the shape {list(target.shape)}; expected one "
            "class a sample, [B]. Use contrastive=0"
        )
    rows = torch.cat([at_least_float32(features[m]) for m in modalities])
    classes = target.to(rows.device).expand(len(modalities), -1)
    return rows, torch.where(counted.to(rows.device) > 0, classes, -1).flatten()
