"""DGL: encoders learn from their own modality alone, the fusion from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gradmod.methods.base import Method, Need
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.uni_modal_losses import Weight, weights_by_modality
from gradmod.methods.view import Batch, View
from gradmod.protocols import declares_encoding
from gradmod.tasks import Task

HIDDEN = ("features", "inputs")


class DGL(Method):
    """Disentangled Gradient Learning (Wei et al., ICCV 2025).

        loss = task(f(stopped z^1, ..., stopped z^M)) + sum over m of  weight^m * task(f of z^m alone, f held fixed)

    The joint loss reaches the fusion and the head f alone, as in joint training; the encoder of m learns from what f
    says of m alone, the features of the others zeros, and its loss reaches nothing else. So no encoder sees the joint
    loss, and none is slowed down by another. One backward pass.

    Where samples lack a modality, its loss is the mean over those that have it.

    Args:
        modalities: names of the inputs; M >= 1.
        weight: of each modality's loss, one number or one by modality (those left out have 1); > 0: an encoder has no
            other loss. The published code has 4 to 5 for CREMA-D and 2 to 3 for Kinetics-Sounds.
        hidden: what m alone is: `features`, the others' features are zeros, as in the published code; or `inputs`,
            their inputs are masked as the network masks them.

    Raises:
        ValueError: a weight that is not a finite number above 0, or of no modality; another `hidden`.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import DGL
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, DGL(("audio", "visual"), weight=4.0))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> loss.shape
        torch.Size([])
    """

    needs = frozenset({Need.FEATURES, Need.MODULES})
    needs_training_step = True

    def __init__(
        self, modalities: Sequence[str], weight: Weight = 1.0, hidden: str = "features"
    ) -> None:
        super().__init__(modalities)
        if hidden not in HIDDEN:
            raise ValueError(f"hidden is {hidden!r}; expected one of {', '.join(HIDDEN)}")
        self.hidden = hidden
        self.weights = weights_by_modality(weight, self.modalities)
        nothing = [m for m, value in self.weights.items() if value == 0]
        if nothing:
            raise ValueError(
                f"weight is 0 for {', '.join(nothing)}, whose encoder would learn nothing: it has no other loss. "
                "Expected numbers > 0"
            )

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"weight={self.weights}, hidden={self.hidden!r}"

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: as it is. Where it says how it fuses, that is made use of, and looked at."""
        if declares_encoding(network, self.modalities):
            self.needs = self.needs | {Need.FUSION}
        return network

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits on features without gradient, and each modality's loss as `uni_modal.<modality>`."""
        output, alone = view.disentangled(batch, zero=self.hidden == "features")
        losses = uni_modal_losses(view.task, alone, batch, self.modalities)
        weights = [self.weights[m] for m in self.modalities]
        self.last_step = record_of_heads(self, view.task, alone, batch, weights)
        return view.with_losses(
            output, {f"uni_modal.{m}": self.weights[m] * loss for m, loss in losses.items()}
        )
