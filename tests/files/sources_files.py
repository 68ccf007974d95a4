"""A little of everything that AV-MNIST is made of: IDX images, recordings of digits, noises."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import soundfile


def write_sources(folder: Path) -> Path:
    """80 + 40 images, 3 speakers x 7 recordings a digit, 5 noises."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("mnist", "speech", "noise"):
        (folder / name).mkdir()
    for prefix, count in (("train", 80), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        pixels[np.arange(count), 2 * labels] += 150
        for stem, array in (
            (f"{prefix}-images-idx3-ubyte", pixels),
            (f"{prefix}-labels-idx1-ubyte", labels),
        ):
            header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / "mnist" / f"{stem}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    for digit in range(10):
        for speaker in ("ann", "bob", "cem"):
            for index in range(7):
                time = np.arange(int(rng.integers(2000, 9000))) / 8000
                wave = 0.5 * np.sin(2 * np.pi * (300 + 150 * digit) * time)
                soundfile.write(folder / "speech" / f"{digit}_{speaker}_{index}.wav", wave, 8000)
    for number in range(5):
        wave = np.concatenate([rng.normal(0, 0.1, 12000), np.zeros(20000)])  # padded with silence
        soundfile.write(folder / "noise" / f"{number}.ogg", wave, 16000)
    return folder
