"""How far a run has come: in training, in a checkpoint, and from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.training.history import EpochHistory


@dataclass
class Position:
    """Where training is.

    Attributes:
        epoch: the one being trained, counted from 1.
        step_in_epoch: steps of it that are done.
        step: steps done in all.
        best_epoch: the epoch with the best validation so far; 0 before the first.
        best_value: its value of the task's headline metric.
        seconds: training time so far, evaluation and writing left out.
        history: losses and coefficients of this epoch so far.
    """

    epoch: int = 1
    step_in_epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_value: float = float("nan")
    seconds: float = 0.0
    history: EpochHistory = field(default_factory=EpochHistory)

    def state(self, across: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """For a checkpoint; `across` as in `EpochHistory.state`."""
        return {**vars(self), "history": self.history.state(across)}


def position_of(state: dict[str, Any], device: torch.device, modalities: int) -> Position:
    """Where a checkpoint was made.

    Args:
        state: the checkpoint.
        device: for the tensors of the history.
        modalities: M.

    Raises:
        ValueError: its history is not of so many steps and modalities.
    """
    found = Position(**{one.name: state[one.name] for one in fields(Position)})
    found.history = EpochHistory.from_state(
        state["history"], device, found.step_in_epoch, modalities
    )
    return found


def refuse_fewer_epochs(state: dict[str, Any], epochs: int) -> None:
    """A run cannot be trained to an epoch that lies behind it.

    Raises:
        ConfigError: the checkpoint is of a later epoch than `epochs`.
    """
    begun = state["epoch"] if state["step_in_epoch"] else state["epoch"] - 1
    if begun > epochs:
        raise ConfigError(
            f"train.epochs is {epochs}, but the checkpoint is of epoch {begun}, and nothing is trained back; say "
            f"--epochs {begun} or more, or name an earlier checkpoint"
        )
