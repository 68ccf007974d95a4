"""Gradient Blending: the joint and the uni-modal losses, weighted by what each is found to gain and to overfit."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from gradmod.methods.base import Method, Need
from gradmod.methods.epoch import Epoch
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.step import total
from gradmod.methods.trials import JOINT, PARTS
from gradmod.methods.view import Batch, View
from gradmod.protocols import Output

SMALLEST_OVERFITTING = 0.01
"""Overfitting counts as no less than this share of the held-out loss: what is nearly 0 would be divided by."""


class GBlending(Method):
    """Gradient Blending (Wang, Tran and Feiszli, CVPR 2020, arXiv 1905.12681).

        loss = sum over k of  w_k * L_k        k each modality, by a head of its own, and `joint`, the task's loss
        w_k  = 1/Z * max(G_k, 0) / O_k^2       the weights sum to 1

    What a loss gains and how much it overfits is found out on trial. From where the model stands it is trained for
    `super_epoch` epochs with L_k alone, on the training split without a held-out part, and then put back. With L in
    eval mode, a mean over samples, before and after:

        G_k = L_k(held out) before - after
        O_k = [L_k(held out) - L_k(train)] after - before

    Offline this is done once, before the first epoch that the method is told of. `online`, it is done again every
    `super_epoch` epochs, and the training proper must not see the held-out part either, in which no later trial could
    find overfitting otherwise. A loss without gain has weight 0; where none gains, the last weights stay, and before
    there are any all losses weigh the same. O_k^2 is at least that of 1 % of the mean held-out loss. Losses that the
    network returns count as part of the joint one.

    Args:
        modalities: names of the inputs; M >= 1.
        online: whether weights are estimated again and again.
        super_epoch: epochs of a trial, and online from one estimation to the next, >= 1.
        held_out: share of the training split that the trainer holds out, > 0 and < 1. In a loop of your own you hold
            it out: `model.before_epoch(number, train=loader, held_out=loader, optimizer=optimizer)`.
        seed: of what trials draw. Those of one estimation see the same batches.

    Attributes:
        weights: by loss (`joint` and each modality); empty before the first estimation.
        estimates: what was found, one entry each time: `epoch`, the one before which it was, `gain`, `overfitting` and
            `weights` by loss, and `from`: "gains", or, where there were none, "last weights" or "nothing".

    Raises:
        ValueError: a number out of range; a modality called `joint`.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, random_split
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import GBlending
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, GBlending(("audio", "visual"), super_epoch=2))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> samples = [({"audio": torch.randn(6), "visual": torch.randn(4)}, n % 3) for n in range(40)]
        >>> train, held_out = (DataLoader(part, 12) for part in random_split(samples, [0.9, 0.1]))
        >>> for epoch in (1, 2):
        ...     changed = model.before_epoch(epoch, train=train, held_out=held_out, optimizer=optimizer)
        ...     for inputs, target in DataLoader(samples, 12, shuffle=True):  # offline: all of the training split
        ...         loss = model.training_step(inputs, target, optimizer)
        >>> sorted(model.method.weights), round(sum(model.method.weights.values()), 6)
        (['audio', 'joint', 'visual'], 1.0)
    """

    needs = frozenset({Need.FEATURES, Need.HEADS, Need.TRIALS})
    needs_training_step = True
    replaces_task_loss = True

    def __init__(
        self,
        modalities: Sequence[str],
        online: bool = False,
        super_epoch: int = 10,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        if JOINT in self.modalities:
            raise ValueError(
                f"a modality is called {JOINT!r}, which is the name of the joint loss; call it otherwise"
            )
        if super_epoch < 1:
            raise ValueError(f"super_epoch is {super_epoch}; expected a whole number >= 1")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out is {held_out}; expected a number > 0 and < 1")
        self.online, self.super_epoch, self.held_out, self.seed = (
            online,
            super_epoch,
            held_out,
            seed,
        )
        self.trains_on_held_out = not online
        self.losses = (JOINT, *self.modalities)
        self.weights: dict[str, float] = {}
        self.estimates: list[dict[str, Any]] = []
        self._on_trial: str | None = None  # the loss that is trained alone

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"online={self.online}, super_epoch={self.super_epoch}, held_out={self.held_out:g}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and the weighted losses: `joint` and `uni_modal.<modality>`."""
        if not self.weights and self._on_trial is None:
            raise RuntimeError(
                "GBlending has no weights yet: call model.before_epoch(number, train=loader, held_out=loader, "
                "optimizer=optimizer) before every epoch"
            )
        output, logits = view.uni_modal(batch)
        network = view.with_losses(output, {})
        own = uni_modal_losses(view.task, logits, batch, self.modalities)
        joint = total([view.task.loss(network.logits, batch.target), *network.losses.values()])
        if self._on_trial is None:
            self.last_step = record_of_heads(
                self, view.task, logits, batch, [self.weights[m] for m in self.modalities]
            )
        weighted = self._weighted({JOINT: joint, **own})
        return Output(
            network.logits,
            {
                name if name == JOINT else f"uni_modal.{name}": loss
                for name, loss in weighted.items()
            },
        )

    def _weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each loss times its weight; on trial one of them alone."""
        if self._on_trial is None:
            return {name: self.weights[name] * loss for name, loss in losses.items()}
        # DDP wants a gradient of every parameter; one process alone saves the backward of the others.
        is_alone = not (dist.is_available() and dist.is_initialized())
        return {
            name: loss * float(name == self._on_trial)
            for name, loss in losses.items()
            if name == self._on_trial or not is_alone
        }

    def before_epoch(self, epoch: Epoch) -> bool:
        """See `Method.before_epoch`: the estimation, where one is due."""
        last = self.estimates[-1]["epoch"] if self.estimates else None
        if last is None or (self.online and epoch.number >= last + self.super_epoch):
            self._estimate(epoch)
        return False

    def _estimate(self, epoch: Epoch) -> None:
        """Find the weights by a trial of each loss alone."""
        with epoch.trial(self.seed) as trial:
            before = {part: trial.losses(part) for part in PARTS}
        after: dict[str, dict[str, float]] = {part: {} for part in PARTS}
        for name in self.losses:
            try:
                with epoch.trial(self.seed) as trial:
                    self._on_trial = name
                    trial.train(self.super_epoch)
                    for part in PARTS:
                        after[part][name] = trial.losses(part)[name]
            finally:
                self._on_trial = None
        gain = {name: before["held_out"][name] - after["held_out"][name] for name in self.losses}
        overfitting = {
            name: (after["held_out"][name] - after["train"][name])
            - (before["held_out"][name] - before["train"][name])
            for name in self.losses
        }
        typical = sum(abs(before["held_out"][name]) for name in self.losses) / len(self.losses)
        found = blending_weights(gain, overfitting, SMALLEST_OVERFITTING * typical)
        source = "gains" if found else "last weights" if self.weights else "nothing"
        even = dict.fromkeys(self.losses, 1 / len(self.losses))
        self.weights = found or self.weights or even
        self.estimates.append(
            {
                "epoch": epoch.number,
                "gain": gain,
                "overfitting": overfitting,
                "weights": self.weights,
                "from": source,
            }
        )

    def epoch_record(self) -> dict[str, Any]:
        """See `Method.epoch_record`: the weights, and in an epoch that began with an estimation all of it."""
        last = self.estimates[-1] if self.estimates else {}
        found = last if last.get("epoch") == self.epoch else {"weights": self.weights}
        return {"blending": {name: value for name, value in found.items() if name != "epoch"}}

    def memory(self) -> dict[str, Any]:
        """What was found."""
        return {"weights": self.weights, "estimates": self.estimates}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self.weights, self.estimates = dict(memory["weights"]), list(memory["estimates"])


def blending_weights(
    gain: Mapping[str, float], overfitting: Mapping[str, float], least: float
) -> dict[str, float]:
    """The weights of losses, which sum to 1: max(gain, 0) / overfitting^2, times what makes them sum to it.

    Args:
        gain: by loss, how far it fell on held-out samples.
        overfitting: by loss, how far its gap between held-out and training samples grew.
        least: the size that overfitting has at least.

    Returns:
        By loss; empty where none gained. One whose figures are not finite, since its trial diverged, has 0.

    Example:
        >>> from gradmod.methods.gblending import blending_weights
        >>> blending_weights({"joint": 1.0, "audio": 1.0, "visual": -1.0}, dict(joint=0.5, audio=0.25, visual=1), 0.01)
        {'joint': 0.2, 'audio': 0.8, 'visual': 0.0}
    """
    least = max(least, math.sqrt(sys.float_info.min))
    shares = {}
    for name, value in gain.items():
        if math.isfinite(value) and math.isfinite(overfitting[name]):
            shares[name] = max(value, 0.0) / max(abs(overfitting[name]), least) ** 2
        else:
            shares[name] = 0.0
            warnings.warn(
                f"the trial of the loss {name!r} alone diverged (gain {value}, overfitting {overfitting[name]}): its "
                "weight is 0. Lower the learning rate, or clip gradients",
                stacklevel=2,
            )
    whole = sum(shares.values())
    return {name: share / whole for name, share in shares.items()} if whole else {}
