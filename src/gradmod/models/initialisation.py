"""Starting values that a data set's published network has in place of its layers' own."""

from __future__ import annotations

from torch import nn


def start_as_crema_d(model: nn.Module) -> None:
    """Xavier normal linear layers, Kaiming uniform (fan out) convolutions, batch norm 1 and 0, in place.

    Source: the authors' network for CREMA-D.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
