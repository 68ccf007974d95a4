"""What a method saw and did in a step, and what it is told of a validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from torch import Tensor


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
