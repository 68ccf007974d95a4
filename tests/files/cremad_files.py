"""A small CREMA-D in the original layout: real file naming, wav and jpg, for tests of what reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")


def write_cremad(
    root: Path, train: int = 24, test: int = 12, actors: int = 6, seed: int = 0
) -> Path:
    """Clips of 1.2 to 2.5 s at 16 kHz with two or three frames; each class has its own pitch and colour."""
    rng = np.random.default_rng(seed)
    (root / "CREMAD").mkdir(parents=True)
    (root / "Audio").mkdir()
    number = 0
    for split, count in (("train", train), ("test", test)):
        lines = []
        for position in range(count):
            label = position % 6
            name = f"{1001 + number % actors}_I{chr(65 + number // 26)}{chr(65 + number % 26)}_{CODES[label]}_XX"
            number += 1
            lines.append(f"{name},{CODES[label]}")
            seconds = rng.uniform(1.2, 2.5)
            time = np.arange(int(16000 * seconds)) / 16000
            wave = 0.3 * np.sin(2 * np.pi * 300 * (1 + label) * time) + rng.normal(
                0, 0.01, len(time)
            )
            soundfile.write(root / "Audio" / f"{name}.wav", wave, 16000, subtype="PCM_16")
            folder = root / "Image-01-FPS" / name
            folder.mkdir(parents=True)
            for frame in range(2 + position % 2):
                pixels = rng.integers(0, 60, (36, 48, 3), dtype=np.uint8)
                pixels[..., label % 3] += np.uint8(60 * (1 + label // 3))
                Image.fromarray(pixels).save(folder / f"{frame:05d}.jpg", quality=95)
        (root / "CREMAD" / f"{split}.csv").write_text(
            "\ufeff" + "\n".join(lines) + "\n", encoding="utf-8"
        )
    return root
