"""A reader who leaves changes nothing but what is seen."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import Any

import pytest

from gradmod.experiments.cli import main as cli
from gradmod.experiments.cli.streams import Lasting
from gradmod.experiments.errors import UnusableDataError


def broken_pipe() -> io.TextIOWrapper:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def test_what_nobody_reads_goes_nowhere() -> None:
    with broken_pipe() as pipe:
        stream = Lasting(pipe)
        for _ in range(3):
            assert stream.write("x" * 100_000) == 100_000
            stream.flush()
        assert stream.fileno() == pipe.fileno()
        assert not stream.closed


@pytest.mark.parametrize(("raised", "code"), [(None, 0), (UnusableDataError("bad"), 1)])
def test_a_command_keeps_its_exit_code(
    raised: Exception | None,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        print("x" * 100_000)
        print("y", flush=True)
        if raised is not None:
            raise raised

    with broken_pipe() as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        assert cli.guarded(command) == code
        assert sys.stdout is pipe
    err = capsys.readouterr().err
    assert err == ("gradmod: error: bad\n" if raised else "")


def test_the_errors_reader_may_leave_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def command() -> None:
        print("x" * 100_000, file=sys.stderr, flush=True)
        done.append(1)

    with broken_pipe() as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", pipe)
        assert cli.guarded(command) == 0
    assert done == [1]


def test_a_full_disk_behind_standard_output_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr(sys, "stdout", full)
        assert cli.guarded(lambda: print("few words")) == 1
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["list"], ["train", "--help"]])
def test_head_ends_silently(words: list[str]) -> None:
    """In a process of its own: nothing is said when Python ends, either."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gradmod", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0
