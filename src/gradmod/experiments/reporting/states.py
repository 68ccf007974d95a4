"""How far several runs are, as a table that is drawn again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from gradmod.experiments.reporting.tables import new_table
from gradmod.experiments.runs.names import METRICS

TAIL_BYTES = 16_384


@dataclass(frozen=True)
class RunState:
    """A run: its name, waiting, running, finished or failed, its folder, when it was started, why it failed."""

    name: str
    status: str
    folder: Path
    started: float
    reason: str


def progress_table(title: str, states: Iterable[RunState], most: int = 20) -> Table:
    """Counts, and the runs that go on or failed; at most `most` of them."""
    listed = list(states)
    counts = {status: sum(state.status == status for state in listed) for status in _STYLES}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    table = new_table(f"{title}: {summary}")
    for column in ("run", "status", "epoch", "validation", "seconds"):
        table.add_column(
            column, justify="left" if column in ("run", "status") else "right", no_wrap=True
        )
    shown = [state for state in listed if state.status in ("running", "failed")][:most]
    for state in shown:
        epoch, value = (
            last_epoch(state.folder / METRICS) if state.status == "running" else ("", state.reason)
        )
        seconds = f"{time.monotonic() - state.started:.0f}" if state.status == "running" else ""
        style = _STYLES[state.status]
        table.add_row(state.name, f"[{style}]{state.status}", epoch, escape(value), seconds)
    return table


def last_epoch(path: Path) -> tuple[str, str]:
    """Number and validation headline of the last epoch that a run wrote down; empty before the first."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return "", ""
    for line in reversed(lines):
        try:
            record = json.loads(line)
            if record["kind"] == "epoch":
                metric, value = next(iter(record["validation"].items()))
                return str(record["epoch"]), f"{metric} {value:.3f}"
        except (ValueError, RecursionError, KeyError, TypeError):
            continue  # the first line may be cut, the last one unfinished
    return "", ""


_STYLES = {"finished": "green", "running": "cyan", "waiting": "dim", "failed": "red"}
