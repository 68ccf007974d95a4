"""gradmod prepare ur-funny and mosei: the same numbers as the pickles, memory-mapped, and what can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mosei_files import mosei_files, write_mosei
from urfunny_files import urfunny_content, write_urfunny

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets import prepared
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation import mosei, ur_funny
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError, DataError


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other)


def assert_same(one: Splits, other: Splits) -> None:
    parts, others = dict(one.items()), dict(other.items())
    assert parts.keys() == others.keys()
    for name, split in parts.items():
        assert len(split) == len(others[name])
        for rows in (range(len(split)), [len(split) - 1, 0]):
            (inputs, targets), (inputs2, targets2) = split.read(rows), others[name].read(rows)
            assert same(inputs, inputs2)
            assert torch.equal(targets, targets2)


@pytest.fixture(scope="module")
def humor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("humor")
    content = urfunny_content()
    content["train"]["text"][3] = 0  # has no text: left out
    path = write_urfunny(folder / "humor.pkl", content)
    assert (
        cli.main(["prepare", "ur-funny", "--root", str(path), "--out", str(folder / "fast")]) == 0
    )
    return path, folder / "fast"


@pytest.mark.parametrize("protocol", ["heldout", "published"])
@pytest.mark.parametrize("aligned", [True, False])
def test_ur_funny_is_the_same(humor: tuple[Path, Path], protocol: str, aligned: bool) -> None:
    options = {} if aligned else {"aligned": False}
    one, other = (load_dataset("ur-funny", str(path), protocol, 2, options) for path in humor)
    assert_same(one, other)


def test_ur_funny_is_memory_mapped_and_sound(humor: tuple[Path, Path]) -> None:
    splits = load_dataset("ur-funny", str(humor[1]), "heldout")
    assert isinstance(splits.train.sources["text"].array, np.memmap)  # type: ignore[attr-defined]
    assert not inspect("ur-funny", str(humor[1])).problems
    manifest = json.loads((humor[1] / "manifest.json").read_text())
    assert manifest["sizes"] == [39, 12, 12]
    assert manifest["source"]["file"] == "humor.pkl"


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("mosei")
    files = mosei_files()
    first = next(iter(files["train_sentences.p"]))
    files["train_sentences.p"][first] = ["two words", "", "line\nbreak", "Größe\u2028"]
    root = write_mosei(folder / "raw", files)
    glove = folder / "glove.txt"
    glove.write_text("good " + "0.5 " * 300 + "\n")
    words = ["prepare", "mosei", "--root", str(root)]
    assert cli.main([*words, "--out", str(folder / "fast")]) == 0
    assert cli.main([*words, "--out", str(folder / "glove"), "--embeddings", str(glove)]) == 0
    return root, folder / "fast", folder / "glove"


@pytest.mark.parametrize("labels", ["sentiment-2", "sentiment-7", "sentiment", "emotions"])
@pytest.mark.parametrize("protocol", ["heldout", "published"])
def test_mosei_is_the_same(sentiment: tuple[Path, Path, Path], labels: str, protocol: str) -> None:
    options = {"labels": labels, "video": True}
    one, other = (load_dataset("mosei", str(path), protocol, 2, options) for path in sentiment[:2])
    assert_same(one, other)
    assert one.notes == other.notes
    assert torch.equal(one.network["embedding"], other.network["embedding"])


def test_mosei_keeps_the_vectors_it_was_prepared_with(sentiment: tuple[Path, Path, Path]) -> None:
    root, fast, glove = (str(path) for path in sentiment)
    text = str(sentiment[0].parent / "glove.txt")
    wanted = load_dataset("mosei", root, "heldout", 0, {"embeddings": text})
    for path, options in ((glove, {}), (glove, {"embeddings": text}), (fast, {"embeddings": text})):
        found = load_dataset("mosei", path, "heldout", 0, options)
        assert torch.equal(found.network["embedding"], wanted.network["embedding"])
        assert found.notes == wanted.notes


def test_mosei_without_video_or_emotions(
    sentiment: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    root = write_mosei(
        tmp_path / "raw", {k: v for k, v in mosei_files().items() if "r21d" not in k}
    )
    for path in root.glob("*_emotion.p"):
        path.unlink()
    mosei.prepare(root, tmp_path / "out")
    load_dataset("mosei", str(tmp_path / "out"), "heldout")
    for options, file in (({"video": True}, "visual.npy"), ({"labels": "emotions"}, "emotion.npy")):
        with pytest.raises(DataError, match=f"{file} is missing"):
            load_dataset("mosei", str(tmp_path / "out"), "heldout", 0, options)
    for path in root.glob("*_sentiment.p"):
        path.unlink()
    with pytest.raises(DataError, match=r"neither train_sentiment\.p nor train_emotion\.p"):
        mosei.prepare(root, tmp_path / "other")


class Exploit:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trap}",)


def test_an_exploit_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "humor.pkl"
    path.write_bytes(pickle.dumps({"train": Exploit(trap)}))
    assert (
        cli.main(["prepare", "ur-funny", "--root", str(path), "--out", str(tmp_path / "out")]) == 2
    )
    root = write_mosei(tmp_path / "raw", mosei_files() | {"valid_mels.p": Exploit(trap)})
    assert cli.main(["prepare", "mosei", "--root", str(root), "--out", str(tmp_path / "out")]) == 2
    assert not trap.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["humor.pkl", "raw"]


def copied(folder: Path, to: Path) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


@pytest.mark.parametrize("how", ["missing", "cut", "shorter", "other"])
@pytest.mark.parametrize("file", ["text.npy", "text_begins.npy", "labels.npy"])
def test_damaged_ur_funny_folders(
    file: str, how: str, humor: tuple[Path, Path], tmp_path: Path
) -> None:
    path = copied(humor[1], tmp_path) / file
    damage(path, how)
    with pytest.raises(DataError, match=tmp_path.name):
        load_dataset("ur-funny", str(tmp_path), "heldout")


@pytest.mark.parametrize("how", ["missing", "cut", "shorter", "other"])
@pytest.mark.parametrize(
    "file", ["audio.npy", "audio_first.npy", "sentiment.npy", "embeddings.npy"]
)
def test_damaged_mosei_folders(
    file: str, how: str, sentiment: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    path = copied(sentiment[2], tmp_path) / file
    damage(path, how)
    with pytest.raises(DataError, match=tmp_path.name):
        load_dataset("mosei", str(tmp_path), "heldout")


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        array = np.load(path)
        np.save(path, array[:-1] if how == "shorter" else array[..., None])


def test_damaged_sentences(sentiment: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path = copied(sentiment[1], tmp_path) / "sentences.txt"
    for content, message in (
        (b"one line\n", "expected one number"),
        (b"\xff\xfe\n", "not UTF-8"),
        (None, "is missing|is not what it was"),
    ):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
            with pytest.raises(
                DataError, match=r"sentences.txt is not what it was when the folder was made"
            ):
                load_dataset("mosei", str(tmp_path), "heldout")
            manifest = json.loads((tmp_path / "manifest.json").read_text())
            manifest["sha256"]["sentences.txt"] = hashlib.sha256(content).hexdigest()
            manifest["digest"] = prepared._digest(manifest)
            (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=message):
            load_dataset("mosei", str(tmp_path), "heldout")


def test_damaged_manifests(humor: tuple[Path, Path], tmp_path: Path) -> None:
    path = copied(humor[1], tmp_path) / "manifest.json"
    good = json.loads(path.read_text())
    for content, message in (
        (path.read_text()[:50], "cannot be read: truncated, or not JSON"),
        ("[]", "expected"),
        (json.dumps(good | {"dataset": "mosei"}), "is of .*mosei.*; expected .*ur-funny"),
        (json.dumps(good | {"format": 99}), "'format': 99"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            load_dataset("ur-funny", str(tmp_path), "heldout")
        assert inspect("ur-funny", str(tmp_path)).problems


def test_what_cannot_be_prepared(
    humor: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["ave"], "gradmod prepare makes av-mnist, crema-d, ur-funny, mosei; found 'ave'"),
        ([], "found ''"),
        (
            ["ur-funny", "--root", str(tmp_path / "no.pkl"), "--out", str(tmp_path / "out")],
            "no.pkl is missing",
        ),
        (["ur-funny", "--root", "x"], "--out"),
    ):
        assert cli.main(["prepare", *words]) in (1, 2)
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="exists already"):
        ur_funny.prepare(humor[0], humor[1])
    assert cli.main(["prepare", "--help"]) == 0
    assert "crema-d" in capsys.readouterr().out
