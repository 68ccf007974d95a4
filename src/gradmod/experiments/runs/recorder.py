"""What a run writes down as it goes: JSON lines as the record, TensorBoard beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradmod.experiments.runs.folder import MetricsLog
from gradmod.methods.record import StepRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Recorder:
    """Writes the events of a run on its first process, and nothing on the others.

    Args:
        folder: the run's folder; None: write nothing.
        modalities: names for the figures of a step.
        keep_bytes: how much of an earlier log is kept.
        first_step: first step that will be recorded; TensorBoard drops what it has from there on.
    """

    def __init__(
        self,
        folder: Path | None,
        modalities: tuple[str, ...],
        keep_bytes: int = 0,
        first_step: int = 0,
    ) -> None:
        self._modalities = modalities
        self._log: MetricsLog | None = None
        self._board: SummaryWriter | None = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._log = MetricsLog(folder, keep_bytes)
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def start(self, **facts: Any) -> None:
        """Record what the run is."""
        if self._log is not None:
            self._log.write("start", modalities=self._modalities, **facts)

    def step(
        self,
        step: int,
        epoch: int,
        loss: float,
        lr: float,
        grad_norm: float,
        record: StepRecord | None,
    ) -> None:
        """Record one step."""
        if self._log is None:
            return
        figures: dict[str, Any] = {}
        if record is not None:
            figures = {**record.by_modality(self._modalities), **record.of_the_step()}
        self._log.write(
            "step", step=step, epoch=epoch, loss=loss, lr=lr, grad_norm=grad_norm, **figures
        )
        self._scalars(step, {"loss": loss, "lr": lr, "grad_norm": grad_norm, **figures}, "step")

    def epoch(
        self,
        epoch: int,
        step: int,
        train_loss: float,
        seconds: float,
        validation: dict[str, Any],
        coefficients: dict[str, dict[str, float]] | None,
        best: bool,
        monitored: dict[str, Any],
        of_method: dict[str, Any] | None = None,
    ) -> None:
        """Record one epoch.

        Args:
            epoch: its number.
            step: steps of the run so far.
            train_loss: mean over the epoch.
            seconds: training time of the run so far.
            validation: figures on the validation split.
            coefficients: their distribution over the steps.
            best: whether it is the best epoch so far.
            monitored: what monitors measured.
            of_method: what the method could not use (see `EpochHistory.unused`), and its own record.
        """
        if self._log is None:
            return
        figures: dict[str, Any] = {"train_loss": train_loss, "validation": validation}
        if coefficients is not None:
            figures["coefficients"] = coefficients
        figures |= of_method or {}
        figures |= monitored
        self._log.write(
            "epoch", epoch=epoch, step=step, seconds=round(seconds, 3), best=best, **figures
        )
        self._scalars(step, figures, "epoch")

    def sync(self) -> int:
        """Flush the log to disk; return its length in bytes."""
        return self._log.sync() if self._log is not None else 0

    def close(self) -> None:
        """Close the files."""
        if self._log is not None and self._board is not None:
            self._log.close()
            self._board.close()

    def _scalars(self, step: int, figures: dict[str, Any], prefix: str) -> None:
        for name, value in figures.items():
            if isinstance(value, dict):
                self._scalars(step, value, f"{prefix}/{name}")
            # Names are in the log alone.
            elif self._board is not None and isinstance(value, (int, float)):
                self._board.add_scalar(f"{prefix}/{name}", value, step)
