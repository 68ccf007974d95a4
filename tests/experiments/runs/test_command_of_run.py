"""What a run folder says of how it was made: commands and paths that hold on any machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gradmod.experiments.analysis.competition import measure_competition
from gradmod.experiments.runs.folder import command_line
from gradmod.experiments.training.run import train
from runs import short


def test_a_command_is_the_same_on_any_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = str(Path.cwd())
    for program in (
        "/opt/venv/bin/gradmod",
        "/opt/venv/lib/python3.11/site-packages/gradmod/__main__.py",
        "gradmod",
    ):
        words = [
            program,
            "train",
            "--config",
            f"{here}/runs/a.toml",
            f"--out={here}/runs",
            "--root",
            "/data/x",
            "--name",
            "a b",
        ]
        assert (
            command_line(words)
            == "gradmod train --config runs/a.toml --out=runs --root /data/x --name 'a b'"
        )
    assert command_line(["main.py", "--EPOCHS", "3"]) == "python main.py --EPOCHS 3"
    assert command_line([f"{here}/main.py"]) == "python main.py"
    assert command_line(["/opt/venv/bin/pytest", "--set", "a=1"]) == "pytest --set a=1"
    assert command_line([]) == ""


def test_a_run_holds_no_path_that_was_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"{tmp_path}/bin/gradmod", "train", "--config", f"{tmp_path}/runs/r.toml"]
    monkeypatch.setattr("sys.argv", words)
    summary = train(short(Path("runs"), name="r", epochs=1))
    assert summary is not None
    assert summary.result["command"] == "gradmod train --config runs/r.toml"
    found = measure_competition(Path("runs/r"))
    assert all(place.startswith("../concepts/") for place in found["concepts"].values())
    assert all((Path("runs/r") / place).resolve().is_dir() for place in found["concepts"].values())
    monkeypatch.chdir("runs/r")
    assert measure_competition(Path())["concepts"] == found["concepts"]
    monkeypatch.chdir(tmp_path)
    for path in Path("runs").rglob("*"):
        if path.suffix in (".json", ".jsonl", ".toml"):
            assert str(tmp_path) not in path.read_text(), path
    assert json.loads(Path("runs/r/competition/test.json").read_text()) == found
    assert os.path.samefile(".", tmp_path)  # noqa: PTH121
