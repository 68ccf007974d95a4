"""AGM, Adaptive Gradient Modulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod import functional
from gradmod.methods.base import Need
from gradmod.methods.centre import TargetCentre
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import StepRecord
from gradmod.methods.scores import scores_of, sums_and_counts
from gradmod.methods.surroundings import ForwardsMadeAgain, in_backward
from gradmod.methods.view import Batch, View
from gradmod.methods.watch import StepWatch
from gradmod.methods.window import Window, WindowedMethod
from gradmod.tasks import Task

DEFAULT_CAP = 2.0
"""See docs/methods/agm.md for the measurements behind it."""

MAX_EXPONENT = 88.0
"""alpha x cap stays below the logarithm of the largest float32."""

SMALLEST_COEFFICIENT = 1e-3
"""Below it a modality is said to have no gradient left."""


class AGM(WindowedMethod):
    """Adaptive Gradient Modulation (Li et al., ICCV 2023, arXiv 2308.07686).

    Each step splits the logits into one mono-modal response phi^m per modality (Shapley values over coalitions), scores
    each against the target, and multiplies the gradient through phi^m by

        kappa^m = exp(alpha * min(tau^m - r^m, cap))

    where r^m says how far the modality is ahead in this step and tau^m how far it has been ahead on average so far.

    Where samples lack a modality, a score is the mean over the samples that have it, and a ratio compares the
    modalities that have a score: r^m those of this batch, tau^m those that had one in an earlier step.

    Where the targets are numbers, phi^m is scored around the mean of the targets seen so far, and scores are compared
    in the unit of what that mean scores: see `Regression`.

    A warning tells, once each, of steps that are not counted and of coefficients that stay at their bounds.

    Args:
        modalities: names of the inputs; M >= 1. With one modality, AGM is joint training.
        alpha: strength, >= 0; 0 is joint training.
        cap: upper limit on tau^m - r^m; None: no limit, as published for AV-MNIST, AVE and MOSEI.
        epochs: (first, last) epoch that is modulated, both included, counted from 1; `last` may be None. Outside it the
            coefficients are 1 and only the statistics are kept. None: always. With a window, call `model.before_epoch`.

    Attributes:
        mean_score: [M] float64 buffer, cumulative mean of the scores over all steps so far.
        steps: [M] float64 buffer, their number. A step whose scores are not finite is not counted, nor modulated; one
            without a sample that has the modality and a target does not count for it.
        centre: mean and spread of the targets so far, where they are numbers.

    Raises:
        ValueError: negative or infinite alpha, a cap that is not a positive number, alpha * cap >= 88, an empty window.
    """

    mean_score: Tensor
    steps: Tensor
    needs = frozenset({Need.COALITIONS})
    averages_scores = True

    def __init__(
        self,
        modalities: Sequence[str],
        alpha: float = 1.0,
        cap: float | None = DEFAULT_CAP,
        epochs: Window | None = None,
    ) -> None:
        super().__init__(modalities, epochs)
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(
                f"alpha is {alpha}; expected a finite number >= 0 (0 is joint training)"
            )
        if cap is not None and not (math.isfinite(cap) and cap > 0):
            raise ValueError(f"cap is {cap}; expected a finite number > 0, or None for no cap")
        if cap is not None and alpha * cap >= MAX_EXPONENT:
            raise ValueError(
                f"alpha * cap is {alpha * cap:g} (alpha {alpha:g}, cap {cap:g}); expected less than {MAX_EXPONENT:g}, "
                "where exp leaves the range of float32: lower one of them"
            )
        self.alpha, self.cap = float(alpha), cap
        self.register_buffer("mean_score", torch.zeros(len(self.modalities), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(len(self.modalities), dtype=torch.float64))
        self._of_forward = ForwardsMadeAgain()
        self.centre = TargetCentre()
        self.watch = StepWatch(type(self).__name__, self.modalities)
        self._has_gaps = False  # whether some sample so far may have lacked a modality

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"modalities={self.modalities}, alpha={self.alpha:g}, cap={self.cap}, epochs={self.epochs}"

    def forward(self, view: View, batch: Batch) -> Any:
        """Logits v(all), whose gradient through each mono-modal response is multiplied by its coefficient."""
        modulates = self.is_active() and self.alpha > 0
        evaluation = view.coalitions(batch, masked_gradient=modulates)
        view.task.check(evaluation.logits, batch.target)
        coefficients = self._observe(evaluation.responses.detach(), batch, view.task, modulates)
        if not modulates:
            return evaluation.output
        return evaluation.with_logits(
            functional.modulate(evaluation.logits, evaluation.responses, coefficients)
        )

    @torch.no_grad()
    def _observe(self, responses: Tensor, batch: Batch, task: Task, modulates: bool) -> Tensor:
        """Score the responses, update the statistics, record the step; return the coefficients [M].

        A forward that activation checkpointing does again in the backward gets the coefficients of the first time.
        """
        target, present = batch.target, batch.present
        again = self._of_forward.recall(target) if in_backward() else None
        if again is not None:
            return again
        self.centre.observe(target, task, self.sum_over_processes)
        predictions = self.centre.own_predictions(responses, task, present)
        totals = sums_and_counts(
            scores_of(task, predictions, target), present, task.weights(target)
        )
        sums, counts = self.sum_over_processes(totals)
        scores, has_score = sums / counts, counts > 0
        finite = (scores.isfinite() | ~has_score).all()
        counted = has_score & finite
        self._has_gaps = self._has_gaps or present is not None
        scored = None if present is None else has_score
        compared, mean_compared = self._in_unit(scores, task), self._in_unit(self.mean_score, task)
        ratios = functional.discrepancy_ratio(compared, scored)
        running_ratios = functional.discrepancy_ratio(
            mean_compared, self.steps > 0 if self._has_gaps else None
        )
        coefficients = torch.ones_like(scores)
        if modulates:
            modulated = functional.modulation_coefficients(
                ratios, running_ratios, self.alpha, self.cap
            )
            coefficients = torch.where(counted, modulated, coefficients)
        updated = functional.cumulative_mean(self.mean_score, self.steps, scores)
        self.mean_score.copy_(torch.where(counted, updated, self.mean_score))
        self.steps.add_(counted)
        self._of_forward.keep(target, coefficients)
        self.watch.add(finite, has_score.any(), self.at_bounds(coefficients))
        headlines = self.headlines(task, predictions, target, present)
        left_out = task.left_out(target)
        self.last_step = StepRecord(
            coefficients, scores, ratios, running_ratios, headlines, counted.any(), left_out
        )
        return coefficients

    def at_bounds(self, coefficients: Tensor) -> Tensor:
        """See `Method.at_bounds`: at the cap, not finite, or below 1e-3."""
        if self.alpha == 0 or len(self.modalities) == 1:
            return torch.zeros_like(coefficients, dtype=torch.bool)
        largest = math.inf if self.cap is None else math.exp(self.alpha * self.cap) * (1 - 1e-6)
        return (
            (coefficients >= largest)
            | (coefficients < SMALLEST_COEFFICIENT)
            | ~coefficients.isfinite()
        )

    def look(self) -> None:
        """See `Method.look`."""
        self.watch.look()

    def before_epoch(self, epoch: Epoch) -> bool:
        """See `Method.before_epoch`: warns of what went wrong in the last one."""
        self.look()
        return False

    def _in_unit(self, scores: Tensor, task: Task) -> Tensor:
        unit = self.centre.unit(task)
        return scores if unit is None else scores / unit

    def begin_without_gradient(self, target: Tensor) -> None:
        """See `Method.begin_without_gradient`: the step, if one comes, is the forward in the backward."""
        self._of_forward.forget(target)

    def memory(self) -> dict[str, Any]:
        """Whether some sample so far may have lacked a modality."""
        return {"has_gaps": self._has_gaps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._has_gaps = bool(memory["has_gaps"])
