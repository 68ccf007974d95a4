"""The folder of a run: what is made in it, and what is never taken out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.files import is_leftover, temporary_beside
from gradmod.experiments.runs.folder import create_run_folder, remove_leftovers
from gradmod.experiments.settings.config import Config


def dead_process() -> int:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    return int(done.stdout)


def test_what_others_write_and_users_keep_is_no_leftover(tmp_path: Path) -> None:
    for folder in ("checkpoints", "predictions"):
        (tmp_path / folder).mkdir()
    # By `gradmod competition`, say.
    writing = temporary_beside(tmp_path / "predictions" / "test.npz")
    mine = [tmp_path / ".notes.tmp", tmp_path / "checkpoints" / ".best.pt.4711-0123abcd.tmp"]
    name = temporary_beside(tmp_path / "checkpoints" / "last.pt").name
    left = tmp_path / "checkpoints" / name.replace(f"-{os.getpid()}-", f"-{dead_process()}-")
    folder = tmp_path / name.replace(f"-{os.getpid()}-", f"-{dead_process()}-")
    folder.mkdir()
    for path in (writing, *mine, left):
        path.write_bytes(b"content")
    assert is_leftover(left)
    remove_leftovers(tmp_path)
    assert sorted(path for path in tmp_path.rglob(".*.tmp")) == sorted([writing, *mine, folder])


def test_a_name_that_is_taken_by_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "file").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(ConfigError, match=f"{name} exists already and is no run's folder"):
            create_run_folder(tmp_path, name, Config(), unique=False)
        assert create_run_folder(tmp_path, name, Config(), unique=True) == tmp_path / f"{name}-2"
    with pytest.raises(ConfigError, match="gradmod resume"):
        create_run_folder(tmp_path, "notes-2", Config(), unique=False)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes", "file", "notes-2", "file-2"}
    assert (tmp_path / "notes" / "file").read_text() == "mine"
