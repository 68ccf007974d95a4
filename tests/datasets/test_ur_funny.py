"""UR-Funny from its pickle: alignment, padding, splits, and what can be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradmod import cli
from gradmod.datasets.load import load_dataset
from gradmod.errors import DataError
from urfunny_files import SIZES, urfunny_content, write_urfunny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_urfunny(tmp_path_factory.mktemp("urfunny") / "humor.pkl", urfunny_content())


def test_splits_of_both_protocols(path: Path) -> None:
    held = load_dataset("ur-funny", str(path), "heldout")
    assert {name: len(split) for name, split in held.items()} == {
        "train": 36,
        "validation": 12,
        "test": 12,
        "predictor": 4,
    }
    assert not set(held.train.rows) & set(held.predictor.rows if held.predictor is not None else ())
    published = load_dataset("ur-funny", str(path), "published")
    assert {name: len(split) for name, split in published.items()} == {"train": 40, "validation": 12, "predictor": 12}


@pytest.mark.parametrize("aligned", [True, False])
def test_batches_are_padded_to_the_longest(path: Path, aligned: bool) -> None:
    content = urfunny_content()["valid"]
    splits = load_dataset("ur-funny", str(path), "heldout", 0, {} if aligned else {"aligned": False})
    chosen = [3, 0, 7]
    inputs, target = splits.validation.read(chosen)
    assert target.tolist() == [1, 0, 1]
    for modality, key in (("visual", "vision"), ("audio", "audio"), ("text", "text")):
        x, mask = inputs[modality]["x"], inputs[modality]["mask"]
        assert x.shape == (3, mask.shape[1], SIZES[key])
        assert mask.sum(1).max() == mask.shape[1]
        for row, sample in enumerate(chosen):
            first = np.flatnonzero(content["text" if aligned else key][sample].any(1))[0]
            expected = content[key][sample, first:].copy()
            expected[np.isneginf(expected)] = 0
            assert mask[row].sum() == len(expected)
            np.testing.assert_array_equal(x[row, : len(expected)].numpy(), expected)
            assert not x[row, len(expected) :].any()


def test_samples_without_text_are_dropped_and_labels_are_thresholded(tmp_path: Path) -> None:
    content = urfunny_content()
    content["train"]["text"][[2, 5]] = 0
    content["valid"]["labels"] = (content["valid"]["labels"] * 3 - 1)[:, :, None]
    splits = load_dataset("ur-funny", str(write_urfunny(tmp_path / "x.pkl", content)), "published")
    assert len(splits.train) == 38
    assert splits.validation.targets.tolist() == [0, 1] * 6


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/gradmod-was-here",)


def changed(part: str, key: str, how: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[part][key] = how(content[part][key])

    return change


def with_nan(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array[4, -1, 0] = np.nan
    return array


DAMAGE = {
    "no part": (lambda c: c.pop("valid"), r"x\.pkl holds \['test', 'train'\]; expected a dict with train, valid, test"),
    "no key": (lambda c: c["train"].pop("audio"), r"train lacks some of vision, audio, text, labels"),
    "counts": (changed("test", "vision", lambda a: a[1:]), r"test has .*'visual': 11|'vision': 11.*expected the same"),
    "axes": (changed("train", "text", lambda a: a[:, 0]), r"train/text has shape \[40, 300\]"),
    "objects": (changed("train", "text", lambda a: a.astype(object)), r"train/text has shape .*dtype object"),
    "nan": (changed("train", "vision", with_nan), r"train/vision: sample 4 holds values that are not finite"),
    "steps": (changed("valid", "audio", lambda a: a[:, 1:]), r"audio has samples of the shapes"),
    "labels": (changed("train", "labels", lambda a: np.repeat(a, 2, 1)), r"train/labels has shape \[40, 2\]"),
    "nan labels": (changed("train", "labels", lambda a: a * np.nan), r"train/labels has shape"),
    "no text": (changed("test", "text", lambda a: a * 0), r"test holds no sample with text"),
    "code": (lambda c: c["train"].update(id=[Exploit()]), r"asks for (posix|nt)\.system.*refused"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    content = urfunny_content()
    damage, message = DAMAGE[kind]
    damage(content)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        load_dataset("ur-funny", str(write_urfunny(tmp_path / "x.pkl", content)), "heldout")
    assert not Path("/tmp/gradmod-was-here").exists()


def test_missing_and_truncated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"UR-Funny: data\.root is empty. Looked for <root>"):
        load_dataset("ur-funny", "", "heldout")
    path = write_urfunny(tmp_path / "x.pkl", urfunny_content())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"x\.pkl cannot be read: truncated"):
        load_dataset("ur-funny", str(path), "heldout")


@pytest.mark.parametrize("fusion", ["late", "early"])
@pytest.mark.parametrize("modality", ["multimodal", "text"])
def test_it_trains(fusion: str, modality: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--dataset", "ur-funny", "--root", str(path), "--fusion", fusion, "--modality", modality]
    words += ["--width", "8", "--layers", "1", "--epochs", "1", "--batch-size", "12", "--device", "cpu", "--name", "r"]
    assert cli.main(words) == 0
    assert (tmp_path / "runs" / "r" / "result.json").is_file()


def test_targets_are_int64_and_inputs_float32(path: Path) -> None:
    inputs, target = load_dataset("ur-funny", str(path), "heldout").train.read([0])
    assert target.dtype == torch.int64
    assert inputs["text"]["x"].dtype == torch.float32
    assert inputs["text"]["mask"].dtype == torch.bool
