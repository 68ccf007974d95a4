"""A multi-layer perceptron as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU after each; with `norm` batch norm between the two.

    Args:
        in_features: numbers in a sample.
        hidden: width of each layer; the last is the number of features.
        dropout: after each ReLU.
        norm: batch norm; the linear layers then have no biases.
    """

    forward_ignores_mode = True

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        if in_features < 1 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"in_features is {in_features} and hidden {tuple(hidden)}; expected numbers >= 1, at least one layer"
            )
        sizes = [in_features, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers.append(nn.Linear(inputs, outputs, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        self.in_features = in_features
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, out_features] of a batch [B, ...] with `in_features` numbers in each sample."""
        x = x.flatten(1)
        if x.shape[1] != self.in_features:
            raise ValueError(
                f"a sample has {x.shape[1]} numbers; this MLP was made for {self.in_features}"
            )
        features: Tensor = self.layers(x)
        return features
