"""A small AV-MNIST in the original layout, made of random values, for tests of what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def avmnist_arrays(
    train: int = 40, test: int = 20, dtype: npt.DTypeLike = np.uint8, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Its arrays by path, without the folder; each class is there, and each image and sound tells its class."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 10
        image, audio = rng.integers(0, 200, (count, 784)), rng.integers(0, 200, (count, 112, 112))
        image[np.arange(count), 30 * labels] = 255
        audio[np.arange(count), 10 * labels] = 255
        arrays[f"image/{split}_data.npy"] = image.astype(dtype)
        arrays[f"audio/{split}_data.npy"] = audio.astype(dtype)
        arrays[f"{split}_labels.npy"] = labels.astype(np.int64)
    return arrays


def write_avmnist(root: Path, arrays: dict[str, npt.NDArray[Any]]) -> Path:
    """Write them under `root`."""
    for name, array in arrays.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / name, array)
    return root
