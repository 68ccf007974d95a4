"""UR-Funny from its pickle: alignment, padding, splits, and what can be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from urfunny_files import SIZES, urfunny_content, write_urfunny

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.ur_funny import prepare
from gradmod.experiments.errors import DataError


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
    assert {name: len(split) for name, split in published.items()} == {
        "train": 40,
        "validation": 12,
        "predictor": 12,
    }


@pytest.mark.parametrize("aligned", [True, False])
def test_batches_are_padded_to_the_longest(path: Path, aligned: bool) -> None:
    content = urfunny_content()["valid"]
    splits = load_dataset(
        "ur-funny", str(path), "heldout", 0, {} if aligned else {"aligned": False}
    )
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


def test_samples_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    content = urfunny_content()
    content["train"]["text"][[2, 5]] = 0
    content["valid"]["labels"] = content["valid"]["labels"][:, :, None]
    path = write_urfunny(tmp_path / "x.pkl", content)
    prepare(path, tmp_path / "fast")
    for root in (path, tmp_path / "fast"):
        splits = load_dataset("ur-funny", str(root), "published")
        assert len(splits.train) == 38
        assert splits.validation.targets.tolist() == [0, 1] * 6
        assert splits.notes == ("2 samples left out, whose text is all zeros",)


LABELS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "-1 and 1": lambda labels: labels * 2 - 1,
    "whole numbers": lambda labels: labels.astype(int),
    "bool": lambda labels: labels.astype(bool),
    "[N]": lambda labels: labels[:, 0],
    "[N, 1, 1]": lambda labels: labels[:, :, None],
    "float32": lambda labels: labels.astype(np.float32),
    "list": lambda labels: labels.tolist(),
}


@pytest.mark.parametrize("form", LABELS)
def test_forms_of_the_labels(form: str, tmp_path: Path) -> None:
    content = urfunny_content()
    for part in content.values():
        part["labels"] = LABELS[form](part["labels"])
    splits = load_dataset("ur-funny", str(write_urfunny(tmp_path / "x.pkl", content)), "published")
    assert splits.train.targets.tolist() == [0, 1] * 20
    assert splits.validation.targets.tolist() == [0, 1] * 6
    assert splits.notes == (("labels -1 and 1 are read as 0 and 1",) if form == "-1 and 1" else ())


def of_mosi(labels: str) -> dict[str, Any]:
    """MultiBench's mosi_data.pkl, which has the form of humor.pkl."""
    rng = np.random.default_rng(0)
    return {
        part: {
            "vision": rng.normal(size=(n, 8, 35)).astype("f4"),
            "audio": rng.normal(size=(n, 8, 74)).astype("f4"),
            "text": rng.normal(size=(n, 8, 300)).astype("f4"),
            "labels": rng.uniform(-3, 3, (n, 1, 1))
            if labels == "sentiments"
            else np.arange(n).reshape(n, 1, 1) % 2,
        }
        for part, n in (("train", 40), ("valid", 10), ("test", 10))
    }


@pytest.mark.parametrize("labels", ["sentiments", "classes"])
def test_mosi_is_not_ur_funny(labels: str, tmp_path: Path) -> None:
    path = write_urfunny(tmp_path / "mosi_data.pkl", of_mosi(labels))
    facts = inspect("ur-funny", str(path))
    assert facts.problems == [
        f"{path}: train has vision 35, audio 74, text 300 features; those of UR-Funny are vision 371, audio 81, text "
        "300. Is it another data set of this form (MOSI, MOSEI)? Features of your own are read by a function of your "
        "own: --dataset FILE.py:FUNCTION"
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            lambda n: np.random.default_rng(0).uniform(-3, 3, n),
            r"the labels are 60 numbers from -2\.\d+ to 2\.\d+",
        ),
        (
            lambda n: np.random.default_rng(0).uniform(-3, 3, n).round(),
            r"the labels are 7 numbers from -3 to 3",
        ),
        (
            lambda n: np.arange(n) % 3,
            r"the labels are 3 numbers from 0 to 2 \(0, 1, 2\); expected 0 and 1, or -1 and 1",
        ),
        (
            lambda n: np.arange(n) % 3 - 1,
            r"the labels are 3 numbers from -1 to 1 \(-1, 0, 1\); expected",
        ),
        (lambda n: np.arange(n) % 2 + 1, r"the labels are 2 numbers from 1 to 2"),
        (lambda n: np.arange(n) % 2 * 0.5, r"the labels are 2 numbers from 0 to 0\.5"),
        (np.ones, r"all 40 samples of train have one label; expected two"),
        (np.zeros, r"all 40 samples of train have one label; expected two"),
    ],
)
def test_labels_of_something_else_are_refused(
    labels: Callable[[int], Any], message: str, tmp_path: Path
) -> None:
    content = urfunny_content(40, 10, 10)
    values = labels(60)
    for part, place in (("train", slice(40)), ("valid", slice(40, 50)), ("test", slice(50, 60))):
        content[part]["labels"] = values[place, None]
    path = write_urfunny(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=message):
        load_dataset("ur-funny", str(path), "heldout")
    assert inspect("ur-funny", str(path)).problems


