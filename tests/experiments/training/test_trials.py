"""Trials in a run: what is held out of training, the same bits after an interruption, and the log."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.split import Split
from gradmod.experiments.errors import ConfigError, InterruptedRunError
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training import loop, trials
from gradmod.experiments.training.loading import batches
from gradmod.experiments.training.parts import build_parts
from gradmod.experiments.training.run import resume, train
from gradmod.experiments.training.trials import divide
from gradmod.methods import GBlending, Joint
from processes import as_torchrun
from runs import log_lines, short

NAMES = ("audio", "visual")


def blending(out: Path, **changes: Any) -> Config:
    given = {"method": "gblending", "super_epoch": 1, "encoder": "mlp", "epochs": 3, **changes}
    return short(out, **given)


def made(samples: int, **more: Any) -> Split:
    return Split({"audio": np.zeros((samples, 2), np.float32)}, np.arange(samples) % 2, **more)


def test_a_part_of_the_training_split_is_held_out() -> None:
    split = made(50).subset(np.arange(5, 45), augmented=True)
    divided = divide(split, GBlending(NAMES, held_out=0.2), seed=3, processes=1)
    assert divided is not None
    assert len(divided.held_out) == 8
    assert sorted([*divided.held_out.rows, *divided.trained.rows]) == list(range(5, 45))
    assert (divided.trained.augmented, divided.held_out.augmented) == (True, False)
    again, other = (divide(split, GBlending(NAMES, held_out=0.2), s, 1) for s in (3, 4))
    assert again is not None
    assert other is not None
    assert again.held_out.rows.tolist() == divided.held_out.rows.tolist()
    assert other.held_out.rows.tolist() != divided.held_out.rows.tolist()
    assert divide(split, Joint(NAMES), seed=3, processes=1) is None


def test_groups_are_held_out_whole() -> None:
    groups = {"video": np.arange(60) // 2, "speaker": np.arange(60) // 6}
    divided = divide(made(60, groups=groups), GBlending(NAMES), seed=0, processes=1)
    assert divided is not None
    for kind in groups:
        assert not set(divided.held_out.groups[kind]) & set(divided.trained.groups[kind])
    assert len(set(divided.held_out.groups["speaker"])) == 2


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    for samples, share, processes in ((4, 0.1, 1), (10, 0.9, 1), (10, 0.5, 4)):
        with pytest.raises(ConfigError, match=rf"has {samples} samples, of which .* held out from"):
            divide(made(samples), GBlending(NAMES, held_out=share), seed=0, processes=processes)
    with pytest.raises(
        ConfigError, match=r"of which 0 are held out from trials \(held_out = 1e-06\)"
    ):
        build_parts(blending(tmp_path, held_out=1e-6))


@pytest.mark.parametrize("online", [False, True])
def test_trials_train_on_the_rest_and_only_offline_training_on_all(
    online: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: dict[str, set[int]] = {"loop": set(), "trials": set()}
    for name, module in (("loop", loop), ("trials", trials)):

        def spy(fabric: Any, split: Split, requests: Any, workers: int, name: str = name) -> Any:
            def seen() -> Any:
                for request in requests:
                    read[name] |= set(split.rows[request.indices].tolist())
                    yield request

            return batches(fabric, split, seen(), workers)

        monkeypatch.setattr(module, "batches", spy)
    config = blending(tmp_path, online=online)
    parts = build_parts(config)
    divided = divide(parts.data.train, parts.model.method, config.train.seed, 1)
    assert divided is not None
    train(config)
    assert read["trials"] == set(divided.trained.rows.tolist())
    assert read["loop"] == set((divided.trained if online else parts.data.train).rows.tolist())


def test_a_run_that_is_broken_off_in_a_trial_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "online": True,
        "epochs": 2,
        "width": 8,
        "save_every": 2,
        "optimizer": "adam",
        "encoder": "small-cnn",
    }
    train(blending(tmp_path, name="whole", **settings))
    original, calls = trials.RunTrials.train, []

    def interrupting(self: trials.RunTrials, epochs: int) -> None:
        calls.append(1)
        if len(calls) in (2, 6):
            os.kill(os.getpid(), signal.SIGINT)
        original(self, epochs)

    monkeypatch.setattr(trials.RunTrials, "train", interrupting)
    with pytest.raises(InterruptedRunError):
        train(blending(tmp_path, name="cut", **settings))
    assert len(calls) == 2  # it does not wait for the last trial
    with pytest.raises(InterruptedRunError):
        resume(tmp_path / "cut")
    assert len(calls) == 6
    monkeypatch.undo()
    resume(tmp_path / "cut")
    whole, cut = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "cut")
    )
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])
    assert log_lines(tmp_path / "cut") == log_lines(tmp_path / "whole")


def test_the_command_line_says_what_was_found(tmp_path: Path) -> None:
    words = (
        "train --method gblending --super-epoch 2 --online true --epochs 3 --width 8 --device cpu"
    )
    assert cli.main([*words.split(), "--out", str(tmp_path), "--name", "run"]) == 0
    epochs = [line for line in log_lines(tmp_path / "run") if line["kind"] == "epoch"]
    found = [line["blending"] for line in epochs]
    assert [sorted(one) for one in found] == [
        ["from", "gain", "overfitting", "weights"],
        ["weights"],
        ["from", "gain", "overfitting", "weights"],
    ]
    for one in found:
        assert sorted(one["weights"]) == ["audio", "joint", "visual"]
        assert sum(one["weights"].values()) == pytest.approx(1)
    assert found[0]["weights"] == found[1]["weights"] != found[2]["weights"]
    for line in epochs:
        for m in NAMES:
            weight = line["blending"]["weights"][m]
            assert line["coefficients"][m]["min"] == pytest.approx(weight)


def test_trials_are_of_the_epochs_learning_rate_and_clipped(tmp_path: Path) -> None:
    found = []
    for changes in ({}, {"clip_norm": 0.01}, {"lr": 1e-4}):
        summary = train(blending(tmp_path, name=f"run{len(found)}", epochs=1, **changes))
        assert summary is not None
        line = next(line for line in log_lines(summary.folder) if line["kind"] == "epoch")
        found.append(line["blending"]["gain"]["joint"])
    assert found[0] > 2 * max(found[1:])


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    one, two = (blending(tmp_path, name=name, batch_size=160, width=8) for name in ("one", "two"))
    train(one)
    as_torchrun(partial(_train_on, config=two), 2)
    found = [
        next(line for line in log_lines(tmp_path / name) if line["kind"] == "epoch")["blending"]
        for name in ("one", "two")
    ]
    for kind in ("gain", "overfitting", "weights"):
        assert found[1][kind] == pytest.approx(found[0][kind], rel=1e-2, abs=1e-5)


def _train_on(rank: int, config: Config) -> None:
    train(config)
