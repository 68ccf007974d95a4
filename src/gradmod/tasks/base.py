"""What a target is to the trainer and the methods: its loss, its scores, and defaults for all else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gradmod import functional
from gradmod.tasks.layout import along, mean_over_rest, terms_of_mean

LOWER_IS_BETTER = ("loss", "mae", "score")
"""Metrics of which a lower value is better."""


class Task(ABC):
    """A kind of target. The trainer and the methods speak to it and never to a loss function directly.

    A task of one's own says what the loss and what a score is; all else has a default:

        class Ranks(gradmod.Task):
            def loss(self, logits, target):            # scalar, differentiable
                return F.smooth_l1_loss(logits, target)

            def scores(self, responses, target):       # [M, B]: how badly each response does on each sample
                return F.smooth_l1_loss(responses, target.expand_as(responses), reduction="none").mean(-1)

        model = ModulatedModel(net, AGM(("audio", "visual")), task=Ranks())

    By default the headline is `score`, the mean score, and lower is better; the best constant answer is fitted to the
    loss; several models together answer the mean of their logits; every target has a score.

    Attributes:
        name: in records; by default that of the class.
        headline: the metric that chooses the best epoch; one of those that `metrics` returns.
        lower_is_better: whether a lower value of it is better; by default true of score, loss and mae alone.
        sample_metric: the metric whose terms `per_sample` returns; one of those that `metrics` returns.
        output_axis: axis of the logits on which the K outputs of a prediction lie.
    """

    name: str = ""
    headline: str = "score"
    lower_is_better: bool = True
    sample_metric: str = "score"
    output_axis: int = -1

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = cls.__dict__
        if "name" not in own:
            cls.name = cls.__name__
        if "headline" in own and "lower_is_better" not in own:
            cls.lower_is_better = own["headline"] in LOWER_IS_BETTER

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar training loss, a mean over what is scored; 0 where nothing is."""

    @abstractmethod
    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, B, ...] how badly each of the responses [M, B, ..., K] does on each sample (lower is better).

        What stands where `weights` is 0 is not read.
        """

    def check(self, logits: Tensor, target: Tensor) -> None:
        """Raise ValueError unless `target` is of a shape and dtype that goes with `logits`; reads no values."""
        if isinstance(target, Tensor) and (target.dim() == 0 or len(target) != len(logits)):
            raise ValueError(
                f"target has shape {list(target.shape)}; expected [{len(logits)}, ...], a target for each sample of "
                f"the logits {list(logits.shape)}"
            )

    def settings(self) -> dict[str, Any]:
        """What the task was made with, as plain values for records."""
        return {}

    def weights(self, target: Tensor) -> Tensor | None:
        """[B, ...] how many of its entries are scored, for each prediction: 0 where there is no target.

        A mean score weighs the samples by it. None: all alike.
        """
        return None

    def left_out(self, target: Tensor) -> Tensor | None:
        """How many entries of `target` have no score, a scalar; None: a task in which all have."""
        return None

    def numbers(self, target: Tensor) -> Tensor | None:
        """[..., K] the targets as numbers, NaN where there is none, if scores are taken around their best constant.

        See `gradmod.functional.own_predictions`. None: around 0, as where the targets are classes.
        """
        return None

    def unit(self, variance: Tensor) -> Tensor:
        """Scalar: the score of the best constant answer, from the `variance` of `numbers` around it, a scalar.

        Scores are compared in this unit.
        """
        return torch.ones_like(variance)

    def own_predictions(
        self, responses: Tensor, target: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """[M, N, ...] what each modality alone predicts, from all responses [M, N, ...] and targets of a split.

        `present` [M, N] bool says which sample has which modality, where some lack one.
        """
        if self.numbers(target) is None:
            return responses
        has = None if present is None else present.T
        constant = self.constant_logits(responses[0], target)
        return functional.own_predictions(responses, constant, has)

    def mean_scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] float64 mean score of each of the responses [M, N, ..., K] over what is scored; NaN where nothing is."""
        scores = self.scores(responses, target).double()
        weights = self.weights(target)
        if weights is None:
            return scores.flatten(1).mean(1)
        weights = weights.to(scores)
        return torch.where(weights > 0, scores * weights, 0.0).flatten(1).sum(1) / weights.sum()

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M] the headline metric of each of the responses [M, ..., K], over the samples at hand."""
        if self.headline == "score":
            return self.mean_scores(responses, target)
        return torch.stack(
            [torch.as_tensor(self.metrics(one, target)[self.headline]) for one in responses]
        )

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Figures over a whole split, by name, each a scalar; `loss` is among them."""
        return {
            "score": self.mean_scores(logits.unsqueeze(0), target)[0],
            "loss": self.loss(logits, target),
        }

    def figures(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The metrics, with a word for who wrote a task of their own.

        Raises:
            ValueError: they lack the headline.
        """
        found = self.metrics(logits, target)
        if self.headline not in found:
            raise ValueError(
                f"the task {self.name!r} has headline = {self.headline!r}, which its metrics do not return; expected "
                f"one of {', '.join(map(repr, found))}: set headline to one of them"
            )
        return found

    def ranking(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """What an area under the ROC curve is of: [rows, K] how likely each label is, whether it is there, is known.

        None: the task has no labels to rank.
        """
        return None

    def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
        """[N] float64 terms of `sample_metric`: its value over samples is their mean. Segments are averaged."""
        scores = self.scores(logits.unsqueeze(0), target)[0].double()
        weights = self.weights(target)
        if weights is None:
            return mean_over_rest(scores)
        return terms_of_mean(torch.where(weights > 0, scores * weights, 0.0), weights)

    def ensemble(self, logits: Tensor) -> Tensor:
        """What several models predict together, from their logits [E, N, ..., K]: the mean of their predictions, as
        logits [N, ..., K]."""
        return logits.double().mean(0)

    def constant(self, target: Tensor, outputs: int) -> Tensor:
        """[K] the best answer that looks at no input, as logits: the same for every sample of `target` [N, ...].

        Args:
            target: all targets of a split.
            outputs: K.
        """
        return self._fitted_constant(
            torch.zeros(len(target), outputs, device=target.device), target
        )

    def constant_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        """The best answer that looks at no input, for every sample of a split: of the form of `logits` [N, ..., K]."""
        axis = self.output_axis
        if type(self).constant is Task.constant:
            constant = self._fitted_constant(logits, target)
        else:
            constant = self.constant(target, logits.shape[axis])
        return along(constant.to(logits.dtype), logits, axis).expand_as(logits)

    def improves(self, value: float, best: float) -> bool:
        """Whether a headline `value` is better than the `best` so far; NaN stands for none so far."""
        return math.isnan(best) or (value < best if self.lower_is_better else value > best)

    def _fitted_constant(self, logits: Tensor, target: Tensor) -> Tensor:
        """[K] what minimises the loss, one answer for all of the predictions that `logits` are of."""
        answer = torch.zeros(
            logits.shape[self.output_axis], device=logits.device, requires_grad=True
        )
        search = torch.optim.LBFGS([answer], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            value = self.loss(along(answer, logits, self.output_axis).expand(logits.shape), target)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            search.step(loss)  # type: ignore[no-untyped-call]
        return answer.detach()