def test_as_many_samples_as_mustard_has_is_said(tmp_path: Path) -> None:
    """MultiBench's sarcasm.pkl has the sizes and labels of humor.pkl."""
    path = write_urfunny(tmp_path / "sarcasm.pkl", urfunny_content(414, 138, 138, steps=3))
    assert (
        "690 samples: as many as MUStARD has"
        in load_dataset("ur-funny", str(path), "heldout").notes[0]
    )


@pytest.mark.parametrize("kind", ["f2", "f8"])
def test_features_of_other_types(kind: str, tmp_path: Path, path: Path) -> None:
    content = urfunny_content()
    for part in content.values():
        for key in SIZES:
            part[key] = part[key].astype(kind)
    other = load_dataset(
        "ur-funny", str(write_urfunny(tmp_path / "x.pkl", content)), "heldout"
    ).train.read([0, 7])[0]
    usual = load_dataset("ur-funny", str(path), "heldout").train.read([0, 7])[0]
    for modality, values in usual.items():
        torch.testing.assert_close(other[modality]["x"], values["x"], rtol=1e-3, atol=1e-3)
        assert other[modality]["x"].dtype == torch.float32


def test_names_of_samples_may_be_anything_plain(tmp_path: Path, path: Path) -> None:
    content = urfunny_content()
    content["train"]["id"] = np.array([str(n).encode() for n in range(40)])
    content["valid"]["id"] = np.array([("video", 1.5)] * 12, dtype=object)
    del content["test"]["id"]
    other = load_dataset("ur-funny", str(write_urfunny(tmp_path / "x.pkl", content)), "heldout")
    usual = load_dataset("ur-funny", str(path), "heldout")
    assert torch.equal(
        other.train.read([3])[0]["audio"]["x"], usual.train.read([3])[0]["audio"]["x"]
    )


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
    "no part": (
        lambda c: c.pop("valid"),
        r"x\.pkl holds \['test', 'train'\]; expected a dict with train, valid, test",
    ),
    "no key": (
        lambda c: c["train"].pop("audio"),
        r"train lacks some of vision, audio, text, labels",
    ),
    "counts": (
        changed("test", "vision", lambda a: a[1:]),
        r"test has .*'visual': 11|'vision': 11.*expected the same",
    ),
    "axes": (changed("train", "text", lambda a: a[:, 0]), r"train/text has shape \[40, 300\]"),
    "objects": (
        changed("train", "text", lambda a: a.astype(object)),
        r"train/text has shape .*dtype object",
    ),
    "nan": (
        changed("train", "vision", with_nan),
        r"train/vision: sample 4 holds values that are not finite",
    ),
    "too large": (
        changed("train", "audio", lambda a: a.astype("f8") * 1e300),
        r"train/audio: sample \d+ holds values",
    ),
    "minus infinity": (
        changed("train", "vision", lambda a: np.where(a == a.max(), -np.inf, a)),
        r"train/vision: sample \d+ holds values that are not finite",
    ),
    "different": (
        changed("train", "vision", lambda a: [a[0], a[1][1:]]),
        r"train/vision holds samples of different",
    ),
    "different labels": (
        changed("train", "labels", lambda a: [[1], [1, 0]]),
        r"train/labels holds samples of diff",
    ),
    "words": (
        changed("train", "labels", lambda a: a.astype(str)),
        r"train/labels has shape \[40, 1\] and dtype <U",
    ),
    "empty": (
        changed("test", "vision", lambda a: a[:0]),
        r"test/vision holds .*; expected an array of samples, at le",
    ),
    "nothing": (
        changed("test", "labels", lambda a: None),
        r"test/labels holds NoneType; expected an array of samples",
    ),
    "one modality": (
        changed("valid", "audio", lambda a: a[..., 1:]),
        r"valid has vision 371, audio 80, text 300 feat",
    ),
    "steps": (changed("valid", "audio", lambda a: a[:, 1:]), r"audio has samples of the shapes"),
    "labels": (
        changed("train", "labels", lambda a: np.repeat(a, 2, 1)),
        r"train/labels has shape \[40, 2\]",
    ),
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


@pytest.mark.parametrize("fusion", ["late", pytest.param("early", marks=pytest.mark.slow)])
@pytest.mark.parametrize("modality", ["multimodal", "text"])
def test_it_trains(
    fusion: str, modality: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        "ur-funny",
        "--root",
        str(path),
        "--fusion",
        fusion,
        "--modality",
        modality,
    ]
    words += [
        "--width",
        "8",
        "--layers",
        "1",
        "--epochs",
        "1",
        "--batch-size",
        "12",
        "--device",
        "cpu",
        "--name",
        "r",
    ]
    assert cli.main(words) == 0
    assert (tmp_path / "runs" / "r" / "result.json").is_file()


def test_targets_are_int64_and_inputs_float32(path: Path) -> None:
    inputs, target = load_dataset("ur-funny", str(path), "heldout").train.read([0])
    assert target.dtype == torch.int64
    assert inputs["text"]["x"].dtype == torch.float32
    assert inputs["text"]["mask"].dtype == torch.bool
