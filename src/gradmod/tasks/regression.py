"""Numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmod import functional
from gradmod.metrics.regression import correlation, mean_absolute_error, sign_accuracy
from gradmod.tasks.base import Task
from gradmod.tasks.layout import check_axis, check_floats_like, outputs_last, terms_of_mean


class Regression(Task):
    """K numbers a sample: predictions [..., K], target [..., K] floats, NaN where there is none.

    The score of a sample is its loss. A modality's own prediction is taken around the best constant answer, see
    `gradmod.functional.own_predictions`: in a training step around the mean of the targets that the run has seen so
    far (this batch included, over all processes, each output by itself), on a split around that of the split.
    So a constant that is added to the targets and to the model's output changes no score.

    For discrepancy ratios the scores are divided by what the best constant answer scores on those targets (their
    variance; for absolute errors their standard deviation), so that the unit of the targets changes no coefficient.
    The difference that enters the ratio is bounded to what cross-entropy with its floor can reach, +-18.42.

    Args:
        error: `squared` or `absolute`.
        output_axis: axis of the predictions that holds the K numbers of a sample, each with a mean of its own; 1 for
            [B, K, T] or [B, K, H, W].

    Raises:
        ValueError: another error; an axis of 0, which is the batch.
    """

    name = "regression"
    headline = "mae"
    sample_metric = "mae"

    def __init__(self, error: str = "squared", output_axis: int = -1) -> None:
        if error not in ("squared", "absolute"):
            raise ValueError(f"error is {error!r}; expected 'squared' or 'absolute'")
        check_axis("output_axis", output_axis)
        self.error, self.output_axis = error, output_axis

    def settings(self) -> dict[str, Any]:
        """See `Task.settings`."""
        return {"error": self.error, "output_axis": self.output_axis}

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        check_floats_like(logits, target, "a number for each output")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean squared or absolute error over the numbers that there are; 0 where there is none."""
        self.check(logits, target)
        return self._errors(logits, target).sum() / (~target.isnan()).sum().clamp(min=1)

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] error of each response, a mean over the outputs, in at least float32."""
        self.check(responses[0], target)
        errors = outputs_last(self._errors(responses, target), self.output_axis, before=1)
        return errors.sum(-1) / self.weights(target).clamp(min=1)

    def weights(self, target: Tensor) -> Tensor:
        """[...] number of the outputs that have a target."""
        return outputs_last(~target.isnan(), self.output_axis).sum(-1)

    def left_out(self, target: Tensor) -> Tensor:
        """See `Task.left_out`."""
        return target.isnan().sum()

    def numbers(self, target: Tensor) -> Tensor:
        """See `Task.numbers`."""
        return outputs_last(target, self.output_axis)

    def unit(self, variance: Tensor) -> Tensor:
        """The variance, or its root: what is an error's unit."""
        return variance if self.error == "squared" else variance.sqrt()

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] mean absolute error of each response."""
        return torch.stack([mean_absolute_error(response, target) for response in responses])

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`mae`, `correlation`, `sign_accuracy` with zero, `sign_accuracy_nonzero`, and `loss`."""
        return {
            "mae": mean_absolute_error(logits, target),
            "correlation": correlation(logits, target),
            "sign_accuracy": sign_accuracy(logits, target, with_zero=True),
            "sign_accuracy_nonzero": sign_accuracy(logits, target, with_zero=False),
            "loss": self.loss(logits, target),
        }

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] absolute error. See `Task.per_sample`."""
        self.check(logits, target)
        scored = ~target.isnan()
        errors = (logits.double() - target.double()).abs()
        return terms_of_mean(torch.where(scored, errors, 0.0), scored)

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Mean, or for the absolute error median, of each output; 0 where none has a target."""
        flat = self.numbers(target).double().reshape(-1, outputs)
        found = flat.nanmean(0) if self.error == "squared" else flat.nanquantile(0.5, 0)
        return found.nan_to_num(0.0)

    def _errors(self, predictions: Tensor, target: Tensor) -> Tensor:
        """Of every number, in at least float32; 0 where there is no target."""
        scored = ~target.isnan()
        predictions = functional.at_least_float32(predictions)
        difference = predictions - torch.where(scored, target, 0.0).to(predictions.dtype)
        errors = difference.square() if self.error == "squared" else difference.abs()
        return torch.where(scored, errors, 0.0)
