"""Uni-modal losses: the loss of the model, and that of a head for each modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradmod.methods.base import Method, Need
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View

Weight = float | Mapping[str, float]


class UniModalLosses(Method):
    """Joint training with a loss for each modality beside it ("multi-loss").

        loss = task(logits) + sum over m of  weight^m * task(logits of the uni-modal head of m)

    No single paper: the baseline that most methods since 2024 start from, and that many do not beat. A head reads the
    feature of its modality alone, as the network's own forward computed it: the network's own heads where it has them
    (those of sum fusion are part of the prediction as well), else linear heads that the wrapper owns, which share
    nothing with the joint head and are trained, saved and moved with the model. They predict nothing by themselves.

    Where samples lack a modality, its loss is the mean over those that have it; 0 where none has it.

    Args:
        modalities: names of the inputs; M >= 1.
        weight: of each modality's loss, one number or one by modality (those left out have 1); >= 0. With
            all 0 this is joint training, to the last bit.

    Raises:
        ValueError: a weight that is negative, not finite or of no modality.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import UniModalLosses
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, UniModalLosses(("audio", "visual"), weight=0.5))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> loss.shape
        torch.Size([])
    """

    needs = frozenset({Need.FEATURES, Need.HEADS})
    needs_training_step = True

    def __init__(self, modalities: Sequence[str], weight: Weight = 1.0) -> None:
        super().__init__(modalities)
        self.weights = weights_by_modality(weight, self.modalities)
        if not any(self.weights.values()):
            self.needs = self.needs - {Need.HEADS}

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"weight={self.weights}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and each modality's weighted loss as `uni_modal.<modality>`."""
        if Need.HEADS not in self.needs:
            self.last_step = StepRecord(torch.zeros(len(self.modalities), dtype=torch.float64))
            return view.output(batch)
        output, logits = view.uni_modal(batch)
        losses = uni_modal_losses(view.task, logits, batch, self.modalities)
        self.last_step = record_of_heads(
            self, view.task, logits, batch, [self.weights[m] for m in self.modalities]
        )
        return view.with_losses(
            output, {f"uni_modal.{m}": self.weights[m] * loss for m, loss in losses.items()}
        )


def weights_by_modality(weight: Weight, modalities: Sequence[str]) -> dict[str, float]:
    """A weight for each modality.

    Raises:
        ValueError: one that is negative or not finite, or of no modality.
    """
    given = dict(weight) if isinstance(weight, Mapping) else dict.fromkeys(modalities, weight)
    unknown = [m for m in given if m not in modalities]
    if unknown:
        raise ValueError(
            f"weight names {', '.join(map(repr, unknown))}; the modalities are {list(modalities)}"
        )
    wrong = {m: value for m, value in given.items() if not (math.isfinite(value) and value >= 0)}
    if wrong:
        raise ValueError(f"weight is {wrong}; expected finite numbers >= 0")
    return {m: float(given.get(m, 1.0)) for m in modalities}
