"""Small data sets of arrays in one .npz file, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
USERS = 10


def npz_arrays(train: int = 60, test: int = 21, validation: int = 0) -> Arrays:
    """Three classes; `motion` [4] floats, `steps` [3, 5] integers, `image` [8, 8] bytes; users apart from test's."""
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    parts = {"train": train, "test": test, "validation": validation}
    for number, (part, count) in enumerate((p, n) for p, n in parts.items() if n):
        y = np.arange(count) % 3
        arrays[f"motion_{part}"] = (5 + 3 * rng.normal(size=(count, 4)) + y[:, None]).astype(
            np.float32
        )
        arrays[f"steps_{part}"] = rng.integers(-100, 100, (count, 3, 5)) + 40 * y[:, None, None]
        arrays[f"image_{part}"] = rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)
        arrays[f"y_{part}"] = y
        arrays[f"user_{part}"] = USERS * number + np.arange(count) // 3 % USERS
    return arrays


def write_npz(path: Path, arrays: Arrays, compressed: bool = False) -> str:
    """Write the file; its path."""
    save: Any = np.savez_compressed if compressed else np.savez
    save(path, **arrays)
    return str(path)
