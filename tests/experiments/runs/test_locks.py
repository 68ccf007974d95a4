"""Locks between processes, on file systems that have locks and on those that do not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison.launchers import LocalLauncher
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.runs import locks
from gradmod.experiments.runs.locks import acquire, acquired, holder_of, is_taken
from gradmod.experiments.runs.records import read_result

fcntl = pytest.importorskip("fcntl", reason="Windows has no flock")


@pytest.fixture(params=["native", errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system has locks; where not, flock answers as it does on Lustre or some NFS."""
    if request.param != "native":
        without_locks(monkeypatch, request.param)
    return request.param == "native"


def without_locks(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def marker(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def test_one_has_it_at_a_time(file_system: bool, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"lines")
    assert not is_taken(path)
    with path.open("ab") as first, path.open("ab") as second:
        lock = acquire(first)
        assert lock is not None
        assert lock.is_marker != file_system
        assert acquire(second) is None
        assert is_taken(path)
        lock.release()
    assert not is_taken(path)
    assert not is_taken(tmp_path / "nothing")
    assert path.read_bytes() == b"lines"
    assert list(tmp_path.iterdir()) == [path] or file_system


def test_who_waits_says_so_and_gets_it_after_the_other(
    file_system: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, order = tmp_path / "deep" / "concept.lock", []
    waits = Event()
    monkeypatch.setattr(locks, "holder_of", lambda path: waits.set() or " (somebody)")

    def wait() -> None:
        with acquired(path):
            order.append("second")

    with acquired(path):
        waiting = Thread(target=wait)
        waiting.start()
        assert waits.wait(30)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    assert f"waiting for who has {path} locked (somebody)" in capsys.readouterr().err


def test_a_dead_process_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_locks(monkeypatch, errno.ENOSYS)
    path = tmp_path / "log"
    with path.open("ab") as file:
        lock = acquire(file)
        assert lock is not None
        mine = marker(path).read_text()
        assert f"process {os.getpid()} on " in holder_of(path)
        lock.release()
    assert holder_of(path) == ""
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    gone, host = done.stdout.strip(), mine.split("\n")[1]
    marker(path).write_text(f"{gone}\n{host}\n")
    assert not is_taken(path)
    # That of another machine cannot be asked: it is named, and what to do.
    marker(path).write_text(f"{gone}\nnode7\n")
    assert is_taken(path)
    assert f"process {gone} on node7; if it is gone for good, remove" in holder_of(path)


def test_another_refusal_is_not_taken_for_a_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_locks(monkeypatch, errno.EIO)
    with (
        (tmp_path / "log").open("ab") as file,
        pytest.raises(ConfigError, match=r"log cannot be locked.*Input/output"),
    ):
        acquire(file)


@pytest.mark.slow
def test_a_run_trains_and_keeps_others_out_without_locks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_locks(monkeypatch, errno.ENOSYS)
    words = [
        "train",
        "--epochs",
        "1",
        "--width",
        "4",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        "--name",
        "a",
    ]
    assert cli.main([*words, "--competition-every", "1"]) == 0
    assert capsys.readouterr().err.count("has no locks") == 3  # the run, and two concepts
    assert cli.main([*words[:-1], "b"]) == 0
    log = tmp_path / "b" / "metrics.jsonl"
    capsys.readouterr()
    assert not marker(log).exists()
    marker(log).write_text("12\nnode7\n")
    before = log.read_bytes()
    assert cli.main(["resume", str(tmp_path / "b"), "--epochs", "2"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "another process trains the run" in error
    assert "process 12 on node7" in error
    assert log.read_bytes() == before
    marker(log).unlink()
    assert cli.main(["resume", str(tmp_path / "b"), "--epochs", "2"]) == 0
    assert read_result(tmp_path / "b")["epochs_trained"] == 2


def test_a_process_that_was_launched_has_its_log_for_as_long_as_it_lasts(
    file_system: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    job = LocalLauncher(1, "cpu").start(["list"], log, 0)
    assert is_taken(log)
    while job.poll() is None:
        time.sleep(0.05)
    assert job.poll() is not None
    assert not is_taken(log)
