"""The command line of `gradmod compare`: methods x fusions x seeds, one table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live

from gradmod.experiments.comparison.claims import SETTINGS, refuse_foreign_comparison
from gradmod.experiments.comparison.launchers import Launcher, LocalLauncher, SubmititLauncher
from gradmod.experiments.comparison.plan import PlannedRun, planned_runs, trials
from gradmod.experiments.comparison.scheduling import FAILED, FINISHED, State, run_all
from gradmod.experiments.datasets.registry import dataset_info
from gradmod.experiments.errors import ConfigError, FailedRunsError, TrainingError, damage_in
from gradmod.experiments.files import write_json, write_text
from gradmod.experiments.reporting.comparison import ComparisonTable, RunRecord, compare
from gradmod.experiments.reporting.formats import as_csv, latex, markdown, terminal
from gradmod.experiments.reporting.plots.comparison import plot_comparison
from gradmod.experiments.reporting.states import RunState, progress_table
from gradmod.experiments.reporting.tables import show_table, terminal_width
from gradmod.experiments.runs.records import read_result
from gradmod.experiments.settings.arguments import parse_settings
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.toml import save_config
from gradmod.experiments.settings.warnings import setting_warnings
from gradmod.tasks import task_of_record

Chosen = dict[tuple[str, str], dict[str, Any]]


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
    compare_settings = comparison.compare
    folder = Path(comparison.train.out) / (comparison.train.name or f"compare-{comparison.data.short_name}")
    modalities = _modalities(comparison)
    launcher: Launcher
    if compare_settings.launcher == "local":
        launcher = LocalLauncher(compare_settings.jobs, comparison.train.device)
    else:
        options = dict(option.split("=", 1) for option in compare_settings.launcher_options)
        launcher = SubmititLauncher(folder / "submitit", options)
    refuse_foreign_comparison(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(comparison, folder / SETTINGS)
    chosen = choose(comparison, folder, launcher)
    runs = planned_runs(comparison, modalities, chosen)
    states = _run(runs, folder / "runs", launcher, compare_settings.jobs, "runs")
    finished = [_record(state) for state in states if state.status == FINISHED]
    failed = [state for state in states if state.status == FAILED]
    if finished:
        with damage_in(folder / "runs"):
            table = compare(finished)
            plot_comparison(finished, table, folder)
        _write(table, finished, folder, chosen, failed, comparison)
    if failed:
        reasons = "; ".join(f"{state.run.name}: {state.reason}" for state in failed[:3])
        raise FailedRunsError(
            f"{len(failed)} of {len(states)} runs failed ({reasons}); logs in {folder / 'runs'}. The same command "
            "runs them again"
        )


def choose(comparison: Comparison, folder: Path, launcher: Launcher) -> Chosen:
    """Choose each method's settings on the validation split; the test split is not scored.

    Raises:
        TrainingError: every trial of a method failed.
    """
    planned = trials(comparison)
    if not planned:
        return {}
    runs = [run for candidates in planned.values() for _, members in candidates for run in members]
    states = {
        state.run.name: state
        for state in _run(runs, folder / "trials", launcher, comparison.compare.jobs, "choosing on validation")
    }
    chosen: Chosen = {}
    written = []
    for (method, fusion), candidates in planned.items():
        best, best_value = None, float("nan")
        for candidate, members in candidates:
            if any(states[run.name].status != FINISHED for run in members):
                written.append({"method": method, "fusion": fusion, **candidate, "validation": None})
                continue
            results = [read_result(states[run.name].folder) for run in members]
            with damage_in(folder / "trials"):
                task = task_of_record(results[0])
                values = [float(result["splits"]["validation"][task.headline]) for result in results]
            value = round(fmean(values), 12)  # as many right answers are a tie, however the seeds share them
            by_seed = {str(run.seed): value for run, value in zip(members, values, strict=True)}
            written.append({"method": method, "fusion": fusion, **candidate, "validation": value, "by_seed": by_seed})
            if task.improves(value, best_value):
                best, best_value = candidate, value
        if best is None:
            reason = states[candidates[0][1][0].name].reason
            raise TrainingError(f"every trial of {method} with {fusion} fusion failed, the first one: {reason}")
        chosen[method, fusion] = best
    write_json(folder / "trials.json", written)
    return chosen


def _run(runs: Sequence[PlannedRun], out: Path, launcher: Launcher, jobs: int, title: str) -> list[State]:
    """Run them, with a live table on a terminal and a line for each that ended elsewhere."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            return run_all(
                runs, out, launcher, jobs, lambda states: live.update(progress_table(title, map(_state, states)))
            )
    told: set[str] = set()

    def tell(states: Sequence[State]) -> None:
        for state in states:
            ended = state.status in (FINISHED, FAILED) and state.run.name not in told
            if not ended:
                continue
            told.add(state.run.name)
            if state.job is not None:  # others were finished before this command
                reason = f": {state.reason}" if state.reason else ""
                print(f"{title} {len(told)}/{len(states)}: {state.run.name} {state.status}{reason}", file=sys.stderr)

    return run_all(runs, out, launcher, jobs, tell)


def _write(
    table: ComparisonTable,
    finished: Sequence[RunRecord],
    folder: Path,
    chosen: Chosen,
    failed: Sequence[State],
    comparison: Comparison,
) -> None:
    seeds = comparison.compare.tune_seed_numbers
    for fusion in dict.fromkeys(fusion for _, fusion in chosen):
        of_methods = (
            f"{method} {', '.join(f'{name} {value}' for name, value in settings.items())}"
            for (method, other), settings in chosen.items()
            if other == fusion
        )
        table.notes.append(
            f"chosen on the validation split (mean of seeds {', '.join(map(str, seeds))}), {fusion} fusion: "
            f"{'; '.join(of_methods)}"
        )
    if failed:
        table.notes.append(f"left out, because they failed: {', '.join(state.run.name for state in failed)}")
    records = [{**asdict(record), "folder": str(record.folder.relative_to(folder))} for record in finished]
    write_json(folder / "comparison.json", records)
    for name, text in (("table.md", markdown(table)), ("table.tex", latex(table)), ("table.csv", as_csv(table))):
        write_text(folder / name, text)
    show_table(terminal(table, f"comparison on {comparison.data.dataset}", terminal_width()))
    for note in table.notes:
        print(note)
    print(f"{folder}: table.md, table.tex, table.csv, curves.svg, methods.svg, runs/")


def _modalities(comparison: Comparison) -> tuple[str, ...]:
    """Modalities of the data set; it is opened where only reading tells.

    Raises:
        ConfigError: several fusions of a data set that has one network.
        DataError: the data cannot be read.
    """
    data = comparison.data
    info = dataset_info(data.dataset)
    if info.network is not None and len(comparison.fusion_names) > 1:
        raise ConfigError(
            f"compare.fusions is {comparison.compare.fusions!r}; {info.title} has one network, whatever the fusion: "
            "name one"
        )
    if info.modalities and not data.video:
        return info.modalities
    from gradmod.experiments.training.parts import modalities_of, read_data

    return modalities_of(comparison, read_data(comparison))


def _record(state: State) -> RunRecord:
    run = state.run
    return RunRecord(run.row, run.fusion, run.seed, run.modality, state.folder)


def _state(state: State) -> RunState:
    return RunState(state.run.name, state.status, state.folder, state.started, state.reason)
