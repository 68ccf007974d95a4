"""What every training method is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradmod.coalitions.protocols import Output, split_output
from gradmod.coalitions.strategy import Strategy
from gradmod.tasks import Task


@dataclass(frozen=True)
class StepRecord:
    """What a method saw and did in one step; tensors on the device, so that reading them is what synchronises.

    Attributes:
        scores: [M] score s^m of each mono-modal response.
        ratios: [M] discrepancy ratios r^m.
        running_ratios: [M] running ratios tau^m.
        coefficients: [M] coefficients kappa^m applied to the gradients.
        headlines: [M] the task's headline metric (accuracy, ...) of each mono-modal response on this process' share of
            the batch.
    """

    scores: Tensor
    ratios: Tensor
    running_ratios: Tensor
    coefficients: Tensor
    headlines: Tensor

    def by_modality(self, modalities: Sequence[str]) -> dict[str, dict[str, float]]:
        """Every figure as a number, by name and modality; waits for the device."""
        columns = {field.name: getattr(self, field.name).tolist() for field in fields(self)}
        return {name: dict(zip(modalities, values, strict=True)) for name, values in columns.items()}


class TrainableModel(Protocol):
    """What `Method.step` trains: a `ModulatedModel`, or whatever DDP or Fabric wrapped around it."""

    def __call__(self, inputs: Mapping[str, Any], target: Tensor) -> Tensor | Output:
        """Logits of a training forward."""


class Method(nn.Module):
    """A way to train a multi-modal model; this base is plain joint training.

    Its statistics are float64 buffers, which stay float64 when the module is cast. The names of the modalities are
    saved in the state dict and checked on load.

    Args:
        modalities: names of the inputs, in the order in which the method reports them.

    Raises:
        ValueError: no modality, or one named twice.
    """

    last_step: StepRecord | None = None
    """Record of the last training step; None before the first, and for methods that have none."""
    needs_coalitions = False
    """Whether `forward` evaluates the coalitions with gradient."""

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        if isinstance(modalities, str) or not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities is {modalities!r}; expected a sequence of different names, e.g. ('audio', 'visual')"
            )
        self.modalities = tuple(modalities)
        self.epoch: int | None = None

    def forward(
        self, model: nn.Module, strategy: Strategy, inputs: Mapping[str, Any], target: Tensor, task: Task
    ) -> Tensor | Output:
        """The training forward: what `model` returns on `inputs`, its backward as the method wants it.

        Args:
            model: the network.
            strategy: how its coalitions are evaluated, by a method that needs them.
            inputs: the batch, by modality.
            target: the batch's targets.
            task: what the targets are.
        """
        output: Tensor | Output = model(inputs)
        return output

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is being trained, counted from 1.

        Raises:
            ValueError: `epoch` is below 1.
        """
        if epoch < 1:
            raise ValueError(f"epoch is {epoch}; expected a number from 1 on: the first epoch is 1")
        self.epoch = epoch

    def step(
        self,
        model: TrainableModel,
        batch: tuple[Mapping[str, Any], Tensor],
        task: Task,
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        """One training step up to the gradients; the optimizer is the caller's.

        Args:
            model: the wrapped model, to be called with inputs and target.
            batch: inputs and target.
            task: what the target is.
            backward: called with the scalar loss.

        Returns:
            The loss, detached, extra loss included.
        """
        inputs, target = batch
        logits, extra_loss = split_output(model(inputs, target))
        loss = task.loss(logits, target)
        if extra_loss is not None:
            loss = loss + extra_loss
        backward(loss)
        return loss.detach()

    def get_extra_state(self) -> Tensor:
        """Names of the modalities, as the bytes of a JSON list in a uint8 tensor, which any tensor format can hold."""
        return torch.tensor(list(json.dumps(self.modalities).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a state dict was saved for the same modalities.

        Raises:
            ValueError: it was not.
        """
        saved = tuple(json.loads(bytes(state.tolist())))
        if saved != self.modalities:
            raise ValueError(
                f"the state was saved for the modalities {list(saved)}, in this order; this method has "
                f"{list(self.modalities)}. Make it with the same names in the same order"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Method:
        """Move with the model, but keep float64 statistics float64: `model.half()` must not round them."""
        kept = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype == torch.float64}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in kept.items():
            self._buffers[name] = buffer.to(self.get_buffer(name).device)
        return self
