"""Two gloo processes against one on the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from gradmod.training.checkpoints import read_checkpoint
from runs import log_lines

CLI = "import sys; from gradmod.cli import main; sys.exit(main(sys.argv[1:]))"


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """21 steps of AGM without batch norm: the same coefficients, parameters and evaluation."""
    script = tmp_path / "gradmod_main.py"
    script.write_text(CLI)
    flags = [
        "--encoder",
        "mlp",
        "--width",
        "16",
        "--batch-size",
        "160",
        "--epochs",
        "3",
        "--log-every",
        "1",
        "--device",
        "cpu",
        "--lr",
        "0.05",
    ]
    for name, more in (("one", []), ("two", ["--devices", "2", "--strategy", "ddp"])):
        command = [sys.executable, str(script), "train", *flags, "--out", str(tmp_path), "--name", name, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder") == 1
    one, two = (read_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "two"))
    assert one["step"] == two["step"] >= 20
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=0, atol=1e-6)
    ours, theirs = (log_lines(tmp_path / name) for name in ("one", "two"))
    assert ours[0]["processes"] == 1
    assert theirs[0]["processes"] == 2
    steps = [[line["coefficients"] for line in lines if line["kind"] == "step"] for lines in (ours, theirs)]
    for a, b in zip(*steps, strict=True):
        torch.testing.assert_close(torch.tensor(list(a.values())), torch.tensor(list(b.values())), rtol=1e-6, atol=1e-6)
    accuracies = [
        [line["validation"]["accuracy"] for line in lines if line["kind"] == "epoch"] for lines in (ours, theirs)
    ]
    assert accuracies[0] == accuracies[1]
