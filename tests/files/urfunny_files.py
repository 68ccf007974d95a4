"""A small UR-Funny in the original format, for tests of what reads it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"vision": 371, "audio": 81, "text": 300}


def urfunny_content(
    train: int = 40, valid: int = 12, test: int = 12, steps: int = 9, seed: int = 0
) -> dict[str, Any]:
    """Samples right-aligned in `steps` rows; words begin one row or more after the first, the sound holds a -inf."""
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {}
    for part, count in (("train", train), ("valid", valid), ("test", test)):
        labels = np.arange(count) % 2
        arrays = {
            key: np.zeros((count, steps, size), dtype=np.float32) for key, size in SIZES.items()
        }
        for sample in range(count):
            begin = int(rng.integers(1, steps - 1))
            for key, array in arrays.items():
                start = begin if key == "text" else max(begin - 1, 0)
                array[sample, start:] = rng.normal(
                    labels[sample] - 0.5, 1, array[sample, start:].shape
                )
        arrays["audio"][0, -1, 3] = -np.inf
        content[part] = arrays | {
            "labels": labels[:, None].astype(np.float64),
            "id": list(range(count)),
        }
    return content


def write_urfunny(path: Path, content: dict[str, Any]) -> Path:
    """Write it as one pickle."""
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path
