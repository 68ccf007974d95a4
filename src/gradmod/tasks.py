"""What a target is: its loss, how a response is scored against it, its metrics, and what it must look like."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import functional
from gradmod.metrics.classification import accuracy, macro_f1


class Task(ABC):
    """A kind of target. The trainer and the methods speak to it and never to a loss function directly.

    Attributes:
        headline: the metric that chooses the best epoch; higher is better.
    """

    headline: str

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
    def accuracies(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] share of the samples that each of the responses [M, ..., K] gets right."""

    @abstractmethod
    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Figures over a whole split, by name, each a scalar."""


class Classification(Task):
    """One class a sample: logits [..., K], target [...] int64; [B, T, K] with [B, T] where segments have their own.

    The loss is the mean cross-entropy; the score is the cross-entropy with the probability floored at 1e-8.
    """

    headline = "accuracy"

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
        """[M, ...] floored cross-entropy of each response."""
        return functional.floored_cross_entropy(responses, target)

    def accuracies(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] accuracy of each response."""
        return (responses.argmax(-1) == target).double().flatten(1).mean(1)

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`accuracy`, `macro_f1` and `loss` over all samples."""
        return {
            "accuracy": accuracy(logits, target),
            "macro_f1": macro_f1(logits, target),
            "loss": self.loss(logits, target),
        }
