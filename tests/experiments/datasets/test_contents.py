"""The hash of a data set sees whatever a run sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cremad_files import write_cremad

from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.training.parts import read_data
from gradmod.tasks import Regression
from runs import short

SAMPLES = 200


def made(change: Any = None, **more: Any) -> Splits:
    rng = np.random.default_rng(0)
    arrays = {
        "audio": rng.random((SAMPLES, 3), dtype=np.float32),
        "visual": rng.random((SAMPLES, 1, 2, 2), dtype=np.float32),
        "targets": rng.integers(0, 3, SAMPLES),
    }
    if change is not None:
        change(arrays)
    targets = arrays.pop("targets")
    whole = Split({m: ArraySource(array, array.shape[1:]) for m, array in arrays.items()}, targets)
    parts = np.split(np.arange(SAMPLES), [120, 150, 180])
    return Splits(*(whole.subset(part) for part in parts), **more)


@pytest.mark.parametrize("sample", range(0, SAMPLES, 13))
@pytest.mark.parametrize("name", ["audio", "visual", "targets"])
def test_any_one_sample_makes_a_difference(name: str, sample: int) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name].reshape(SAMPLES, -1)[sample, -1] += 1

    assert made(change).content_hash != made().content_hash


def test_equal_data_are_equal() -> None:
    assert made().content_hash == made().content_hash == made(notes=("other words",)).content_hash


def test_what_else_makes_a_difference() -> None:
    def swap(arrays: dict[str, Any]) -> None:
        arrays["audio"][[0, 1]] = arrays["audio"][[1, 0]]

    def rename(arrays: dict[str, Any]) -> None:
        arrays["sound"] = arrays.pop("audio")

    def exchange(arrays: dict[str, Any]) -> None:
        arrays["audio"], arrays["visual"] = arrays["visual"], arrays["audio"]

    def reshape(arrays: dict[str, Any]) -> None:
        arrays["visual"] = arrays["visual"].reshape(SAMPLES, 4)

    plain = made()
    others = [
        *(made(change) for change in (swap, rename, exchange, reshape)),
        made(outputs=7),
        made(task=Regression()),
        made(network={"vocabulary": 3}),
        made(network={"table": np.zeros(3)}),
        made(network={"table": np.ones(3)}),
        replace(plain, train=plain.train.subset(np.arange(119))),
        replace(plain, train=plain.train.subset(np.arange(120)[::-1])),
        replace(plain, train=plain.train.subset(np.arange(120), augmented=True)),
        replace(plain, validation=plain.train, train=plain.validation),
        replace(plain, test=None),
    ]
    hashes = {data.content_hash for data in (plain, *others)}
    assert len(hashes) == 1 + len(others)


def test_frames_that_are_not_looked_at_today_make_a_difference(tmp_path: Path) -> None:
    """An augmentation reads other frames, and other parts of them, than evaluation does."""
    root = write_cremad(tmp_path / "data")

    def read() -> str:
        return read_data(short(tmp_path, dataset="crema-d", root=str(root))).content_hash

    before = read()
    assert read() == before
    frames = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".png"))
    by_clip: dict[Path, list[Path]] = {}
    for path in frames:
        by_clip.setdefault(path.parent, []).append(path)
    last = max(by_clip.values(), key=len)[-1]
    from PIL import Image

    with Image.open(last) as image:
        changed = Image.fromarray(255 - np.asarray(image.convert("RGB")))
    changed.save(last)
    assert read() != before
