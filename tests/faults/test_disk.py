"""A full disk and a read-only folder: one clear line, nothing lost, and it goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cremad_files import write_cremad

from gradmod.experiments.runs.checkpoints import read_checkpoint
from processes import run_gradmod
from runs import log_lines

pytestmark = pytest.mark.slow
FLAGS = [
    "--encoder",
    "mlp",
    "--width",
    "16",
    "--epochs",
    "4",
    "--save-every",
    "3",
    "--log-every",
    "1",
    "--device",
    "cpu",
]
SIZE = 6 << 20


def mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(
            f"a small file system cannot be mounted here ({done.stderr.strip()}); it needs root on Linux"
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix":
        pytest.skip("mounting a small file system needs Linux")
    mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Take all the room but `leave` bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(bytes(max(0, free - leave)))
    return filler


def refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert errors, done.stderr
    assert reason in errors[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with room enough."""
    out = tmp_path_factory.mktemp("whole")
    done = run_gradmod("train", *FLAGS, "--out", str(out), "--name", "run")
    assert done.returncode == 0, done.stderr
    return out / "run"


@pytest.mark.parametrize("leave", [0, 12 << 10, 200 << 10, 420 << 10, 700 << 10])
def test_training_on_a_disk_that_fills_up(leave: int, disk: Path, whole: Path) -> None:
    filler = fill(disk, leave)
    run = disk / "run"
    refused(
        run_gradmod("train", *FLAGS, "--out", str(disk), "--name", "run"), "No space left on device"
    )
    for checkpoint in run.glob("checkpoints/*.pt"):
        read_checkpoint(checkpoint)
    if run.exists():
        refused(run_gradmod("resume", str(run)), "No space left on device")
        filler.unlink()
        done = run_gradmod("resume", str(run))
    else:
        filler.unlink()
        done = run_gradmod("train", *FLAGS, "--out", str(disk), "--name", "run")
    assert done.returncode == 0, done.stderr
    for name in ("last", "best"):
        ours, expected = (
            read_checkpoint(r / "checkpoints" / f"{name}.pt")["model"] for r in (run, whole)
        )
        assert all(torch.equal(ours[key], value) for key, value in expected.items())
    assert log_lines(run) == log_lines(whole)


def test_looking_at_a_run_on_a_full_disk(disk: Path, whole: Path) -> None:
    run = disk / "run"
    shutil.copytree(whole, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    filler = fill(disk, 0)
    for words in (
        ["report", str(run)],
        ["attribute", str(run), "--replicates", "10"],
        ["competition", str(run)],
    ):
        refused(run_gradmod(*words), "No space left on device")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    filler.unlink()
    assert run_gradmod("report", str(run)).returncode == 0


def test_comparing_and_preparing_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    source = write_cremad(tmp_path / "source")
    filler = fill(disk, 300 << 10)
    prepare = ["prepare", "crema-d", "--root", str(source), "--out", str(disk / "fast")]
    refused(run_gradmod(*prepare), "No space left on device")
    assert [path.name for path in disk.iterdir()] == ["filler"]
    compare = [
        "compare",
        "--methods",
        "agm",
        "--seeds",
        "0",
        "--mono",
        "False",
        *FLAGS,
        "--out",
        str(disk),
    ]
    refused(run_gradmod(*compare, "--name", "c"), "No space left on device")
    filler.unlink()
    done = run_gradmod(*compare, "--name", "c")
    assert done.returncode == 0, done.stderr
    assert (disk / "c" / "table.md").is_file()
    shutil.rmtree(disk / "c")


def test_a_read_only_folder(disk: Path, whole: Path, tmp_path: Path) -> None:
    run = disk / "run"
    shutil.copytree(whole, run)
    (run / "result.json").unlink()
    source = write_cremad(tmp_path / "source")
    mount("-o", "remount,ro", str(disk))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for words in (
        ["train", *FLAGS, "--out", str(disk), "--name", "other"],
        ["resume", str(run), "--epochs", "5"],
        ["attribute", str(run), "--replicates", "10"],
        ["competition", str(run)],
        ["compare", "--methods", "agm", "--seeds", "0", *FLAGS, "--out", str(disk), "--name", "c"],
        ["prepare", "crema-d", "--root", str(source), "--out", str(disk / "fast")],
    ):
        refused(run_gradmod(*words), "Read-only file system")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
