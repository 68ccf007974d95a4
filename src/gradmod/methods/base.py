"""What every training method is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmod.coalitions.strategy import Strategy
from gradmod.methods.averaging import Averaging
from gradmod.methods.surroundings import NO_FLOAT64, in_backward, refuse_transforms, where_float64_is
from gradmod.protocols import Output, split_output
from gradmod.tasks import Task


@dataclass(frozen=True)
class StepRecord:
    """What a method saw and did in one step; tensors on the device, so that reading them is what synchronises.

    Attributes:
        coefficients: [M] what each modality's gradient, or its learning rate, was multiplied by.
        scores: [M] score s^m of each mono-modal response (lower is better); None: the method looks at none in a step;
            NaN where no sample of the batch has the modality.
        ratios: [M] how far each modality is ahead of the others, as the method reckons it.
        running_ratios: [M] the same over the run so far.
        headlines: [M] the task's headline metric (accuracy, ...) of each mono-modal response on this process' share of
            the batch; None where samples lack modalities.
        counted: scalar bool, whether the method took the step into its statistics and modulated it; None: a method that
            has none.
        left_out_targets: scalar, how many targets of this process' share of the batch have no score; None: a task whose
            targets all have.
    """

    coefficients: Tensor
    scores: Tensor | None = None
    ratios: Tensor | None = None
    running_ratios: Tensor | None = None
    headlines: Tensor | None = None
    counted: Tensor | None = None
    left_out_targets: Tensor | None = None

    def by_modality(self, modalities: Sequence[str]) -> dict[str, dict[str, float]]:
        """Every figure of single modalities as a number, by name and modality; waits for the device."""
        return {
            name: dict(zip(modalities, values.tolist(), strict=True))
            for name, values in self._figures()
            if values.dim() == 1
        }

    def of_the_step(self) -> dict[str, float]:
        """The other figures as numbers, by name; waits for the device."""
        return {name: value.item() for name, value in self._figures() if value.dim() == 0}

    def _figures(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None:
                yield field.name, values


@dataclass(frozen=True)
class ValidationFigures:
    """How well one modality alone predicts on the validation split: from its own head, else from its response.

    Attributes:
        score: mean score (the loss, with a floor); lower is better.
        headline: the task's headline metric (accuracy, ...).
        lower_is_better: whether a lower headline is better.
    """

    score: float
    headline: float
    lower_is_better: bool = False


class TrainableModel(Protocol):
    """What `Method.step` trains: a `ModulatedModel`, or whatever DDP or Fabric wrapped around it."""

    def __call__(self, inputs: Mapping[str, Any], target: Tensor) -> Tensor | Output:
        """Logits of a training forward."""


class Method(nn.Module):
    """A way to train a multi-modal model; this base is plain joint training.

    Its statistics are float64 buffers, which stay float64 when the module is cast; on a device without float64 (Apple's
    MPS) they stay on the CPU. The names of the modalities are saved in the state dict and checked on load.

    Args:
        modalities: names of the inputs, in the order in which the method reports them.

    Raises:
        ValueError: no modality, or one named twice.
    """

    last_step: StepRecord | None = None
    """Record of the last training step; None before the first, and for methods that have none."""
    needs_coalitions = False
    """Whether `forward` evaluates the coalitions with gradient."""
    needs_modules = False
    """Whether it must know which modules belong to which modality."""
    watches_validation = False
    """Whether `after_epoch` must be called."""
    averages_scores = False
    """Whether a step needs scores averaged over all processes that train the model."""
    counts_batch: bool
    """Whether the samples of the next batch count; no on a process that has none in a step, and goes along with those
    of another one."""
    sets_learning_rates = False
    """Whether modalities have learning rates of their own, so that the optimizer needs parameter groups."""

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        if isinstance(modalities, str) or not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities is {modalities!r}; expected a sequence of different names, e.g. ('audio', 'visual')"
            )
        self.modalities = tuple(modalities)
        self.epoch: int | None = None
        self.counts_batch = True
        self._averaging = Averaging()
        self._is_bound = False
        # In a dict, so that the network's modules do not become the method's own.
        self._modules_of: dict[str, tuple[nn.Module, ...]] = {}

    def forward(
        self,
        model: nn.Module,
        strategy: Strategy,
        inputs: Mapping[str, Any],
        target: Tensor,
        task: Task,
        present: Tensor | None = None,
    ) -> Tensor | Output:
        """The training forward: what `model` returns on `inputs`, its backward as the method wants it.

        Args:
            model: the network.
            strategy: how its coalitions are evaluated, by a method that needs them.
            inputs: the batch, by modality.
            target: the batch's targets.
            task: what the targets are.
            present: [B, M] bool, which sample has which modality, where some samples lack one: those are hidden in
                `inputs` already. None: every sample has every modality.
        """
        output: Tensor | Output = model(inputs)
        return output

    def use_process_group(self, group: dist.ProcessGroup | None) -> None:
        """Average scores over the processes of `group` from now on; None: those of this process alone.

        Without it they are averaged over the processes of the DDP that the model is in, or over which it is sharded.
        """
        self._averaging.choose(group)

    def begin_step(self, model: nn.Module) -> None:
        """Be told that a training forward of `model` begins, which holds this method.

        Raises:
            RuntimeError: it is called in a way that the method cannot be right in.
        """
        if not self.averages_scores:
            return
        refuse_transforms(type(self).__name__)
        if not in_backward():
            self._averaging.begin_step(model, self)

    def begin_without_gradient(self, target: Tensor) -> None:
        """Be told that a forward in train mode begins in which the method does nothing."""

    def sum_over_processes(self, totals: Tensor) -> Tensor:
        """Sum of `totals` over the processes that train the model; all of them must call it."""
        return self._averaging.sum(totals if self.counts_batch else torch.zeros_like(totals))

    def mean_scores(self, scores: Tensor, present: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Mean score of each modality over the samples of all processes that have it.

        Args:
            scores: [M, B, ...] by modality and sample (and segment).
            present: [B, M] bool, which sample has which modality; None: all have all.
            weights: [B, ...] weight of each score, 0 where there is none; None: all alike. See `Task.weights`.

        Returns:
            [M] float64; NaN where no sample has the modality and a score.
        """
        totals = self.sum_over_processes(sums_and_counts(scores, present, weights))
        return totals[0] / totals[1]

    def _headlines(self, task: Task, predictions: Tensor, target: Tensor, present: Tensor | None) -> Tensor | None:
        """[M] the task's headline metric of each modality's predictions; None where samples lack modalities."""
        if present is not None:
            return None
        return task.headlines(where_float64_is(predictions), where_float64_is(target))

    def bind(self, modules: Mapping[str, tuple[nn.Module, ...]]) -> None:
        """Take the modules of each modality; `ModulatedModel` calls it once.

        Raises:
            ValueError: the method needs them and there are none, or it is another model's already.
        """
        if self._is_bound:
            raise ValueError(
                f"this {type(self).__name__} belongs to another model already, and keeps its statistics: make a new one"
            )
        if self.needs_modules and not modules:
            raise ValueError(
                f"{type(self).__name__} acts on each modality's own modules, but the model does not say which they "
                "are: give it `encoders` (a module for each modality), or pass encoders=... to gradmod.adapt"
            )
        self._modules_of = dict(modules)
        self._is_bound = True

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters of the encoder of a modality, and of its own head where it has one."""
        return [parameter for module in self._modules_of[modality] for parameter in module.parameters()]

    def after_backward(self) -> None:
        """Change the gradients: between `backward()` and the optimizer's step, after unscaling, before clipping."""

    def after_epoch(self, validation: Mapping[str, ValidationFigures]) -> bool:
        """Look at how well each modality alone predicts on the validation split, at the end of an epoch.

        Args:
            validation: by modality.

        Returns:
            Whether the model was changed, so that what was measured of it no longer holds.
        """
        return False

    def learning_rate_factors(self) -> dict[str, float]:
        """What the common learning rate is multiplied by for the parameters of each modality."""
        return dict.fromkeys(self.modalities, 1.0)

    def learning_rates_are_set(self) -> None:
        """Be told that the optimizer has the factors."""

    @property
    def has_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return False

    def look(self) -> None:
        """Warn of what went wrong in the steps so far, once for each kind; waits for the device."""

    def at_bounds(self, coefficients: Tensor) -> Tensor:
        """[..., M] bool, which of the coefficients [..., M] are as small or as large as the method lets them be."""
        return torch.zeros_like(coefficients, dtype=torch.bool)

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
        task.check(logits, target)
        loss = task.loss(logits, target)
        if extra_loss is not None:
            loss = loss + extra_loss
        backward(loss)
        self.after_backward()
        return loss.detach()

    def memory(self) -> dict[str, Any]:
        """What the method remembers beside its buffers, as plain values; part of the state dict."""
        return {}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave."""

    def get_extra_state(self) -> Tensor:
        """Modalities and memory, as the bytes of JSON in a uint8 tensor, which any tensor format can hold."""
        state = {"modalities": self.modalities, "memory": self.memory()}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back the memory; check that the state dict was saved for the same modalities.

        Raises:
            ValueError: it was not.
        """
        content = json.loads(bytes(state.tolist()))
        saved = tuple(content["modalities"])
        if saved != self.modalities:
            raise ValueError(
                f"the state was saved for the modalities {list(saved)}, in this order; this method has "
                f"{list(self.modalities)}. Make it with the same names in the same order"
            )
        self.set_memory(content["memory"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Method:
        """Move with the model, but keep float64 statistics float64: `model.half()` must not round them."""
        kept = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.dtype == torch.float64
        ]
        for module, name, _ in kept:
            module._buffers[name] = None
        moved = [buffer for _, _, buffer in kept]
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            moved = [_moved_like(fn(buffer.float()), buffer) for buffer in moved]
        finally:
            for (module, name, _), buffer in zip(kept, moved, strict=True):
                module._buffers[name] = buffer
        return self


def _moved_like(moved: Tensor, statistic: Tensor) -> Tensor:
    """A statistic where `moved`, its copy in float32, was moved to."""
    device = torch.device("cpu") if moved.device.type in NO_FLOAT64 else moved.device
    if statistic.is_meta and device.type != "meta":  # nothing is known of it there; statistics begin at 0
        return torch.zeros_like(statistic, device=device)
    if device.type == "cpu" and moved.is_shared():  # type: ignore[no-untyped-call]
        statistic.share_memory_()  # type: ignore[no-untyped-call]
    return statistic.to(device)


def sums_and_counts(scores: Tensor, present: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """Weighted sum of the scores of each modality over the samples that have it, and the sum of the weights.

    Args:
        scores: [M, B, ...] by modality and sample (and segment).
        present: [B, M] bool, which sample has which modality; None: all have all.
        weights: [B, ...] weight of each score, 0 where there is none; None: all alike. See `Task.weights`.

    Returns:
        [2, M] float64; on the CPU, if the device has none.

    Raises:
        ValueError: weights of another shape than a modality's scores.
    """
    scores = where_float64_is(scores)
    if present is None and weights is None:
        sums = scores.flatten(1).double().sum(1)
        return torch.stack([sums, torch.full_like(sums, scores[0].numel())])
    if weights is None:
        share = torch.ones_like(scores, dtype=torch.float64)
    elif weights.shape != scores.shape[1:]:
        raise ValueError(
            f"the task weighs targets in the shape {list(weights.shape)} and scores responses in the shape "
            f"{list(scores.shape)}; expected scores [M, B, ...] and weights [B, ...]"
        )
    else:
        share = where_float64_is(weights).to(scores.device).double().expand_as(scores)
    if present is not None:
        share = share * present.to(scores.device).T.reshape(scores.shape[:2] + (1,) * (scores.dim() - 2))
    sums = torch.where(share > 0, scores * share, 0.0).flatten(1).sum(1)
    return torch.stack([sums, share.flatten(1).sum(1)])


def scores_of(task: Task, responses: Tensor, target: Tensor) -> Tensor:
    """[M, B, ...] the task's scores of responses [M, B, ..., K].

    Raises:
        ValueError: they have another form.
    """
    scores = task.scores(responses, target)
    if scores.dim() < 2 or scores.shape[:2] != responses.shape[:2]:
        raise ValueError(
            f"the scores of the task {task.name!r} have shape {list(scores.shape)} for responses of shape "
            f"{list(responses.shape)}; expected {list(responses.shape[:2])} and any axes of parts of a sample behind: "
            "a score for each modality and sample, not their mean"
        )
    return scores
