"""AGM, Adaptive Gradient Modulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod import functional
from gradmod.coalitions.protocols import Output, split_output
from gradmod.coalitions.strategy import Strategy
from gradmod.methods.base import StepRecord, mean_over_processes
from gradmod.methods.window import Window, WindowedMethod
from gradmod.tasks import Task

DEFAULT_CAP = 2.0
"""See docs/methods/agm.md for the measurements behind it."""

MAX_EXPONENT = 88.0
"""alpha x cap stays below the logarithm of the largest float32."""


class AGM(WindowedMethod):
    """Adaptive Gradient Modulation (Li et al., ICCV 2023, arXiv 2308.07686).

    Each step splits the logits into one mono-modal response phi^m per modality (Shapley values over coalitions), scores
    each against the target, and multiplies the gradient through phi^m by

        kappa^m = exp(alpha * min(tau^m - r^m, cap))

    where r^m says how far the modality is ahead in this step and tau^m how far it has been ahead on average so far.

    Args:
        modalities: names of the inputs; M >= 1. With one modality, AGM is joint training.
        alpha: strength, >= 0; 0 is joint training.
        cap: upper limit on tau^m - r^m; None: no limit, as published for AV-MNIST, AVE and MOSEI.
        epochs: (first, last) epoch that is modulated, both included, counted from 1; `last` may be None. Outside it the
            coefficients are 1 and only the statistics are kept. None: always. With a window, call `set_epoch`.

    Attributes:
        mean_score: [M] float64 buffer, cumulative mean of the scores over all steps so far.
        steps: [1] float64 buffer, their number. A step whose scores are not finite is not counted.

    Raises:
        ValueError: negative or infinite alpha, a cap that is not a positive number, alpha * cap >= 88, an empty window.
    """

    mean_score: Tensor
    steps: Tensor
    needs_coalitions = True

    def __init__(
        self,
        modalities: Sequence[str],
        alpha: float = 1.0,
        cap: float | None = DEFAULT_CAP,
        epochs: Window | None = None,
    ) -> None:
        super().__init__(modalities, epochs)
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha is {alpha}; expected a finite number >= 0 (0 is joint training)")
        if cap is not None and not (math.isfinite(cap) and cap > 0):
            raise ValueError(f"cap is {cap}; expected a finite number > 0, or None for no cap")
        if cap is not None and alpha * cap >= MAX_EXPONENT:
            raise ValueError(
                f"alpha * cap is {alpha * cap:g} (alpha {alpha:g}, cap {cap:g}); expected less than {MAX_EXPONENT:g}, "
                "where exp leaves the range of float32: lower one of them"
            )
        self.alpha, self.cap = float(alpha), cap
        self.register_buffer("mean_score", torch.zeros(len(self.modalities), dtype=torch.float64))
        # One element and not a scalar: torch.compile was seen to take a scalar CPU buffer for a constant.
        self.register_buffer("steps", torch.zeros(1, dtype=torch.float64))

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"modalities={self.modalities}, alpha={self.alpha:g}, cap={self.cap}, epochs={self.epochs}"

    def forward(
        self, model: nn.Module, strategy: Strategy, inputs: Mapping[str, Any], target: Tensor, task: Task
    ) -> Tensor | Output:
        """Logits v(all), whose gradient through each mono-modal response is multiplied by its coefficient."""
        modulates = self.is_active() and self.alpha > 0
        evaluation = strategy.evaluate(model, inputs, self.modalities, masked_gradient=modulates)
        logits, extra_loss = split_output(evaluation.output)
        task.check(logits, target)
        coefficients = self._observe(evaluation.responses.detach(), target, task, modulates)
        if not modulates:
            return evaluation.output
        modulated = functional.modulate(logits, evaluation.responses, coefficients)
        return modulated if extra_loss is None else Output(modulated, extra_loss)

    @torch.no_grad()
    def _observe(self, responses: Tensor, target: Tensor, task: Task, modulates: bool) -> Tensor:
        """Score the responses, update the statistics, record the step; return the coefficients [M]."""
        scores = mean_over_processes(task.scores(responses, target).flatten(1))
        ratios = functional.discrepancy_ratio(scores)
        running_ratios = functional.discrepancy_ratio(self.mean_score)
        if modulates:
            coefficients = functional.modulation_coefficients(ratios, running_ratios, self.alpha, self.cap)
        else:
            coefficients = torch.ones_like(scores)
        finite = scores.isfinite().all()
        updated = functional.cumulative_mean(self.mean_score, self.steps, scores)
        self.mean_score.copy_(torch.where(finite, updated, self.mean_score))
        self.steps.add_(finite)
        self.last_step = StepRecord(coefficients, scores, ratios, running_ratios, task.headlines(responses, target))
        return coefficients
