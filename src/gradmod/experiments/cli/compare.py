"""`gradmod compare`: methods x fusions x seeds, one table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from gradmod.experiments.comparison.run import Follower, run_comparison
from gradmod.experiments.comparison.scheduling import FAILED, FINISHED, State
from gradmod.experiments.errors import FailedRunsError
from gradmod.experiments.reporting.formats import terminal
from gradmod.experiments.reporting.states import RunState, progress_table
from gradmod.experiments.reporting.tables import show_table, terminal_width
from gradmod.experiments.settings.arguments import parse_settings
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.warnings import setting_warnings


def run(words: Sequence[str], more_help: str = "") -> None:
    """Run `gradmod compare WORDS`.

    Args:
        words: the flags.
        more_help: what --help says last.

    Raises:
        GradmodError: what was wrong; after the table, if single runs failed.
    """
    comparison = parse_settings(words, "gradmod compare", Comparison(), more_help)
    for warning in setting_warnings(comparison):
        print(f"gradmod: note: {warning}", file=sys.stderr)
    with _followed() as follow:
        result = run_comparison(comparison, follow)
    if result.table is not None:
        show_table(
            terminal(result.table, f"comparison on {comparison.data.dataset}", terminal_width())
        )
        for note in result.table.notes:
            print(note)
        print(f"{result.folder}: table.md, table.tex, table.csv, curves.svg, methods.svg, runs/")
    if result.failed:
        reasons = "; ".join(f"{state.run.name}: {state.reason}" for state in result.failed[:3])
        raise FailedRunsError(
            f"{len(result.failed)} of {result.count} runs failed ({reasons}); logs in {result.folder / 'runs'}. The "
            "same command runs them again"
        )


@contextmanager
def _followed() -> Iterator[Follower]:
    """Show how far the runs are: a live table on a terminal, elsewhere a line for each that ended."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda title, states: live.update(progress_table(title, map(_state, states)))
        return
    told: dict[str, set[str]] = {}

    def tell(title: str, states: Sequence[State]) -> None:
        seen = told.setdefault(title, set())
        for state in states:
            if state.status not in (FINISHED, FAILED) or state.run.name in seen:
                continue
            seen.add(state.run.name)
            if state.job is not None:  # others were finished before this command
                reason = f": {state.reason}" if state.reason else ""
                print(
                    f"{title} {len(seen)}/{len(states)}: {state.run.name} {state.status}{reason}",
                    file=sys.stderr,
                )

    yield tell


def _state(state: State) -> RunState:
    return RunState(state.run.name, state.status, state.folder, state.started, state.reason)
