"""What the steps since the last look gave, kept on the device until it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradmod.methods.base import Method
from gradmod.methods.record import StepRecord
from gradmod.methods.surroundings import where_float64_is

_QUANTILES = {"min": 0.0, "p05": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}


@dataclass
class EpochHistory:
    """Losses and coefficients of the steps of one epoch; saved with a checkpoint inside the epoch.

    Attributes:
        losses: scalar loss of each step: this process' share of it, whose mean over all processes is the step's.
        coefficients: [M] coefficients of each step, where the method has any.
        records: the method's record of each step since `unseen_from`.
        unseen_from: first step that was not looked at yet.
        events: [2] steps that the method did not count, and targets of this process without a score; None: neither is
            known.
    """

    losses: list[Tensor] = field(default_factory=list)
    coefficients: list[Tensor] = field(default_factory=list)
    records: list[StepRecord | None] = field(default_factory=list)
    unseen_from: int = 0
    events: Tensor | None = None

    def add(self, loss: Tensor, record: StepRecord | None) -> None:
        """Take in one step; nothing is read from the device."""
        self.losses.append(loss)
        self.records.append(record)
        if record is not None:
            self.coefficients.append(record.coefficients)
            self._count(record)

    def look(self) -> tuple[int, float, StepRecord | None] | None:
        """Read the steps since the last look; return the first with a loss that is not finite: (step, loss, record)."""
        unseen = self.losses[self.unseen_from :]
        found = None
        if unseen:
            losses = torch.stack(unseen)
            bad = (~losses.isfinite()).nonzero()
            if len(bad):
                first = int(bad[0])
                found = (self.unseen_from + first, float(losses[first]), self.records[first])
        self.unseen_from = len(self.losses)
        self.records.clear()
        return found

    def mean_loss(self) -> Tensor:
        """Mean loss of this process' steps so far, a scalar."""
        return where_float64_is(torch.stack(self.losses)).double().mean()

    def coefficient_quantiles(
        self, modalities: tuple[str, ...]
    ) -> dict[str, dict[str, float]] | None:
        """Distribution of each modality's coefficient over the steps so far; None where the method has none."""
        if not self.coefficients:
            return None
        values = _on_the_cpu(self.coefficients).double()
        quantiles = torch.quantile(
            values, torch.tensor(list(_QUANTILES.values()), dtype=values.dtype), dim=0
        )
        return {
            modality: dict(zip(_QUANTILES, column.tolist(), strict=True))
            for modality, column in zip(modalities, quantiles.T, strict=True)
        }

    def unused(self, method: Method) -> dict[str, Any]:
        """What the method could not use in the steps so far, and how often its coefficients were at a bound.

        Returns:
            `steps_not_counted`; `left_out_targets`, of this process; `at_bounds`, by modality a share of the steps.
            Those alone that are above 0.
        """
        found: dict[str, Any] = {}
        if self.events is not None:
            not_counted, left_out = (int(count) for count in self.events.tolist())
            found = {"steps_not_counted": not_counted, "left_out_targets": left_out}
        if self.coefficients:
            share = method.at_bounds(_on_the_cpu(self.coefficients)).double().mean(0).tolist()
            found["at_bounds"] = (
                dict(zip(method.modalities, share, strict=True)) if any(share) else None
            )
        return {name: value for name, value in found.items() if value}

    def _count(self, record: StepRecord) -> None:
        if record.counted is None and record.left_out_targets is None:
            return
        zero = torch.zeros((), device=record.coefficients.device)
        missed = zero if record.counted is None else ~record.counted
        left_out = zero if record.left_out_targets is None else record.left_out_targets
        added = torch.stack([missed.double(), left_out.double()])
        self.events = added if self.events is None else self.events + added

    def state(self, across: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Tensors for a checkpoint; `across` makes of this process' share of the losses those of all."""
        return {
            "losses": across(torch.stack(self.losses)).cpu() if self.losses else torch.empty(0),
            "coefficients": _on_the_cpu(self.coefficients) if self.coefficients else torch.empty(0),
            "events": torch.empty(0) if self.events is None else self.events.cpu(),
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], device: torch.device, steps: int, modalities: int
    ) -> EpochHistory:
        """The history that `state` was made from; all of it was looked at.

        Args:
            state: of `state()`.
            device: where the losses go.
            steps: how many steps it must be of.
            modalities: M.

        Raises:
            ValueError: it is not.
        """
        losses, coefficients, events = (
            state["losses"],
            state["coefficients"],
            state.get("events", torch.empty(0)),
        )
        if events.shape not in ((0,), (2,)):
            raise ValueError(f"events of shape {list(events.shape)}; expected two counts")
        if losses.shape != (steps,) or coefficients.shape not in ((0,), (steps, modalities)):
            raise ValueError(
                f"losses of shape {list(losses.shape)} and coefficients of shape {list(coefficients.shape)}; expected "
                f"those of {steps} steps and {modalities} modalities"
            )
        counted = events.to(device) if len(events) else None
        return cls(list(losses.to(device)), list(coefficients), unseen_from=steps, events=counted)


def _on_the_cpu(tensors: list[Tensor]) -> Tensor:
    """Tensors, stacked. Those of a checkpoint are on the CPU, those of later steps where the method reckons."""
    one_device = len({tensor.device for tensor in tensors}) == 1
    return torch.stack(tensors if one_device else [tensor.cpu() for tensor in tensors]).cpu()
