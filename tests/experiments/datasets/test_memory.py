"""The full-size AV-MNIST stays on disk while it is trained on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

LIMIT_BYTES = 1.5e9


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="the process' own memory is read from Linux' /proc",
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_training_on_the_full_size_keeps_its_memory_small(dtype: type, tmp_path: Path) -> None:
    root = tmp_path / "avmnist"
    rng = np.random.default_rng(0)
    for split, count in (("train", 60_000), ("test", 10_000)):
        for kind, shape in (("image", (784,)), ("audio", (112, 112))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            path = root / kind / f"{split}_data.npy"
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(count, *shape))
            for start in range(0, count, 5000):
                array[start : start + 5000] = rng.integers(0, 256, (1, *shape))
            del array
        np.save(root / f"{split}_labels.npy", np.arange(count) % 10)
    flags = [
        "--dataset",
        "av-mnist",
        "--root",
        str(root),
        "--encoder",
        "small-cnn",
        "--width",
        "4",
        "--epochs",
        "1",
    ]
    flags += ["--batch-size", "256", "--device", "cpu", "--out", str(tmp_path), "--name", "run"]
    with subprocess.Popen([sys.executable, "-m", "gradmod", "train", *flags]) as process:
        largest = 0
        while process.poll() is None:
            largest = max(largest, anonymous_bytes(process.pid))
            time.sleep(0.02)
    for path in root.rglob("*.npy"):
        path.unlink()
    assert process.returncode == 0
    assert 1e8 < largest < LIMIT_BYTES, f"{largest / 1e9:.2f} GB of anonymous memory"


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process: what it holds itself, without pages of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
