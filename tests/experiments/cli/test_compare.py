"""`gradmod compare` as a user meets it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ave_files import ave_arrays, write_ave

from gradmod.experiments.cli import main as cli
from gradmod.experiments.runs.records import read_result
from processes import run_gradmod

SMALL = ["--device", "cpu", "--width", "4", "--epochs", "2", "--batch-size", "256", "--jobs", "2"]


def compare(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_gradmod("compare", *SMALL, *words, cwd=cwd)


@pytest.mark.slow
def test_choose_run_tell_and_repeat_nothing(tmp_path: Path) -> None:
    words = [
        "--methods",
        "agm",
        "--tune",
        "agm.alpha=0.3,2",
        "joint.lr=0.01,0.05",
        "--tune-seeds",
        "0",
        "--name",
        "mine",
    ]
    done = compare(*words, "--seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "mine"
    trials = json.loads((folder / "trials.json").read_text())
    assert [trial["method"] for trial in trials] == ["joint", "joint", "agm", "agm"]
    assert "test" not in read_result(folder / "trials" / "late-agm-trial1-seed0")["splits"]
    best = max(
        (trial for trial in trials if trial["method"] == "agm"),
        key=lambda trial: trial["validation"],
    )
    assert f"agm alpha {best['alpha']}" in done.stdout
    run = read_result(folder / "runs" / "late-agm-seed0")
    assert "test" in run["splits"]
    with (folder / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["joint", "agm", "audio alone", "visual alone", "ensemble"]
    assert float(rows["agm"]["accuracy_mean"]) == pytest.approx(run["splits"]["test"]["accuracy"])
    assert f"{run['splits']['test']['accuracy']:.3f}" in done.stdout
    for name in ("table.md", "table.tex", "curves.svg", "comparison.toml", "comparison.json"):
        assert (folder / name).stat().st_size > 0
    assert done.stderr.count("finished") == 4 + 4  # no terminal: a line for each run

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/result.json")}
    table = (folder / "table.md").read_text()
    done = compare("--config", "runs/mine/comparison.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished" not in done.stderr
    assert len(before) == 8
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert (folder / "table.md").read_text() == table


@pytest.mark.slow
def test_a_failed_run_is_left_out_and_the_exit_code_says_so(tmp_path: Path) -> None:
    words = [
        "--methods",
        "agm",
        "--seeds",
        "0",
        "--mono",
        "false",
        "--set",
        "agm.lr=1e30",
        "agm.clip-norm=none",
    ]
    done = compare(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 of 2 runs failed (late-agm-seed0: gradmod: error: " in done.stderr.splitlines()[-1]
    assert "left out, because they failed: late-agm-seed0" in done.stdout
    assert "joint" in done.stdout


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    words = [
        "--methods",
        "agm",
        "--seeds",
        "0,1",
        "--mono",
        "false",
        "--epochs",
        "12",
        "--save-every",
        "3",
    ]
    whole = compare(*words, "--name", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "-m", "gradmod", "compare", *SMALL, *words, "--name", "cut"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    first = tmp_path / "runs" / "cut" / "runs" / "late-joint-seed0" / "checkpoints" / "last.pt"
    deadline = time.monotonic() + 120
    while not first.is_file():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)  # its runs go on by themselves, and are waited for
    process.wait()
    again = compare(*words, "--name", "cut", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for name in ("late-joint-seed0", "late-joint-seed1", "late-agm-seed0", "late-agm-seed1"):
        one, two = (
            read_result(tmp_path / "runs" / which / "runs" / name) for which in ("whole", "cut")
        )
        assert one["splits"] == two["splits"]


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["compare", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_wrong_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean --methods" in error(capsys, "--method-s", "agm")
    assert "--methods is 'sgd'" in error(capsys, "--methods", "sgd")
    assert "Looked for" in error(
        capsys, "--dataset", "mosei", "--video", "true", "--root", "nowhere"
    )
    assert "has one network" in error(
        capsys, "--dataset", "ave", "--root", "x", "--fusions", "late,early"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_data_set_with_a_network_of_its_own(tmp_path: Path) -> None:
    write_ave(tmp_path / "ave", ave_arrays())
    words = [
        "--dataset",
        "ave",
        "--root",
        "ave",
        "--methods",
        "agm",
        "--seeds",
        "0",
        "--batch-size",
        "8",
        "--jobs",
        "2",
    ]
    done = run_gradmod("compare", "--device", "cpu", "--epochs", "1", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ensemble" in done.stdout
