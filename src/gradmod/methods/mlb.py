"""MLB: uni-modal losses, and gradients that are slowed down or sped up by how sure each modality is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from gradmod.methods.base import Need
from gradmod.methods.centre import TargetCentre
from gradmod.methods.changes_gradients import ChangesGradients
from gradmod.methods.head_losses import uni_modal_losses
from gradmod.methods.sureness import compare_sureness
from gradmod.methods.view import Batch, View


class MLB(ChangesGradients):
    """Multi-Loss Balanced (Kontras et al., BMVC 2024, arXiv 2405.07930).

        loss = task(logits) + sum over m of  task(logits of the uni-modal head of m)
        r^m  = mean of the c^j of the others / c^m,    c^m = mean over the batch of softmax(head of m)[target]
        k^m  = 1 + tanh(strength * (r^m - 1))              where r^m <= 1: the modality is ahead, and slowed down
             = 1 + (fastest - 1) * tanh(strength * (r^m - 1))   else: it is behind, and sped up

    The gradients of the encoder of m, and of its head where that is the network's own, are multiplied by k^m.

    For targets other than classes c is exp(-score), as in `OGMGE`. Heads: see `UniModalLosses`. An optimizer that
    divides gradients by their own size (Adam) cancels a k^m that stays the same.

    Args:
        modalities: names of the inputs; M >= 2.
        strength: a in the paper, > 0; 0.5 for CREMA-D and 2 for AVE there.
        fastest: b in the paper, what the gradients of a modality that is behind are multiplied by at most, >= 1; 10 for
            CREMA-D and 1, which speeds nothing up, for AVE there.

    Raises:
        ValueError: one modality; a number out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import MLB
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, MLB(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> model.last_step.coefficients.shape
        torch.Size([2])
    """

    needs = frozenset({Need.FEATURES, Need.HEADS, Need.MODULES})
    needs_training_step = True
    averages_scores = True

    def __init__(
        self, modalities: Sequence[str], strength: float = 0.5, fastest: float = 10.0
    ) -> None:
        super().__init__(modalities)
        if len(self.modalities) < 2:
            raise ValueError(
                f"MLB compares modalities, but there is one, {self.modalities[0]!r}; train it jointly"
            )
        if not (math.isfinite(strength) and strength > 0):
            raise ValueError(f"strength is {strength}; expected a finite number > 0")
        if not (math.isfinite(fastest) and fastest >= 1):
            raise ValueError(
                f"fastest is {fastest}; expected a finite number >= 1 (1 speeds nothing up)"
            )
        self.strength, self.fastest = float(strength), float(fastest)
        self.centre = TargetCentre()

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"strength={self.strength:g}, fastest={self.fastest:g}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and each modality's loss as `uni_modal.<modality>`."""
        output, logits = view.uni_modal(batch)
        losses = uni_modal_losses(view.task, logits, batch, self.modalities)
        said, target, present = logits.detach(), batch.target, batch.present
        with torch.no_grad():
            self.centre.observe(target, view.task, self.sum_over_processes)
        seen = compare_sureness(self, self.centre, view.task, said, target, present)
        behind = 1 / seen.ratios
        pull = torch.tanh(self.strength * (behind - 1))
        factors = 1 + pull * torch.where(behind > 1, self.fastest - 1, 1.0)
        coefficients = torch.where(seen.comparable & ~factors.isnan(), factors, 1.0)
        self.last_step = seen.record(self, coefficients, view.task, said, target, present)
        self._expect_backward(view.logits_of(output))
        return view.with_losses(output, {f"uni_modal.{m}": loss for m, loss in losses.items()})

    def change_gradients(self) -> None:
        """Multiply the gradients of each modality by its coefficient."""
        if self.last_step is None:
            return
        for coefficient, m in zip(self.last_step.coefficients, self.modalities, strict=True):
            for parameter in self.parameters_of(m):
                if parameter.grad is not None:
                    parameter.grad.mul_(coefficient.to(parameter.grad.dtype))
