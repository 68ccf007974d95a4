"""Several labels at once."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import functional
from gradmod.metrics.multilabel import label_accuracy, label_macro_f1
from gradmod.tasks.base import Task
from gradmod.tasks.layout import (
    check_axis,
    check_floats_like,
    is_readable,
    log_frequencies,
    outputs_last,
    terms_of_mean,
)


class MultiLabel(Task):
    """Any number of the K labels at once: logits [..., K], target [..., K] floats 0 or 1.

    The loss is the mean binary cross-entropy over labels and samples; the score of a sample is the mean over its
    labels, the probability of the right answer floored at 1e-8. A sample weighs as many labels as are known of it.

    A soft label lies between 0 and 1: loss and score are the cross-entropy with it, and it counts as present in the
    metrics above 0.5. A label that is NaN is not known: it is in no loss, score or metric.

    Args:
        missing: another value that marks a label as not known, such as -1.
        class_axis: axis of the logits that holds the labels; 1 for [B, K, T] or [B, K, H, W].

    Raises:
        ValueError: a class axis of 0, which is the batch; a missing value that is a label.
    """

    name = "multi-label"
    headline = "macro_f1"
    sample_metric = "accuracy"
    missing: float | None = None

    def __init__(self, missing: float | None = None, class_axis: int = -1) -> None:
        check_axis("class_axis", class_axis)
        if missing is not None and 0 <= missing <= 1:
            raise ValueError(
                f"missing is {missing!r}, which is a label; expected a value below 0 or above 1, or NaN"
            )
        self.missing, self.output_axis = missing, class_axis

    def settings(self) -> dict[str, Any]:
        """See `Task.settings`."""
        missing = None if self.missing is None or math.isnan(self.missing) else self.missing
        return {"missing": missing, "class_axis": self.output_axis}

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        check_floats_like(logits, target, "0 or 1 for each label")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross-entropy over the labels that are known; 0 where none is."""
        self.check(logits, target)
        scored = self._scored(target)
        wide = functional.at_least_float32(logits)
        terms = F.binary_cross_entropy_with_logits(
            wide, torch.where(scored, target, 0.0).to(wide.dtype), reduction="none"
        )
        return torch.where(scored, terms, 0.0).sum() / scored.sum().clamp(min=1)

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] floored binary cross-entropy of each response, a mean over the labels that are known.

        Raises:
            ValueError: a label below 0 or above 1 (on the CPU; on a GPU it is scored NaN, which no method counts).
        """
        self.check(responses[0], target)
        scored = self._scored(target)
        known = torch.where(scored, target, 0.0)
        is_label = (known >= 0) & (known <= 1)
        if is_readable(target) and not bool(is_label.all()):
            wrong = float(known[~is_label][0])
            raise ValueError(
                f"target holds the label {wrong:g}; expected 0, 1 or a soft label in between, and NaN where a label is "
                f"not known. If {wrong:g} says that: MultiLabel(missing={wrong:g})"
            )
        terms = functional.floored_binary_cross_entropy(responses, known)
        terms = torch.where(scored, torch.where(is_label, terms, torch.nan), 0.0)
        terms, scored = (
            outputs_last(terms, self.output_axis, before=1),
            outputs_last(scored, self.output_axis),
        )
        return terms.sum(-1) / scored.sum(-1).clamp(min=1)

    def weights(self, target: Tensor) -> Tensor:
        """[...] number of the labels that are known."""
        return outputs_last(self._scored(target), self.output_axis).sum(-1)

    def left_out(self, target: Tensor) -> Tensor:
        """See `Task.left_out`."""
        return (~self._scored(target)).sum()

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] macro F1 of each response."""
        last = outputs_last(target, self.output_axis)
        scored = self._scored(last)
        return torch.stack(
            [label_macro_f1(outputs_last(one, self.output_axis), last, scored) for one in responses]
        )

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy` over labels, `macro_f1` and `loss`."""
        loss = self.loss(logits, target)
        logits, target = (outputs_last(values, self.output_axis) for values in (logits, target))
        scored = self._scored(target)
        return {
            "accuracy": label_accuracy(logits, target, scored),
            "macro_f1": label_macro_f1(logits, target, scored),
            "loss": loss,
        }

    def ranking(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logit of each label. See `Task.ranking`."""
        logits, target = (
            outputs_last(values, self.output_axis).flatten(0, -2) for values in (logits, target)
        )
        return logits, target > 0.5, self._scored(target)

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] share of the labels that are right. See `Task.per_sample`."""
        self.check(logits, target)
        scored = self._scored(target)
        return terms_of_mean((((logits > 0) == (target > 0.5)) & scored).double(), scored)

    def ensemble(self, logits: Tensor) -> Tensor:
        """Logit of the mean of the sigmoids."""
        wide = logits.double()
        return F.logsigmoid(wide).logsumexp(0) - F.logsigmoid(-wide).logsumexp(0)

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Each label's logit of its frequency."""
        flat = outputs_last(target, self.output_axis).double().reshape(-1, outputs)
        scored = self._scored(flat)
        on = torch.where(scored, flat, 0.0).sum(0)
        return log_frequencies(torch.stack([scored.sum(0) - on, on])).diff(dim=0)[0]

    def _scored(self, target: Tensor) -> Tensor:
        known = ~target.isnan()
        return (
            known
            if self.missing is None or math.isnan(self.missing)
            else known & (target != self.missing)
        )
