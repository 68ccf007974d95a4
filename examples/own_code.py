"""A network and a method of your own on the command line, in one file.

    gradmod train --dataset av-digits --model examples/own_code.py:make --method examples/own_code.py:WorstFirst \\
      --weight 0.5

A network is a function that returns it; a method is a subclass of `gradmod.methods.Method`. All of it:
docs/own-code.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gradmod.methods import Batch, Method, Need, View
from gradmod.models import MLP


class GatedFusion(nn.Module):
    """An encoder for each modality, and a gate that weighs their features, sample by sample."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], outputs: int, size: int = 32) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {name: MLP(math.prod(shape), hidden=(size,)) for name, shape in shapes.items()}
        )
        self.gate = nn.Linear(size * len(shapes), len(shapes))
        self.head = nn.Linear(size, outputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, outputs]."""
        features = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        weights = self.gate(torch.cat(features, 1)).softmax(1)
        logits: Tensor = self.head((torch.stack(features, 1) * weights.unsqueeze(2)).sum(1))
        return logits


def make(shapes: Mapping[str, tuple[int, ...]], outputs: int) -> nn.Module:
    """The network for inputs of these shapes, each that of one sample."""
    return GatedFusion(shapes, outputs)


class WorstFirst(Method):
    """Adds the loss of the modality that is worst in this batch, of a head of its own."""

    needs = frozenset({Need.FEATURES, Need.HEADS})
    needs_training_step = True
    search: ClassVar = {"weight": (1.0, 0.3, 3.0)}

    @dataclass(frozen=True)
    class Settings:
        """What the command line, a file and `gradmod compare` may say."""

        weight: float = 1.0
        """Weight of the loss that is added, above 0."""

        def __post_init__(self) -> None:
            if self.weight <= 0:
                raise ValueError(f"weight is {self.weight}; expected a number > 0")

    def __init__(self, modalities: Sequence[str], weight: float = 1.0) -> None:
        super().__init__(modalities)
        self.weight = weight

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's output, and the loss by the name `worst`."""
        output, logits = view.uni_modal(batch)
        losses = torch.stack([view.task.loss(one, batch.target) for one in logits])
        return view.with_losses(output, {"worst": self.weight * losses.max()})
