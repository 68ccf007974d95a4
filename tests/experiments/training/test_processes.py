"""Runs of several processes against one: every step, the evaluation, and what the methods decide on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT
from gradmod import MSES, MSLR
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.reporting.plots import curves
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.parts import build_parts
from gradmod.experiments.training.run import evaluate, resume, train
from gradmod.methods.base import Method
from gradmod.methods.epoch import Epoch
from processes import as_torchrun
from properties import saved_weights
from runs import log_lines, short

OWN = f"{ROOT / 'tests' / 'many_modalities.py'}:load"


def own(out: Path, name: str, **changes: Any) -> Config:
    more = {
        "dataset": OWN,
        "root": "2",
        "encoder": "mlp",
        "lr": 0.1,
        "fusion": "late",
        "log_every": 1,
    }
    return short(out, name=name, **{**more, **changes})


def assert_same_run(ours: Path, expected: Path) -> None:
    theirs = saved_weights(expected)
    for key, value in saved_weights(ours).items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)
    steps = [
        [line for line in log_lines(folder) if line["kind"] == "step"]
        for folder in (ours, expected)
    ]
    assert len(steps[0]) == len(steps[1])
    for a, b in zip(*steps, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert list(a["coefficients"].values()) == pytest.approx(
            list(b["coefficients"].values()), abs=1e-6
        )


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "plot_curves", lambda folder: None)


def on(rank: int, config: Config) -> None:
    curves.plot_curves = lambda folder: None  # type: ignore[assignment]
    train(config)


def going_on(rank: int, folder: Path, dataset: str, epochs: int) -> None:
    curves.plot_curves = lambda folder: None  # type: ignore[assignment]
    resume(folder, dataset=dataset, epochs=epochs)


@pytest.mark.parametrize(
    ("rest", "method"),
    [
        pytest.param(2, "ogm-ge", marks=pytest.mark.slow),
        (3, "agm"),
        pytest.param(5, "agm", marks=pytest.mark.slow),
    ],
)
def test_the_last_batch_is_trained_on_by_any_number_of_processes(
    rest: int, method: str, tmp_path: Path
) -> None:
    """Its 2, 3 or 5 samples are too few for three processes; going on with another number changes nothing either."""
    size = {2: 59, 3: 39, 5: 115}[rest]
    assert 120 % size == rest
    alone = own(tmp_path, "one", epochs=2, method=method, batch_size=size)
    train(alone)
    if rest == 3:  # the first epoch on one process, the second on three
        train(own(tmp_path, "three", epochs=1, method=method, batch_size=size))
        as_torchrun(partial(going_on, folder=tmp_path / "three", dataset=OWN, epochs=2), 3)
    else:
        as_torchrun(
            partial(on, config=own(tmp_path, "three", epochs=2, method=method, batch_size=size)), 3
        )
    assert_same_run(tmp_path / "three", tmp_path / "one")
    assert sum(line["kind"] == "step" for line in log_lines(tmp_path / "three")) == 2 * (
        120 // size + 1
    )


def decisions(rank: int, config: Config) -> list[Any]:
    """What the method was told at the end of each epoch."""
    told: list[Any] = []
    for kind in (MSES, MSLR):
        original = kind.after_epoch

        def after_epoch(self: Method, epoch: Epoch, original: Any = original) -> bool:
            figures = epoch.validation.items()
            told.append({m: (found.score, found.headline) for m, found in figures})
            return bool(original(self, epoch))

        kind.after_epoch = after_epoch  # type: ignore[method-assign, assignment]
    on(rank, config)
    return told


@pytest.mark.parametrize(
    "method", ["mses", *(pytest.param(name, marks=pytest.mark.slow) for name in ("agm", "mslr"))]
)
def test_the_best_epoch_is_chosen_on_the_model_that_is_saved(method: str, tmp_path: Path) -> None:
    """Batch norm has running statistics of its own on each process; what is measured is what is saved."""
    settings = {
        "dataset": "av-digits",
        "encoder": "small-cnn",
        "width": 4,
        "root": "",
        "fusion": "early",
    }
    config = own(tmp_path, "run", method=method, epochs=2, **settings)
    told = as_torchrun(partial(decisions, config=config), 2)
    assert told[0] == told[1]
    assert len(told[0]) == (0 if method == "agm" else 2)
    folder = tmp_path / "run"
    assert any("running_var" in name for name in saved_weights(folder))
    epochs = [line for line in log_lines(folder) if line["kind"] == "epoch"]
    best = read_checkpoint(folder / "checkpoints" / "best.pt")
    chosen = epochs[best["best_epoch"] - 1]["validation"]
    assert best["best_value"] == chosen["accuracy"]
    found = evaluate(folder, split="validation")
    assert found["accuracy"] == chosen["accuracy"]
    assert found["loss"] == pytest.approx(chosen["loss"], rel=1e-5)
    for m, figures in chosen["responses"].items():
        assert found["responses"][m]["score"] == pytest.approx(figures["score"], rel=1e-5)


def test_what_mses_puts_back_is_measured_again(tmp_path: Path) -> None:
    """The run ends where the last modality is put back to its best epoch: that model is validated and saved."""
    config = own(tmp_path, "run", method="mses", patience="1", smoothing=0.0, lr=0.5, epochs=30)
    train(config)
    folder = tmp_path / "run"
    epochs = [line for line in log_lines(folder) if line["kind"] == "epoch"]
    assert len(epochs) < 30
    found = evaluate(folder, split="validation", checkpoint="last", dataset=OWN)
    assert found == epochs[-1]["validation"]


def test_synchronised_batch_norm_refuses_a_last_batch_of_fewer_samples_than_processes(
    tmp_path: Path,
) -> None:
    config = own(tmp_path, "x", batch_size=39, devices=4, sync_batch_norm=True)
    with pytest.raises(
        ConfigError, match=r"the last batch of an epoch has 3 samples .*batch_size 39\)"
    ):
        build_parts(config)
    for changes in ({"devices": 3}, {"sync_batch_norm": False}):
        build_parts(replace(config, train=replace(config.train, **changes)))  # type: ignore[arg-type]
