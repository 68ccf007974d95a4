"""One class a sample, a segment or a pixel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import functional
from gradmod.metrics.classification import accuracy, macro_f1
from gradmod.tasks.base import Task
from gradmod.tasks.layout import (
    check_axis,
    is_readable,
    log_frequencies,
    outputs_last,
    terms_of_mean,
)

SUM_TOLERANCE = 1e-2
"""How far the probabilities of a soft target may be from summing to 1: what bfloat16 rounds."""


class Classification(Task):
    """One class a prediction: logits [..., K], target [...] int64; [B, T, K] with [B, T] where segments have their own.

    The loss is the mean cross-entropy; the score is the cross-entropy with the probability floored at 1e-8.

    Soft targets (mixup, distillation) are floats of the shape of the logits whose classes sum to 1: the loss and the
    score are the cross-entropy with them, and the class that counts as right is their largest.

    Args:
        ignore_index: the class of a target that is not scored, as in `F.cross_entropy`: padding, unlabelled pixels.
            Soft targets are not scored where they are NaN.
        class_axis: axis of the logits that holds the classes; 1 for [B, K, T] or [B, K, H, W], as `F.cross_entropy` has
            it. None: the last one; logits and targets that would go with axis 1 as well are then refused.
        label_smoothing: part of each target that is spread evenly over all classes, as in `F.cross_entropy`; from 0 on
            and below 1.

    Raises:
        ValueError: a class axis of 0, which is the batch; a label smoothing out of range.
    """

    name = "classification"
    headline = "accuracy"
    sample_metric = "accuracy"
    # Here as well, for subclasses whose __init__ does not call this one.
    ignore_index: int = -100
    class_axis: int | None = None
    label_smoothing: float = 0.0

    def __init__(
        self, ignore_index: int = -100, class_axis: int | None = None, label_smoothing: float = 0.0
    ) -> None:
        if class_axis is not None:
            check_axis("class_axis", class_axis)
        if isinstance(label_smoothing, bool) or not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing is {label_smoothing!r}; expected a number from 0 on and below 1"
            )
        self.ignore_index, self.class_axis, self.label_smoothing = (
            ignore_index,
            class_axis,
            label_smoothing,
        )
        self.output_axis = -1 if class_axis is None else class_axis

    def settings(self) -> dict[str, Any]:
        """See `Task.settings`."""
        return {
            "ignore_index": self.ignore_index,
            "class_axis": self.class_axis,
            "label_smoothing": self.label_smoothing,
        }

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        axis, shape = self.output_axis, list(logits.shape)
        if not -len(shape) < axis < len(shape):
            raise ValueError(
                f"class_axis is {axis} and the logits have shape {shape}; expected one of the axes behind the batch, "
                f"1 to {len(shape) - 1}"
            )
        one_class = _without(shape, axis)
        at_one = _without(shape, 1)
        given = list(target.shape)
        if target.is_floating_point() and given == shape:
            if self.class_axis is None and len(shape) > 2:
                raise ValueError(
                    f"soft targets of shape {given} could have their classes on axis 1, as F.cross_entropy has it, or "
                    "on the last axis: say which, Classification(class_axis=1) or Classification(class_axis=-1)"
                )
            return
        if given != one_class:
            hint = ""
            if self.class_axis is None and given == at_one:
                hint = ". With the classes on axis 1, as F.cross_entropy has it: task=Classification(class_axis=1)"
            elif given == shape:
                hint = ". One-hot or soft targets are floats: target.float()"
            elif given == [*one_class, 1]:
                hint = ": target.squeeze(-1)"
            raise ValueError(
                f"target has shape {given}; expected {one_class}, the leading axes of the logits {shape}: one class "
                f"index for each prediction{hint}"
                if axis in (-1, len(shape) - 1)
                else f"target has shape {given}; expected {one_class}, the logits {shape} without their class axis "
                f"{axis}: one class index for each prediction{hint}"
            )
        if target.dtype != torch.int64:
            raise ValueError(
                f"target has dtype {target.dtype}; expected torch.int64 class indices: call target.long()"
            )
        if self.class_axis is None and len(shape) > 2 and given == at_one:
            raise ValueError(
                f"logits of shape {shape} with targets of shape {given} could have their classes on axis 1, as "
                "F.cross_entropy has it, or on the last axis: say which, Classification(class_axis=1) or "
                "Classification(class_axis=-1)"
            )

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over the predictions that have a target; 0 where none has."""
        self.check(logits, target)
        logits, target = self._flat(functional.at_least_float32(logits), target)
        scored, smoothing = self._scored(target), self.label_smoothing
        if target.is_floating_point():
            known = self._index(target, scored).to(logits.dtype)
            terms = F.cross_entropy(logits, known, label_smoothing=smoothing, reduction="none")
            total = torch.where(scored, terms, 0.0).sum()
        else:
            total = F.cross_entropy(
                logits,
                target,
                ignore_index=self.ignore_index,
                label_smoothing=smoothing,
                reduction="sum",
            )
        return total / scored.sum().clamp(min=1)

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] floored cross-entropy of each response.

        Raises:
            ValueError: a class that there is no logit for, a soft target that does not sum to 1 (on the CPU; on a GPU
                the first is reported by the device, and the second scored NaN, which no method counts).
        """
        self.check(responses[0], target)
        responses = outputs_last(responses, self.output_axis, before=1)
        if target.is_floating_point():
            target = outputs_last(target, self.output_axis)
        scored = self._scored(target)
        uniform = responses.new_full((responses.shape[-1],), 1 / responses.shape[-1])
        try:
            scores = functional.floored_cross_entropy(responses, self._index(target, scored))
        except (RuntimeError, IndexError) as error:
            if "out of bounds" not in str(error):
                raise
            low, high = target[scored].aminmax()
            raise ValueError(
                f"target holds classes from {int(low)} to {int(high)}; expected 0 to {responses.shape[-1] - 1}: the "
                f"model has a logit for each of these. A target without a class is marked by {self.ignore_index}, or "
                "by what Classification(ignore_index=...) says"
            ) from None
        if target.is_floating_point():
            scores = torch.where(_sums_to_one(target, scored), scores, torch.nan)
        if self.label_smoothing:
            even = functional.floored_cross_entropy(responses, uniform)
            scores = (1 - self.label_smoothing) * scores + self.label_smoothing * even
        return torch.where(scored, scores, 0.0)

    def weights(self, target: Tensor) -> Tensor:
        """[...] 1 where there is a target, else 0."""
        if target.is_floating_point():
            target = outputs_last(target, self.output_axis)
        return self._scored(target)

    def left_out(self, target: Tensor) -> Tensor:
        """See `Task.left_out`."""
        return (~self.weights(target)).sum()

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] accuracy of each response."""
        right, scored = self._right(responses, target, before=1)
        return (right & scored).double().flatten(1).sum(1) / scored.sum()

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy`, `macro_f1` and `loss` over all predictions that have a target."""
        loss = self.loss(logits, target)
        logits, target = self._flat(logits, target)
        scored = self._scored(target)
        logits, target = logits[scored], self._hard(target[scored])
        return {
            "accuracy": accuracy(logits, target),
            "macro_f1": macro_f1(logits, target),
            "loss": loss,
        }

    def ranking(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of each class against the rest. See `Task.ranking`."""
        logits, target = self._flat(logits, target)
        scored = self._scored(target)
        there = F.one_hot(self._hard(target[scored]).long(), logits.shape[-1]).bool()
        return logits[scored].softmax(-1), there, torch.ones_like(there)

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] whether the class is right. See `Task.per_sample`."""
        right, scored = self._right(logits, target)
        return terms_of_mean((right & scored).double(), scored)

    def ensemble(self, logits: Tensor) -> Tensor:
        """Logarithm of the mean of the softmaxes."""
        axis = self.output_axis if self.output_axis < 0 else self.output_axis + 1
        return logits.double().log_softmax(axis).logsumexp(0) - math.log(len(logits))

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Logarithms of the classes' frequencies: the majority class, with the loss of who knows how many there are."""
        if target.is_floating_point():
            target = outputs_last(target, self.output_axis).reshape(-1, outputs)
        scored = self._scored(target)
        if target.is_floating_point():
            counts = target[scored].double().sum(0)
        else:
            counts = torch.bincount(target[scored], minlength=outputs).double()
        return log_frequencies(
            (1 - self.label_smoothing) * counts + self.label_smoothing * counts.mean()
        )

    def _scored(self, target: Tensor) -> Tensor:
        """[...] bool, which predictions have a target; the classes of a soft one lie on its last axis."""
        return (
            ~target.isnan().any(-1) if target.is_floating_point() else target != self.ignore_index
        )

    def _index(self, target: Tensor, scored: Tensor) -> Tensor:
        """The targets, with something harmless where there is none."""
        return torch.where(
            scored.unsqueeze(-1) if target.is_floating_point() else scored, target, 0
        )

    def _hard(self, target: Tensor) -> Tensor:
        return target.argmax(-1) if target.is_floating_point() else target

    def _right(self, logits: Tensor, target: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
        """[..., B, ...] whether each prediction is right, `before` axes before the batch; [B, ...] which are scored."""
        self.check(logits[0] if before else logits, target)
        predicted = outputs_last(logits, self.output_axis, before).argmax(-1)
        if target.is_floating_point():
            target = outputs_last(target, self.output_axis)
        return predicted == self._hard(target), self._scored(target)

    def _flat(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K] and [N] or [N, K], every prediction a row."""
        if target.is_floating_point():
            target = outputs_last(target, self.output_axis).flatten(0, -2)
        else:
            target = target.flatten()
        return outputs_last(logits, self.output_axis).flatten(0, -2), target


def _without(shape: list[int], axis: int) -> list[int]:
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def _sums_to_one(target: Tensor, scored: Tensor) -> Tensor:
    """[...] bool, where the classes of a soft target sum to 1 and none is negative.

    Raises:
        ValueError: on the CPU, where one that is scored is not so.
    """
    found = ((functional.at_least_float32(target).sum(-1) - 1).abs() <= SUM_TOLERANCE) & (
        target >= 0
    ).all(-1)
    if is_readable(target) and not bool((found | ~scored).all()):
        first = target[scored & ~found][0].tolist()
        shown = ", ".join(f"{value:g}" for value in first[:8]) + (", ..." if len(first) > 8 else "")
        raise ValueError(
            f"a soft target is [{shown}], which sums to {sum(first):g}; expected probabilities of the classes, which "
            "sum to 1 (NaN for a target that is not scored). Several labels at once are MultiLabel(); class indices "
            "are int64: target.long()"
        )
    return found
