"""The campaigns of benchmarks/fault_*.py, with small counts: nothing is lost, nothing ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT


def campaign(script: str, out: Path, *words: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("train", ("--kills", "12")),
        ("events", ("--events", "20")),
        ("compare", ("--kills", "15")),
        ("prepare", ("--kills", "40")),
    ],
)
def test_nothing_is_lost_by_a_kill(what: str, words: tuple[str, ...], tmp_path: Path) -> None:
    table = campaign("fault_kills", tmp_path / "kills.md", "--what", what, "--seed", "11", *words)
    assert "LOST" not in table
    assert "| 0 |" in table


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_damaged_files_are_refused_or_whole(half: int, tmp_path: Path) -> None:
    table = campaign(
        "fault_mutations", tmp_path / "mutations.md", "--mutations", "36", "--seed", str(21 + half)
    )
    assert "FAULT" not in table
    assert "refused by all" in table


@pytest.mark.slow
def test_a_fault_is_seen(tmp_path: Path) -> None:
    """A loader that lets a damaged file through to a traceback makes the campaign fail."""
    script = ROOT / "benchmarks" / "fault_mutations.py"
    broken = (
        "import sys, runpy; sys.path.insert(0, {benchmarks!r}); import gradmod.experiments.datasets.av_mnist as m;"
        "m.load = lambda *a, **k: 1 / 0; sys.argv = {arguments!r}; runpy.run_path({script!r}, run_name='__main__')"
    ).format(
        benchmarks=str(ROOT / "benchmarks"),
        script=str(script),
        arguments=[
            str(script),
            "--formats",
            "av-mnist",
            "--mutations",
            "2",
            "--out",
            str(tmp_path / "m.md"),
        ],
    )
    done = subprocess.run(
        [sys.executable, "-c", broken], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1
    assert "FAULT: traceback" in (tmp_path / "m.md").read_text()
