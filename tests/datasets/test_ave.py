"""AVE from its HDF5 files: splits, values, and what can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ave_files import ave_arrays, write_ave
from gradmod import cli
from gradmod.datasets.load import load_dataset
from gradmod.errors import DataError

Files = dict[str, tuple[str, np.ndarray[Any, Any]]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ave(tmp_path_factory.mktemp("ave"), ave_arrays())


def test_splits_and_values(root: Path) -> None:
    arrays = ave_arrays()
    splits = load_dataset("ave", str(root), "heldout")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 22,
        "validation": 8,
        "test": 8,
        "predictor": 2,
    }
    assert sorted(np.concatenate([split.rows for _, split in splits.items()])) == list(range(40))
    inputs, target = splits.validation.read([3, 1])
    rows = arrays["val_order.h5"][1][[3, 1]]
    for name in ("audio", "visual"):
        np.testing.assert_array_equal(inputs[name].numpy(), arrays[f"{name}_feature.h5"][1][rows])
    expected = arrays["right_labels.h5"][1][rows].argmax(2)
    np.testing.assert_array_equal(target.numpy(), expected)
    np.testing.assert_array_equal(inputs["event"].numpy(), expected != 28)
    published = load_dataset("ave", str(root), "published")
    assert {name: len(split) for name, split in published.items()} == {"train": 24, "validation": 8}


def changed(name: str, how: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        key, array = files[name]
        files[name] = key, how(array.copy())

    return change


def put(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def how(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array[3].flat[7] = value
        return array

    return how


def everywhere_nan(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array * np.nan


DAMAGE = {
    "missing": (lambda f: f.pop("visual_feature.h5"), r"visual_feature\.h5 is missing"),
    "no order": (lambda f: f.pop("val_order.h5"), r"val_order\.h5 is missing"),
    "key": (lambda f: f.update({"audio_feature.h5": ("x", np.zeros(3))}), r"audio_feature\.h5 lacks the array 'avad"),
    "shape": (
        changed("visual_feature.h5", lambda a: a[:, :, 0]),
        r"visual_feature\.h5: .* expected \[N, 10, 7, 7, 512\]",
    ),
    "counts": (changed("audio_feature.h5", lambda a: a[1:]), r"holds .*'audio': 19.* expected the same number"),
    "empty": (changed("audio_feature.h5", lambda a: a[:0]), r"audio_feature\.h5: avadataset is empty"),
    "text": (
        changed("train_order.h5", lambda a: a.astype("S3")),
        r"train_order\.h5: order holds .*S3; expected an arr",
    ),
    "nan audio": (
        changed("audio_feature.h5", put(np.nan)),
        r"audio_feature\.h5: sample 3 holds values that are not fin",
    ),
    "nan visual": (
        changed("visual_feature.h5", everywhere_nan),
        r"visual_feature\.h5: sample \d+ holds values that are",
    ),
    "two labels": (changed("right_labels.h5", put(1)), r"right_labels\.h5: sample 3 is not one-hot"),
    "half label": (changed("right_labels.h5", put(0.5)), r"right_labels\.h5: sample 3 is not one-hot"),
    "range": (
        changed("test_order.h5", lambda a: a + 40),
        r"test_order\.h5 holds \d+ to \d+; expected whole numbers 0 to",
    ),
    "floats": (changed("test_order.h5", lambda a: a * 1.0), r"test_order\.h5 holds .*; expected whole numbers"),
    "twice": (changed("train_order.h5", lambda a: np.repeat(a, 2)), r"train_order\.h5: sample \d+ is in train already"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    files = ave_arrays(20)
    damage, message = DAMAGE[kind]
    damage(files)  # type: ignore[operator]
    write_ave(tmp_path, files)
    with pytest.raises(DataError, match=message):
        load_dataset("ave", str(tmp_path), "heldout").train.read([0])


@pytest.mark.parametrize("keep", [0, 50, 5000, -1000])
def test_truncated_files_are_named(keep: int, tmp_path: Path) -> None:
    write_ave(tmp_path, ave_arrays(10))
    path = tmp_path / "visual_feature.h5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"visual_feature\.h5 cannot be read: truncated"):
        load_dataset("ave", str(tmp_path), "heldout").train.read(range(6))


@pytest.mark.parametrize("modality", [pytest.param("multimodal", marks=pytest.mark.slow), "audio"])
def test_it_trains_with_workers_as_without(
    modality: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--dataset", "ave", "--root", str(root), "--modality", modality, "--width", "8", "--epochs", "2"]
    words += ["--batch-size", "8", "--device", "cpu", "--fusion", "early", "--log-every", "1"]
    results = []
    for workers in ("0", "1"):
        assert cli.main([*words, "--workers", workers, "--name", f"w{workers}"]) == 0
        results.append(json.loads((tmp_path / "runs" / f"w{workers}" / "result.json").read_text()))
    assert results[0]["splits"] == results[1]["splits"]
    assert results[0]["strategy"] == "batched"
    assert sum(results[0]["class_counts"]["train"].values()) == 220  # segments
    assert "AVE has one network of its own; --fusion and --encoder make no difference" in capsys.readouterr().err


def test_targets_are_per_segment(root: Path) -> None:
    _, target = load_dataset("ave", str(root), "heldout").train.read([0, 1])
    assert target.shape == (2, 10)
    assert target.dtype == torch.int64
