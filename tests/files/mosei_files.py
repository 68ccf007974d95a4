"""A small CMU-MOSEI in the original format, for tests of what reads it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

WORDS = (
    "It's",
    "a",
    "good",
    "film,",
    "well-made",
    "(really)",
    "bad",
    "and/or",
    "dull",
    "THE",
    "story",
)


def mosei_files(train: int = 24, valid: int = 8, test: int = 8, seed: int = 0) -> dict[str, Any]:
    """File name to content: good and bad words, and louder or softer sound, go with the sentiment."""
    rng = np.random.default_rng(seed)
    files: dict[str, Any] = {}
    for part, count in (("train", train), ("valid", valid), ("test", test)):
        keys = [f"{part}{number}[0]" for number in range(count)]
        sentiments = [(-2.5, -1.5, -0.5, 0.0, 0.5, 1.5, 2.5)[number % 7] for number in range(count)]
        files[f"{part}_sentences.p"] = {
            key: [*rng.choice(WORDS, rng.integers(0, 6)), "good" if s >= 0 else "bad"]
            for key, s in zip(keys, sentiments, strict=True)
        }
        files[f"{part}_mels.p"] = {
            key: rng.normal(s, 1, (rng.integers(1, 80), 80)).astype(np.float32)
            for key, s in zip(keys, sentiments, strict=True)
        }
        files[f"{part}_r21d.p"] = {key: rng.normal(0, 1, (rng.integers(1, 9), 512)) for key in keys}
        files[f"{part}_sentiment.p"] = dict(zip(keys, sentiments, strict=True))
        files[f"{part}_emotion.p"] = {key: np.maximum(rng.normal(0, 1, 6), 0) for key in keys}
    return files


def write_mosei(root: Path, files: dict[str, Any]) -> Path:
    """Write them under `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_bytes(pickle.dumps(content))
    return root
