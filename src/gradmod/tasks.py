"""What a target is: its loss, how a response is scored against it, its metrics, and what it must look like."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import functional
from gradmod.metrics.classification import accuracy, macro_f1
from gradmod.metrics.multilabel import label_accuracy, label_macro_f1
from gradmod.metrics.regression import correlation, mean_absolute_error, sign_accuracy


class Task(ABC):
    """A kind of target. The trainer and the methods speak to it and never to a loss function directly.

    Attributes:
        name: in records.
        headline: the metric that chooses the best epoch; one of those that `metrics` returns.
        lower_is_better: whether a lower value of it is better.
        sample_metric: the metric whose terms `per_sample` returns.
    """

    name: str
    headline: str
    lower_is_better = False
    sample_metric: str

    @abstractmethod
    def check(self, logits: Tensor, target: Tensor) -> None:
        """Raise ValueError unless `target` is of a shape and dtype that goes with `logits`; reads no values."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar training loss, a mean over samples."""

    @abstractmethod
    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] how badly each of the responses [M, ..., K] does on each sample (lower is better)."""

    @abstractmethod
    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] the headline metric of each of the responses [M, ..., K], over the samples at hand."""

    @abstractmethod
    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Figures over a whole split, by name, each a scalar; `loss` is among them."""

    @abstractmethod
    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] float64 terms of `sample_metric`: its value over samples is their mean. Segments are averaged."""

    @abstractmethod
    def ensemble(self, logits: Tensor) -> Tensor:
        """What several models predict together, from their logits [E, N, ..., K]: the mean of their predictions, as
        logits [N, ..., K]."""

    @abstractmethod
    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """[K] the best answer that looks at no input, as logits: the same for every sample of `target` [N, ...].

        Args:
            target: all targets of a split.
            outputs: K.
        """

    def improves(self, value: float, best: float) -> bool:
        """Whether a headline `value` is better than the `best` so far; NaN stands for none so far."""
        return math.isnan(best) or (value < best if self.lower_is_better else value > best)


class Classification(Task):
    """One class a sample: logits [..., K], target [...] int64; [B, T, K] with [B, T] where segments have their own.

    The loss is the mean cross-entropy; the score is the cross-entropy with the probability floored at 1e-8.
    """

    name = "classification"
    headline = "accuracy"
    sample_metric = "accuracy"

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] whether the class is right."""
        return _mean_over_rest((logits.argmax(-1) == target).double())

    def ensemble(self, logits: Tensor) -> Tensor:
        """Logarithm of the mean of the softmaxes."""
        return logits.double().log_softmax(-1).logsumexp(0) - math.log(len(logits))

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Logarithms of the classes' frequencies: the majority class, with the loss of who knows how many there are."""
        return _log_frequencies(torch.bincount(target.flatten(), minlength=outputs).double())

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        if target.shape != logits.shape[:-1]:
            raise ValueError(
                f"target has shape {list(target.shape)}; expected {list(logits.shape[:-1])}, the leading axes of the "
                f"logits {list(logits.shape)}: one class index for each prediction"
            )
        if target.dtype != torch.int64:
            raise ValueError(f"target has dtype {target.dtype}; expected torch.int64 class indices: call target.long()")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over all leading axes."""
        return F.cross_entropy(logits.flatten(0, -2), target.flatten())

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] floored cross-entropy of each response.

        Raises:
            ValueError: a class that there is no logit for (on the CPU; a GPU reports it by itself, and later).
        """
        try:
            return functional.floored_cross_entropy(responses, target)
        except (RuntimeError, IndexError) as error:
            if "out of bounds" not in str(error):
                raise
            low, high = target.aminmax()
            raise ValueError(
                f"target holds classes from {int(low)} to {int(high)}; expected 0 to {responses.shape[-1] - 1}: the "
                "model has a logit for each of these, and samples without a class are to be left out"
            ) from None

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] accuracy of each response."""
        return (responses.argmax(-1) == target).double().flatten(1).mean(1)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy`, `macro_f1` and `loss` over all samples."""
        return {
            "accuracy": accuracy(logits, target),
            "macro_f1": macro_f1(logits, target),
            "loss": self.loss(logits, target),
        }


