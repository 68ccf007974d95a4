"""A comparison: methods x fusions x seeds run beside each other, and their table, written into one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from gradmod.experiments.comparison.claims import SETTINGS, refuse_foreign_comparison
from gradmod.experiments.comparison.kept_trials import take_trials_over
from gradmod.experiments.comparison.launchers import Launcher, LocalLauncher, SubmititLauncher
from gradmod.experiments.comparison.plan import planned_runs, trial_runs, trials
from gradmod.experiments.comparison.scheduling import FAILED, FINISHED, State, run_all
from gradmod.experiments.datasets.registry import dataset_info
from gradmod.experiments.errors import ConfigError, TrainingError, damage_in
from gradmod.experiments.files import write_json, write_text
from gradmod.experiments.methods.entry import table_of
from gradmod.experiments.own_code import short_name
from gradmod.experiments.reporting.comparison import ComparisonTable, RunRecord, compare
from gradmod.experiments.reporting.formats import as_csv, latex, markdown
from gradmod.experiments.reporting.plots.comparison import plot_comparison
from gradmod.experiments.reporting.style import network_title
from gradmod.experiments.runs.records import read_result
from gradmod.experiments.settings.comparison import CHEAP, Comparison
from gradmod.experiments.settings.toml import save_config
from gradmod.tasks import task_of_record

Chosen = dict[tuple[str, str], dict[str, Any]]
Follower = Callable[[str, Sequence[State]], None]
"""Called again and again with what is being run ("runs") and how far each run is."""
TRIALS = "trials"
"""Folder of the runs that settings are chosen by."""
CHOOSING, RUNS = "choosing on validation", "runs"


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison came to.

    Attributes:
        folder: with `table.md`, `table.tex`, `table.csv`, `comparison.json`, plots and `runs/`.
        table: its figures; None where no run finished.
        failed: the runs that failed, which are not in the table.
        count: of all runs.
    """

    folder: Path
    table: ComparisonTable | None
    failed: list[State]
    count: int


def run_comparison(comparison: Comparison, follow: Follower | None = None) -> ComparisonResult:
    """Run what is not finished yet, and write the table of all that is.

    Args:
        comparison: its settings, as in `Comparison(compare=CompareConfig(methods="agm", seeds="0,1"))`.
        follow: called with how far the runs are.

    Raises:
        ConfigError: settings that do not go together; a folder that holds something else.
        DataError: the data cannot be read.
        InterruptedRunError: Ctrl-C; the runs that went on saved themselves.
        TrainingError: every trial of a method failed.
    """
    follow = follow or (lambda title, states: None)
    settings = comparison.compare
    folder = Path(comparison.train.out) / (
        comparison.train.name or f"compare-{comparison.data.short_name}"
    )
    modalities = _modalities(comparison)
    launcher: Launcher
    if settings.launcher == "local":
        launcher = LocalLauncher(settings.jobs, comparison.train.device)
    else:
        options = dict(option.split("=", 1) for option in settings.launcher_options)
        launcher = SubmititLauncher(folder / "submitit", options)
    refuse_foreign_comparison(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(comparison, folder / SETTINGS)
    chosen = choose(comparison, folder, launcher, follow)
    runs = planned_runs(comparison, modalities, chosen)
    take_trials_over(runs, trial_runs(comparison), folder / TRIALS, folder / "runs")
    states = run_all(runs, folder / "runs", launcher, settings.jobs, lambda now: follow(RUNS, now))
    finished = [_record(state) for state in states if state.status == FINISHED]
    failed = [state for state in states if state.status == FAILED]
    table = None
    if finished:
        with damage_in(folder / "runs"):
            table = compare(finished)
            plot_comparison(finished, table, folder)
        _write(table, finished, folder, chosen, failed, comparison)
    return ComparisonResult(folder, table, failed, len(states))


def choose(comparison: Comparison, folder: Path, launcher: Launcher, follow: Follower) -> Chosen:
    """Choose each method's settings on the validation split; the test split is not scored.

    Raises:
        TrainingError: every trial of a method failed.
    """
    planned = trials(comparison)
    if not planned:
        return {}
    ended = run_all(
        trial_runs(comparison),
        folder / TRIALS,
        launcher,
        comparison.compare.jobs,
        lambda now: follow(CHOOSING, now),
    )
    states = {state.run.name: state for state in ended}
    chosen: Chosen = {}
    written = []
    for (method, fusion), candidates in planned.items():
        best, best_value = None, float("nan")
        label = candidates[0][1][0].fusion
        for candidate, members in candidates:
            if any(states[run.name].status != FINISHED for run in members):
                written.append(
                    {"method": table_of(method), "fusion": label, **candidate, "validation": None}
                )
                continue
            results = [read_result(states[run.name].folder) for run in members]
            with damage_in(folder / TRIALS):
                task = task_of_record(results[0])
                values = [
                    float(result["splits"]["validation"][task.headline]) for result in results
                ]
            # As many right answers are a tie, however the seeds share them.
            value = round(fmean(values), 12)
            by_seed = {str(run.seed): value for run, value in zip(members, values, strict=True)}
            written.append(
                {
                    "method": table_of(method),
                    "fusion": label,
                    **candidate,
                    "validation": value,
                    "by_seed": by_seed,
                }
            )
            if task.improves(value, best_value):
                best, best_value = candidate, value
        if best is None:
            reason = states[candidates[0][1][0].name].reason
            raise TrainingError(
                f"every trial of {table_of(method)} with {network_title(label)} failed, the first one: {reason}"
            )
        chosen[method, fusion] = best
    write_json(folder / "trials.json", written)
    return chosen


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
        label = short_name(comparison.model.model) or fusion
        of_methods = (
            f"{table_of(method)} {', '.join(f'{name} {value}' for name, value in settings.items())}"
            for (method, other), settings in chosen.items()
            if other == fusion
        )
        table.notes.append(
            f"chosen on the validation split (mean of seeds {', '.join(map(str, seeds))}), {network_title(label)}: "
            f"{'; '.join(of_methods)}"
        )
    missing = [name for name in CHEAP if name not in comparison.compare.method_names]
    if missing:
        table.notes.append(
            f"not among the rows, though cheap and often as good: {', '.join(missing)} (--methods)"
        )
    if failed:
        table.notes.append(
            f"left out, because they failed: {', '.join(state.run.name for state in failed)}"
        )
    records = [
        {**asdict(record), "folder": str(record.folder.relative_to(folder))} for record in finished
    ]
    write_json(folder / "comparison.json", records)
    for name, text in (
        ("table.md", markdown(table)),
        ("table.tex", latex(table)),
        ("table.csv", as_csv(table)),
    ):
        write_text(folder / name, text)


def _modalities(comparison: Comparison) -> tuple[str, ...]:
    """Modalities of the data set; it is opened where only reading tells.

    Raises:
        ConfigError: several fusions of a data set that has one network.
        DataError: the data cannot be read.
    """
    data = comparison.data
    info = dataset_info(data.dataset)
    if comparison.model.model and len(comparison.fusion_names) > 1:
        raise ConfigError(
            f"compare.fusions is {comparison.compare.fusions!r}; --model {comparison.model.model} is one network, "
            "whatever the fusion: name one"
        )
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
