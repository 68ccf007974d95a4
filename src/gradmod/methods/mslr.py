"""MSLR, Modality-Specific Learning Rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gradmod.methods.base import Method, Need
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View

RULES = ("keep", "smooth", "dynamic")


class MSLR(Method):
    """Modality-Specific Learning Rates (Yao and Mihalcea, Findings of ACL 2022).

    The parameters of modality m are trained at the common learning rate times a factor:

        keep      the modality's initial factor
        smooth    the initial factor, going to 1 in equal steps over `window` epochs
        dynamic   the initial factor, times the modality's validation accuracy over the mean of its last `window` ones

    These are learning rates and no scaled gradients: they hold under Adam, and weight decay goes with them. So the
    optimizer is made from `model.parameter_groups()`, and `model.set_learning_rate(optimizer, lr)` is called before the
    first step and after every `model.after_epoch(...)`.

    Args:
        modalities: names of the inputs; M >= 2.
        initial: initial factor by modality, > 0; those left out have 1.
        rule: keep, smooth or dynamic.
        window: epochs of `smooth`; validations that `dynamic` takes the mean of, the present one among them.

    Raises:
        ValueError: one modality; a factor that is not above 0 or of no modality; an unknown rule; or factors that are
            all 1 with a rule that leaves them there, which would be joint training.
    """

    needs = frozenset({Need.MODULES, Need.VALIDATION})
    sets_learning_rates = True

    def __init__(
        self,
        modalities: Sequence[str],
        initial: Mapping[str, float] | None = None,
        rule: str = "dynamic",
        window: int = 5,
    ) -> None:
        super().__init__(modalities)
        given = dict(initial or {})
        unknown = [m for m in given if m not in self.modalities]
        if unknown:
            raise ValueError(
                f"initial names {', '.join(map(repr, unknown))}; the modalities are {self.modalities}"
            )
        for modality, factor in given.items():
            if not (math.isfinite(factor) and factor > 0):
                raise ValueError(
                    f"the initial factor of {modality!r} is {factor}; expected a finite number > 0"
                )
        if len(self.modalities) < 2:
            raise ValueError(
                f"MSLR tells modalities apart, but there is one, {self.modalities[0]!r}; train it jointly"
            )
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
        if window < 1 or (rule == "dynamic" and window < 2):
            raise ValueError(
                f"window is {window}; expected a number of epochs from {1 + (rule == 'dynamic')} on"
            )
        self.initial = {m: float(given.get(m, 1.0)) for m in self.modalities}
        if rule != "dynamic" and set(self.initial.values()) == {1.0}:
            raise ValueError(
                f"every initial factor is 1 and the rule {rule!r} leaves them there: this is joint training. Give a "
                "factor for at least one modality, or use the rule 'dynamic'"
            )
        self.rule, self.window = rule, window
        if rule == "keep":
            self.needs = frozenset({Need.MODULES})
        self._past: dict[str, list[float]] = {m: [] for m in self.modalities}
        self._epochs = 0
        self._in_use = False

    def forward(self, view: View, batch: Batch) -> Any:
        """The model's own forward.

        Raises:
            RuntimeError: the optimizer was not given the present factors.
        """
        if not self._in_use:
            raise RuntimeError(
                "MSLR has learning rates that the optimizer does not have yet: make it from model.parameter_groups(), "
                "and call model.set_learning_rate(optimizer, lr) before the first step and after every "
                "model.after_epoch(...)"
            )
        if self.last_step is None:
            factors = self.learning_rate_factors()
            self.last_step = StepRecord(
                torch.tensor([factors[m] for m in self.modalities], dtype=torch.float64)
            )
        return view.output(batch)

    def learning_rate_factors(self) -> dict[str, float]:
        """See `Method.learning_rate_factors`."""
        if self.rule == "keep":
            return dict(self.initial)
        if self.rule == "smooth":
            left = max(0.0, 1 - self._epochs / self.window)
            return {m: 1 + (factor - 1) * left for m, factor in self.initial.items()}
        return {m: factor * _progress(self._past[m]) for m, factor in self.initial.items()}

    def learning_rates_are_set(self) -> None:
        """See `Method.learning_rates_are_set`."""
        self._in_use = True

    def after_epoch(self, epoch: Epoch) -> bool:
        """See `Method.after_epoch`."""
        self._epochs += 1
        for m in self.modalities:
            figures = epoch.validation[m]
            # Where lower is better (an error), what counts is its reciprocal.
            value = (
                1 / max(figures.headline, 1e-12) if figures.lower_is_better else figures.headline
            )
            self._past[m] = [*self._past[m], value][-self.window :]
        self.last_step, self._in_use = None, False
        return False

    def memory(self) -> dict[str, Any]:
        """Epochs, and past validations of each modality."""
        return {"epochs": self._epochs, "past": self._past}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._epochs, self._past = (
            int(memory["epochs"]),
            {m: list(memory["past"][m]) for m in self.modalities},
        )
        self.last_step, self._in_use = None, False


def _progress(values: Sequence[float]) -> float:
    """The last value over the mean of all; 1 where there is nothing to compare."""
    mean = sum(values) / len(values) if values else 0.0
    return values[-1] / mean if mean > 0 and values[-1] > 0 else 1.0
