"""A chosen trial becomes the run of the table: trained once, and the same as one that is trained for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from gradmod.experiments.comparison.kept_trials import take_trials_over
from gradmod.experiments.comparison.plan import planned_runs, trials
from gradmod.experiments.runs.checkpoints import Checkpoints
from gradmod.experiments.runs.names import CONFIG, METRICS, RESULT
from gradmod.experiments.settings.comparison import CompareConfig, Comparison
from gradmod.experiments.settings.config import Config, MonitorConfig, TrainConfig
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.training.run import resume, train


def comparison(**changes: object) -> Comparison:
    return Comparison(
        compare=CompareConfig(
            methods="joint", mono=False, tune=("joint.lr=0.02,0.05",), seeds="0,1", tune_seeds="0"
        ),
        train=TrainConfig(epochs=2, device="cpu", workers=0),
        **changes,  # type: ignore[arg-type]
    )


def trained(config: Config, out: Path, name: str) -> dict[str, object]:
    summary = train(replace(config, train=replace(config.train, out=str(out), name=name)))
    assert summary is not None
    return summary.result


def test_a_chosen_trial_is_scored_and_not_trained_again(tmp_path: Path) -> None:
    settings = comparison()
    tried = [run for found in trials(settings).values() for _, of in found for run in of]
    for trial in tried:
        assert "test" not in trained(trial.config, tmp_path / "trials", trial.name)["splits"]  # type: ignore[operator]
    runs = planned_runs(settings, ("audio", "visual"), {("joint", "late"): {"lr": 0.05}})
    out = tmp_path / "runs"
    taken = take_trials_over(runs, tried, tmp_path / "trials", out)
    assert [run.name for run in taken] == ["late-joint-seed0"]  # seed 1 was no trial's
    folder = out / "late-joint-seed0"
    assert not (folder / RESULT).exists()
    assert load_config(folder / CONFIG).train.score_test
    trial = tmp_path / "trials" / "late-joint-trial2-seed0"
    assert (trial / RESULT).exists()
    assert (folder / METRICS).read_bytes() == (trial / METRICS).read_bytes()

    went_on = resume(folder)
    assert went_on is not None
    anew = trained(runs[0].config, tmp_path / "anew", "run")
    assert went_on.result["splits"] == anew["splits"]
    assert went_on.result["steps"] == anew["steps"]
    assert [json.loads(line)["kind"] for line in (folder / METRICS).read_text().splitlines()] == [
        json.loads(line)["kind"] for line in (trial / METRICS).read_text().splitlines()
    ]
    assert Checkpoints(folder).load("last")["step"] == Checkpoints(trial).load("last")["step"]
    assert not take_trials_over(runs, tried, tmp_path / "trials", out)  # they are there already


def test_a_run_that_is_monitored_is_no_trial(tmp_path: Path) -> None:
    settings = comparison(monitor=MonitorConfig(shape_every=1))
    tried = [run for found in trials(settings).values() for _, of in found for run in of]
    for trial in tried:
        (tmp_path / "trials" / trial.name).mkdir(parents=True)
        (tmp_path / "trials" / trial.name / RESULT).write_text("{}")
    runs = planned_runs(settings, ("audio", "visual"), {("joint", "late"): {"lr": 0.05}})
    assert not take_trials_over(runs, tried, tmp_path / "trials", tmp_path / "runs")