class MultiLabel(Task):
    """Any number of the K labels at once: logits [..., K], target [..., K] floats 0 or 1.

    The loss is the mean binary cross-entropy over labels and samples; the score of a sample is the mean over its
    labels, the probability of the right answer floored at 1e-8.
    """

    name = "multi-label"
    headline = "macro_f1"
    sample_metric = "accuracy"

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] share of the labels that are right."""
        return _mean_over_rest(((logits > 0) == (target > 0.5)).double())

    def ensemble(self, logits: Tensor) -> Tensor:
        """Logit of the mean of the sigmoids."""
        wide = logits.double()
        return F.logsigmoid(wide).logsumexp(0) - F.logsigmoid(-wide).logsumexp(0)

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Each label's logit of its frequency."""
        flat = target.double().reshape(-1, target.shape[-1])
        on = flat.sum(0)
        return _log_frequencies(torch.stack([len(flat) - on, on])).diff(dim=0)[0]

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        _check_floats_like(logits, target, "0 or 1 for each label")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] floored binary cross-entropy of each response, a mean over the labels."""
        return functional.floored_binary_cross_entropy(responses, target).mean(-1)

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] macro F1 of each response."""
        return torch.stack([label_macro_f1(response, target) for response in responses])

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy` over labels, `macro_f1` and `loss`."""
        return {
            "accuracy": label_accuracy(logits, target),
            "macro_f1": label_macro_f1(logits, target),
            "loss": self.loss(logits, target),
        }


class Regression(Task):
    """K numbers a sample: predictions [..., K], target [..., K] floats.

    The score of a sample is its loss. Scores of any size are compared as cross-entropies are: the difference that
    enters the discrepancy ratio is bounded to what cross-entropy with its floor can reach, +-18.42.

    Args:
        error: `squared` or `absolute`.

    Raises:
        ValueError: another error.
    """

    name = "regression"
    headline = "mae"
    lower_is_better = True
    sample_metric = "mae"

    def __init__(self, error: str = "squared") -> None:
        if error not in ("squared", "absolute"):
            raise ValueError(f"error is {error!r}; expected 'squared' or 'absolute'")
        self.error = error

    def check(self, logits: Tensor, target: Tensor) -> None:
        """See `Task.check`."""
        _check_floats_like(logits, target, "a number for each output")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean squared or absolute error."""
        return self._errors(logits, target).mean()

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, ...] error of each response, a mean over the outputs, in at least float32."""
        return self._errors(functional.at_least_float32(responses), target).mean(-1)

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
        """[N] absolute error."""
        return _mean_over_rest((logits.double() - target.double()).abs())

    def ensemble(self, logits: Tensor) -> Tensor:
        """Mean of the predictions."""
        return logits.double().mean(0)

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """Mean, or for the absolute error median, of each output."""
        flat = target.double().reshape(-1, target.shape[-1])
        return flat.mean(0) if self.error == "squared" else flat.quantile(0.5, 0)

    def _errors(self, predictions: Tensor, target: Tensor) -> Tensor:
        difference = predictions - target.to(predictions.dtype)
        return difference.square() if self.error == "squared" else difference.abs()


TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, MultiLabel, Regression)}
"""By their names in records."""


def _log_frequencies(counts: Tensor) -> Tensor:
    """Of counts along the first axis; what never occurs gets a thousandth of one occurrence."""
    return (counts.clamp(min=1e-3) / counts.sum(0)).log()


def _mean_over_rest(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def _check_floats_like(logits: Tensor, target: Tensor, what: str) -> None:
    if target.shape != logits.shape:
        raise ValueError(
            f"target has shape {list(target.shape)}; expected {list(logits.shape)} like the model's output: {what}"
        )
    if not target.is_floating_point():
        raise ValueError(f"target has dtype {target.dtype}; expected floats, {what}: call target.float()")
