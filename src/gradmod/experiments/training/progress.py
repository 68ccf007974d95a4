"""The live progress of a run on the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunProgress:
    """A bar over all steps, with the last epoch's figures beside it; silent on processes other than the first.

    Args:
        epochs: of the whole run.
        steps: in an epoch.
        done: steps already done, where a run goes on.
        enabled: False: shows nothing.
    """

    def __init__(self, epochs: int, steps: int, done: int, enabled: bool) -> None:
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._progress.add_task(
            "training", total=epochs * steps, completed=done, figures=""
        )

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, epoch: int) -> None:
        """One step was done."""
        self._progress.update(self._task, advance=1, description=f"epoch {epoch}/{self._epochs}")

    def epoch(self, validation: dict[str, Any], headline: str) -> None:
        """An epoch was evaluated: show the headline metric of the model and of each modality's response."""
        figures = {"model": validation, **validation["responses"]}
        text = "  ".join(f"{name} {block[headline]:.3f}" for name, block in figures.items())
        self._progress.update(self._task, figures=text)
