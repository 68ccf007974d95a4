"""MLA: modalities take turns in every batch, through one head that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.undisturbed import undisturbed
from gradmod.methods.base import Method, Need
from gradmod.methods.epoch import Epoch
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.shared_head import WEIGHTINGS, SharedHeadFusion
from gradmod.methods.step import Step
from gradmod.methods.view import Batch, View
from gradmod.protocols import Output
from gradmod.tasks import Classification, Task

_PROJECTION = "projection"


class MLA(Method):
    """Multimodal Learning with Alternating Unimodal Adaptation (Zhang et al., CVPR 2024).

    The network's fusion gives way to one linear head, which reads each modality's feature z^m by itself. In every batch
    the modalities take turns, in the order of `modalities`: the task's loss of head(z^m), its backward, and an
    optimizer's step of the encoder of m and of the head, which the next modality finds changed. Nothing else moves, no
    momentum either. The prediction is a mean of what the head says of the modalities: see `SharedHeadFusion`.

    With `projection`, the gradient of the head's weight is multiplied from the right by P, which takes out directions
    that features have had (recursive least squares; r the mean feature of this batch and modality, b of B the batch):

        k = P r,    P <- P - k k^T / (a + r^T k),    a = 0.1^(1 + b/B),    P <- P / |P|_F

    The published code never applies P, because it looks for a parameter name that does not exist; `projection=False`,
    the default, is what its figures are of. With P the head's gradients shrink by about the square root of the size of
    the features, so that the learning rate must be chosen anew. Its entropies are of a whole test batch; ours are of
    each sample, so that a prediction does not depend on the other samples.

    Args:
        modalities: names of the inputs, in the order of their turns; M >= 1.
        projection: whether the head's gradients are projected; then call `model.before_epoch(number, train=loader)`.
        weighting: of the modalities in a prediction: entropy (for classes) or mean.

    Raises:
        ValueError: an unknown weighting.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import MLA
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, MLA(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> model.eval()(inputs).shape
        torch.Size([5, 3])
    """

    needs = frozenset({Need.FEATURES, Need.FUSION, Need.MODULES})
    needs_training_step = True
    takes_gradients = True
    takes_turns = True

    def __init__(
        self, modalities: Sequence[str], projection: bool = False, weighting: str = "entropy"
    ) -> None:
        super().__init__(modalities)
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; expected one of {', '.join(WEIGHTINGS)}")
        self.projection, self.weighting = projection, weighting
        self.averages_scores = projection
        self._turn = 0
        self._batch, self._batches = 0, 0  # of this epoch
        self._mean: Tensor | None = None
        self._said: list[Tensor] = []

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"projection={self.projection}, weighting={self.weighting!r}"

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: with one head in place of its fusion."""
        if self.weighting == "entropy" and not isinstance(task, Classification):
            raise ValueError(
                f"weighting is 'entropy', which is of classes, and the task is {type(task).__name__}; expected 'mean'"
            )
        return SharedHeadFusion(network, self.modalities, self.weighting)

    def before_epoch(self, epoch: Epoch) -> bool:
        """See `Method.before_epoch`."""
        self._batch, self._batches = 0, epoch.steps or 0
        return False

    def begin_step(self, model: nn.Module) -> None:
        """See `Method.begin_step`.

        Raises:
            RuntimeError: `projection`, and the number of batches is not known, or used up.
        """
        if self.projection and self._batch >= self._batches:
            raise RuntimeError(
                f"MLA's projection goes with the place in the epoch, and this is batch {self._batch + 1} of "
                f"{self._batches}: call model.before_epoch(number, train=loader), whose length says how many there "
                "are, before every epoch"
            )
        super().begin_step(model)

    def forward(self, view: View, batch: Batch) -> Any:
        """What the head says of the modality whose turn it is, and its loss as `uni_modal.<modality>`."""
        net, m = view.model, self.modalities[self._turn]
        assert isinstance(net, SharedHeadFusion)
        if not net.has_sizes:
            with undisturbed(net), torch.no_grad():
                net(batch.inputs)
        feature = net.encode(m, batch.inputs[m])
        logits = net.alone(m, feature)
        column = None if batch.present is None else batch.present[:, self._turn]
        if self.projection:
            self._mean = self._mean_feature(net.rows(m, feature), column)
        self._said.append(logits.detach())
        own = Batch(batch.inputs, batch.target, None if column is None else column[:, None])
        losses = uni_modal_losses(view.task, logits[None], own, (m,))
        if self._turn == len(self.modalities) - 1:
            ones = [1.0] * len(self.modalities)
            said = torch.stack(self._said)
            self.last_step = record_of_heads(self, view.task, said, batch, ones)
        return Output(logits, {f"uni_modal.{m}": losses[m]})

    def update(self, step: Step, output: Output) -> None:
        """A forward, a gradient and an optimizer's step for one modality after the other."""
        net = step.model.model
        assert isinstance(net, SharedHeadFusion)
        trained = {id(parameter) for parameter in step.parameters}
        head: list[nn.Parameter] = [net.weight, net.bias]
        shared = [p for p in head if id(p) in trained]
        try:
            for turn, m in enumerate(self.modalities):
                self._turn = turn
                said = output if turn == 0 else step.forward()
                loss = step.count([said.losses[f"uni_modal.{m}"]])
                own = [p for p in self.encoder_parameters(m) if id(p) in trained]
                (gradients,) = step.gradients([loss], [*shared, *own])
                if self.projection and id(net.weight) in trained:
                    gradients[0] = self._projected(gradients[0])
                step.add_gradients([*shared, *own], gradients)
                step.apply(only=[*shared, *own])
        finally:
            self._turn = 0
            self._said.clear()
        self._batch += 1

    @torch.no_grad()
    def _mean_feature(self, rows: Tensor, has: Tensor | None) -> Tensor:
        """[F] mean of the features that are there, over all processes."""
        shown = rows if has is None else rows[has.to(rows.device)]
        flat = shown.flatten(0, -2).double()
        count = flat.new_tensor([float(len(flat))])
        sums = self.sum_over_processes(torch.cat([flat.sum(0), count]))
        return sums[:-1] / sums[-1].clamp(min=1)

    @torch.no_grad()
    def _projected(self, gradient: Tensor) -> Tensor:
        """The gradient of the head's weight, projected; P has learnt the mean feature of this turn before."""
        assert self._mean is not None
        r = self._mean
        p = self.store.get(_PROJECTION)
        if p is None:
            p = torch.eye(len(r), dtype=torch.float64, device=r.device)
        k = p @ r
        a = 0.1 ** (1 + self._batch / self._batches)
        p = p - torch.outer(k, k) / (a + r @ k)
        p = p / p.norm()
        self.store[_PROJECTION] = p
        projected: Tensor = gradient.double() @ p.T
        return projected.to(gradient.dtype)

    def memory(self) -> dict[str, Any]:
        """The place in the epoch."""
        return {"batch": self._batch, "batches": self._batches}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._batch, self._batches = int(memory["batch"]), int(memory["batches"])
