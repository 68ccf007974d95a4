"""`gradmod train` and `gradmod resume`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gradmod.experiments.cli.examples import examples
from gradmod.experiments.cli.named_runs import positional, told

if TYPE_CHECKING:
    from gradmod.experiments.training.run import RunSummary


def train(words: Sequence[str]) -> None:
    """Train a new run; `--help METHOD` shows one method."""
    from gradmod.experiments.settings.arguments import method_help, parse_config
    from gradmod.experiments.settings.warnings import setting_warnings

    if len(words) == 2 and words[0] in ("-h", "--help"):
        print(method_help(words[1]), end="")
        return
    config = parse_config(words, "gradmod train", examples("train"))
    for warning in setting_warnings(config):
        print(f"gradmod: note: {warning}", file=sys.stderr)
    from gradmod.experiments.training.run import train as train_run

    show(train_run(config))


def resume(
    run: Annotated[Path | None, positional()] = None,
    checkpoint: str = "last",
    epochs: int | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> None:
    """Go on with a run where its last checkpoint was written.

    Args:
        run: The run's folder; none: the newest below runs/, finished or not.
        checkpoint: last, previous, best, or the path of a checkpoint.
        epochs: Train to this epoch, in place of the run's own.
        devices: Processes on this machine, in place of the run's own number.
        nodes: Machines, in place of the run's own number.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        model: Its network again, where it is code of your own.
        method: Its method again, where it is code of your own.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.runs.records import newest_started
    from gradmod.experiments.training.run import resume as resume_run

    changed = {"epochs": epochs, "devices": devices, "nodes": nodes}
    folder = run or told(newest_started(Path("runs")))
    show(
        resume_run(
            folder,
            checkpoint=checkpoint,
            dataset=dataset,
            model=model,
            method=method,
            root=root,
            **changed,
        )
    )


def show(summary: RunSummary | None) -> None:
    """Print a finished run; None on processes other than the first."""
    if summary is not None:
        from gradmod.experiments.reporting.tables import show_run

        show_run(summary.folder, summary.result)
