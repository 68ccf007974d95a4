"""A small AVE in the original layout (HDF5), for tests of what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np


def ave_arrays(samples: int = 40, seed: int = 0) -> dict[str, tuple[str, np.ndarray[Any, Any]]]:
    """File name to key and array: each video has an event of one class on some segments, background (28) else."""
    rng = np.random.default_rng(seed)
    labels = np.full((samples, 10), 28)
    for video in range(samples):
        start, length = rng.integers(0, 5), rng.integers(2, 6)
        labels[video, start : start + length] = video % 4
    audio = rng.normal(0, 0.1, (samples, 10, 128)).astype(np.float32)
    visual = rng.normal(0, 0.1, (samples, 10, 7, 7, 512)).astype(np.float32)
    audio[..., :29] += np.eye(29, dtype=np.float32)[labels]
    visual[..., :29] += np.eye(29, dtype=np.float32)[labels][:, :, None, None]
    order = rng.permutation(samples)
    val, test = samples // 5, samples // 5
    return {
        "audio_feature.h5": ("avadataset", audio),
        "visual_feature.h5": ("avadataset", visual),
        "right_labels.h5": ("avadataset", np.eye(29)[labels]),
        "val_order.h5": ("order", order[:val]),
        "test_order.h5": ("order", order[val : val + test]),
        "train_order.h5": ("order", order[val + test :]),
    }


def write_ave(root: Path, arrays: dict[str, tuple[str, np.ndarray[Any, Any]]]) -> Path:
    """Write them under `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, (key, array) in arrays.items():
        with h5py.File(root / name, "w") as file:
            file[key] = array
    return root
