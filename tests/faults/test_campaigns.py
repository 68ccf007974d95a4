"""The campaigns of benchmarks/fault_*.py, with small counts: nothing is lost, nothing ends in a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from conftest import ROOT
from processes import run_script

FORMATS = (
    "av-mnist,crema-d,ur-funny,crema-d prepared,ur-funny prepared,sources of av-mnist",
    "ave,mosei,mosei prepared,run,config,comparison",
)


def campaign(script: str, out: Path, *words: str) -> str:
    done = run_script(ROOT / "benchmarks" / f"{script}.py", "--out", str(out), *words)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("train", ("--kills", "8", "--epochs", "8")),
        ("events", ("--events", "14")),
        ("compare", ("--kills", "10")),
        ("prepare", ("--kills", "30")),
    ],
)
def test_nothing_is_lost_by_a_kill(what: str, words: tuple[str, ...], tmp_path: Path) -> None:
    table = campaign("fault_kills", tmp_path / "kills.md", "--what", what, "--seed", "11", *words)
    assert "LOST" not in table
    assert "| 0 |" in table


@pytest.mark.slow
@pytest.mark.parametrize("formats", FORMATS, ids=[0, 1])
def test_damaged_files_are_refused_or_whole(formats: str, tmp_path: Path) -> None:
    words = ["--mutations", "24", "--seed", "21", "--formats", formats]
    table = campaign("fault_mutations", tmp_path / "mutations.md", *words)
    assert all(f"| {name} | 4 |" in table for name in formats.split(","))
    assert "FAULT" not in table
    assert "refused by all" in table


def test_no_format_is_left_out() -> None:
    source = (ROOT / "benchmarks" / "fault_mutations.py").read_text(encoding="utf-8")
    names = re.findall(r'^        "([^"]+)": (?:of_dataset|Format)\(', source, re.M)
    assert sorted(names) == sorted(",".join(FORMATS).split(","))


@pytest.mark.slow
def test_a_fault_is_seen(tmp_path: Path) -> None:
    """A loader that lets a damaged file through to a traceback makes the campaign fail."""
    out = tmp_path / "m.md"
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(benchmarks=str(ROOT / "benchmarks")))
    done = run_script(script, "--formats", "av-mnist", "--mutations", "2", "--out", str(out))
    assert done.returncode == 1, done.stderr
    assert "FAULT: traceback" in out.read_text()


BROKEN = """
import runpy, sys

sys.path.insert(0, {benchmarks!r})
import gradmod.experiments.datasets.av_mnist as av_mnist

av_mnist.load = lambda *a, **k: 1 / 0
runpy.run_path({benchmarks!r} + "/fault_mutations.py", run_name="__main__")
"""
