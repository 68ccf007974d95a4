"""The MaxOut network that early fusion joins its features with.

Source: Goodfellow et al., "Maxout Networks", ICML 2013 (arXiv 1302.4389); sizes as in the authors' code of AGM.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Maxout(nn.Module):
    """A linear layer to `out_features` groups of `pool` numbers, and the largest of each group.

    Args:
        in_features: numbers in.
        out_features: numbers out.
        pool: pieces of each maximum.
    """

    forward_ignores_mode = True

    def __init__(self, in_features: int, out_features: int, pool: int = 2) -> None:
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(in_features, out_features * pool)

    def forward(self, x: Tensor) -> Tensor:
        """[..., out_features] of [..., in_features]."""
        pieces: Tensor = self.linear(x)
        return pieces.reshape(*x.shape[:-1], -1, self.pool).amax(-1)


class MaxOutMLP(nn.Sequential):
    """BatchNorm1d, then Maxout -> BatchNorm1d -> Dropout for each hidden size.

    Args:
        in_features: numbers in a joint feature.
        hidden: sizes after each Maxout.
        pool: pieces of each maximum.
        dropout: after each layer.
    """

    forward_ignores_mode = True

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (2048, 1024),
        pool: int = 2,
        dropout: float = 0.3,
    ) -> None:
        sizes = [in_features, *hidden]
        layers: list[nn.Module] = [nn.BatchNorm1d(in_features, eps=1e-4)]
        for inputs, outputs in pairwise(sizes):
            layers += [Maxout(inputs, outputs, pool), nn.BatchNorm1d(outputs), nn.Dropout(dropout)]
        super().__init__(*layers)
        self.out_features = sizes[-1]
