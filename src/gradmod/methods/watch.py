"""What goes wrong in single steps, counted on the device and told once, without a step that waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.draws import process_number

MANY_STEPS = 100
"""Steps over which coefficients are looked at together."""

_FIRST_LOOK = 8
_OF_STEPS = 3  # steps, those that are not finite, those without any score; then at bounds: any modality, each


class StepWatch(nn.Module):
    """Counts steps that a method could not use, and steps with a coefficient at its bounds; warns once of each.

    It looks after 8, 16, 32, ... and then every 128 steps. On a GPU the counts are on their way to the host while
    training goes on, and are read at a later step: no step waits. In a compiled step nothing is read; there `look` is
    called at the start of an epoch, and by the trainer where it reads its figures.

    Args:
        name: of the method, for the warnings.
        modalities: their names.

    Attributes:
        counts: [4 + M] int64 where the scores are, neither saved nor a buffer; None before the first step. Steps, those
            with scores that are not finite, those without any target that has a score; since the coefficients were
            last looked at, steps with any at a bound, and by modality.
    """

    def __init__(self, name: str, modalities: Sequence[str]) -> None:
        super().__init__()
        self.name, self.modalities = name, tuple(modalities)
        self.counts: Tensor | None = None
        self._steps = 0
        self._window_from = 0
        self._told: set[str] = set()
        self._on_its_way: tuple[Tensor, Any] | None = None

    def add(self, finite: Tensor, scored: Tensor, at_bounds: Tensor) -> None:
        """Count a step; nothing is waited for.

        Args:
            finite: scalar bool, whether all of its scores are.
            scored: scalar bool, whether any target of it has a score.
            at_bounds: [M] bool, whose coefficient is at a bound.
        """
        flags = torch.stack([torch.ones_like(finite), ~finite, ~scored])
        added = torch.cat([flags, at_bounds.any().unsqueeze(0), at_bounds]).long()
        if self.counts is None:
            self.counts = added
        else:
            self.counts = self.counts.to(added.device) + added
        if torch.compiler.is_compiling():
            return
        self._steps += 1
        self._read_what_arrived()
        steps = self._steps
        if steps % 128 == 0 or (steps >= _FIRST_LOOK and steps < 128 and steps & (steps - 1) == 0):
            self._send()

    def look(self) -> None:
        """Read the counts now, waiting for the device, and warn."""
        self._on_its_way = None
        if self.counts is not None:
            self._tell(self.counts.tolist())

    def _send(self) -> None:
        if self.counts is None:
            return
        if self.counts.device.type != "cuda":
            self._tell(self.counts.tolist())
            return
        host = torch.empty(self.counts.shape, dtype=self.counts.dtype, pin_memory=True)
        host.copy_(self.counts, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        self._on_its_way = host, arrived

    def _read_what_arrived(self) -> None:
        if self._on_its_way is not None and self._on_its_way[1].query():
            host, self._on_its_way = self._on_its_way[0], None
            self._tell(host.tolist())

    def _tell(self, counts: list[int]) -> None:
        steps, not_finite, nothing_scored = counts[:_OF_STEPS]
        if not_finite:
            self._warn(
                "not finite",
                f"{self.name} could not use {not_finite} of the {steps} steps so far: the score of a modality was NaN "
                "or infinite, and such a step is neither modulated nor counted. Look for inputs, logits or targets "
                "that are not finite; targets that have no value are said in the task: NaN for numbers and labels, "
                "MultiLabel(missing=...), Classification(ignore_index=...)",
            )
        if nothing_scored and nothing_scored == steps and steps >= _FIRST_LOOK:
            self._warn(
                "nothing scored",
                f"{self.name} could use none of the {steps} steps so far: no target in them has a score, so training "
                "is joint. Look at the targets, and at what the task takes for a missing one",
            )
        window = steps - self._window_from
        if window < MANY_STEPS:
            return
        any_at_bounds, *by_modality = counts[_OF_STEPS:]
        if 2 * any_at_bounds > window:
            of_each = ", ".join(
                f"{m!r} {n}" for m, n in zip(self.modalities, by_modality, strict=True)
            )
            self._warn(
                "bounds",
                f"{self.name} has coefficients at their bounds (the cap, or below 1e-3, which leaves no gradient) in "
                f"{any_at_bounds} of the last {window} steps ({of_each}). The modulation then does no more "
                "than switch modalities on and off: lower alpha (or the cap), or look at the scores in "
                "model.last_step",
            )
        self._window_from = steps
        if self.counts is not None:
            self.counts[_OF_STEPS:].zero_()

    def _warn(self, kind: str, words: str) -> None:
        if kind in self._told or process_number() > 0:
            return
        self._told.add(kind)
        warnings.warn(words, RuntimeWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_on_its_way": None}
