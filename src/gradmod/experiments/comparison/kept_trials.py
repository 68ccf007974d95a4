"""A trial with the settings and the seed of a run of the table is that run: only its test split is to be scored."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from gradmod.experiments.comparison.plan import PlannedRun
from gradmod.experiments.files import making_beside
from gradmod.experiments.runs.names import CONFIG, RESULT
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import save_config


def take_trials_over(
    runs: Sequence[PlannedRun], trials: Iterable[PlannedRun], trial_folder: Path, out: Path
) -> list[PlannedRun]:
    """Copy finished trials to where runs with their settings belong, without a result: going on with them scores them.

    Args:
        runs: of the table.
        trials: runs that settings were chosen by.
        trial_folder: where their folders lie.
        out: where the folders of `runs` lie, or will lie.

    Returns:
        The runs that were copied.
    """
    finished = [trial for trial in trials if (trial_folder / trial.name / RESULT).is_file()]
    taken = []
    for run in runs:
        folder = out / run.name
        same = (trial for trial in finished if _scored(trial.config) == run.config)
        trial = None if folder.exists() else next(same, None)
        if trial is None:
            continue
        out.mkdir(parents=True, exist_ok=True)
        making = making_beside(folder)
        shutil.copytree(trial_folder / trial.name, making, ignore=shutil.ignore_patterns(RESULT))
        placed = replace(run.config.train, out=str(out), name=run.name)
        save_config(replace(run.config, train=placed), making / CONFIG)
        making.rename(folder)
        taken.append(run)
    return taken


def _scored(trial: Config) -> Config:
    """Settings of the run that scores the test split as well."""
    return replace(trial, train=replace(trial.train, score_test=True))
