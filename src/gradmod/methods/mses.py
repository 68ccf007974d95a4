"""MSES, Modality-Specific Early Stopping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.methods.base import Need
from gradmod.methods.changes_gradients import ChangesGradients
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View


class MSES(ChangesGradients):
    """Modality-Specific Early Stopping (Fujimori et al., ACPR 2019).

    At the end of every epoch the validation loss of each modality's own prediction is smoothed,

        smoothed = smoothing * smoothed + (1 - smoothing) * loss

    and a modality whose smoothed loss has not fallen for `patience` epochs is stopped: its parameters and buffers go
    back to where it was lowest, and stay exactly there (no gradient, so no momentum and no weight decay either; batch
    norm in eval mode). What belongs to no modality goes on. When all have stopped, training ends.

    Call `model.after_backward()` before every optimizer step and `model.after_epoch(...)` after every epoch.

    Args:
        modalities: names of the inputs; M >= 2.
        patience: epochs, one number for all or one for each modality.
        smoothing: weight of the past, 0 <= smoothing < 1.

    Raises:
        ValueError: one modality, a patience below 1 or of no modality, a smoothing out of range.
    """

    needs = frozenset({Need.MODULES, Need.VALIDATION})

    def __init__(
        self,
        modalities: Sequence[str],
        patience: int | Mapping[str, int] = 10,
        smoothing: float = 0.6,
    ) -> None:
        super().__init__(modalities)
        if len(self.modalities) < 2:
            raise ValueError(
                f"MSES stops modalities one by one, but there is one, {self.modalities[0]!r}"
            )
        self.patience = (
            dict.fromkeys(self.modalities, patience)
            if isinstance(patience, int)
            else dict(patience)
        )
        if set(self.patience) != set(self.modalities) or min(self.patience.values()) < 1:
            raise ValueError(
                f"patience is {patience}; expected a number from 1 on, or one for each of {self.modalities}"
            )
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}; expected a number from 0 on and below 1")
        self.smoothing = float(smoothing)
        self._smoothed: dict[str, float] = {}
        self._lowest: dict[str, float] = {}
        self._waited = dict.fromkeys(self.modalities, 0)
        self._stopped: list[str] = []

    @property
    def stopped(self) -> tuple[str, ...]:
        """Modalities that were stopped, in the order in which they were."""
        return tuple(self._stopped)

    @property
    def has_finished(self) -> bool:
        """Whether all have stopped."""
        return len(self._stopped) == len(self.modalities)

    def forward(self, view: View, batch: Batch) -> Any:
        """The model's own forward, the stopped modalities' modules in eval mode."""
        for modality in self._stopped:
            for module in self._modules_of[modality]:
                module.eval()
        if self.last_step is None:
            goes_on = [float(m not in self._stopped) for m in self.modalities]
            self.last_step = StepRecord(torch.tensor(goes_on, dtype=torch.float64))
        output = view.output(batch)
        self._expect_backward(view.logits_of(output))
        return output

    def change_gradients(self) -> None:
        """Take the stopped modalities' gradients away: an optimizer leaves a parameter without gradient alone."""
        for modality in self._stopped:
            for parameter in self.parameters_of(modality):
                parameter.grad = None

    @torch.no_grad()
    def after_epoch(self, epoch: Epoch) -> bool:
        """See `Method.after_epoch`."""
        stopped_before = len(self._stopped)
        for m in self.modalities:
            if m in self._stopped:
                continue
            loss = epoch.validation[m].score
            past = self._smoothed.get(m, loss)
            self._smoothed[m] = self.smoothing * past + (1 - self.smoothing) * loss
            if m not in self._lowest or self._smoothed[m] < self._lowest[m]:
                self._lowest[m], self._waited[m] = self._smoothed[m], 0
                for name, tensor in self._tensors(m):
                    self.store[name] = tensor.detach().clone()
                continue
            self._waited[m] += 1
            if self._waited[m] >= self.patience[m]:
                self._stopped.append(m)
                for name, tensor in self._tensors(m):
                    tensor.copy_(self.store.pop(name))
        self.last_step = None
        return len(self._stopped) > stopped_before

    def epoch_record(self) -> dict[str, Any]:
        """See `Method.epoch_record`: who was stopped so far."""
        return {"stopped": list(self._stopped)} if self._stopped else {}

    def memory(self) -> dict[str, Any]:
        """Losses and waiting of each modality, and who was stopped."""
        return {
            "smoothed": self._smoothed,
            "lowest": self._lowest,
            "waited": self._waited,
            "stopped": self._stopped,
        }

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._smoothed, self._lowest = dict(memory["smoothed"]), dict(memory["lowest"])
        self._waited, self._stopped = dict(memory["waited"]), list(memory["stopped"])
        self.last_step = None

    def _tensors(self, modality: str) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers of a modality, and what their best values are called in the store."""
        modules = self._modules_of[modality]
        every = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        return ((f"best.{modality}.{number}", tensor) for number, tensor in enumerate(every))
