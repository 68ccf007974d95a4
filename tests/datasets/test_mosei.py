"""CMU-MOSEI from its pickles: words, targets, splits, and what can be wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradmod import cli
from gradmod.datasets.load import load_dataset
from gradmod.datasets.mosei import embedding_table, sentiment_class, words_in, words_of
from gradmod.errors import ConfigError, DataError
from gradmod.tasks import MultiLabel, Regression
from mosei_files import mosei_files, write_mosei


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mosei(tmp_path_factory.mktemp("mosei"), mosei_files())


def test_words() -> None:
    assert words_in(["It's", "well-made,", "AND/or", "(#1):", "a*b;", '"so"', "--"]) == [
        *("its", "well", "made", "and", "or", "1", "ab", "so"),
    ]
    assert words_of([["b", "a"], ["a", "C!"]]) == {"b": 2, "a": 3, "c": 4}  # 0 is padding, 1 unknown, and no word


def test_splits_and_values(root: Path) -> None:
    files = mosei_files()
    splits = load_dataset("mosei", str(root), "heldout")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 22,
        "validation": 8,
        "test": 8,
        "predictor": 2,
    }
    inputs, target = splits.validation.read([0, 5])
    vocabulary = words_of(list(files["train_sentences.p"].values()))
    for row, key in enumerate(("valid0[0]", "valid5[0]")):
        words = words_in(files["valid_sentences.p"][key])
        numbers = [vocabulary.get(word, 1) for word in words]
        assert inputs["text"]["tokens"][row].tolist() == numbers + [0] * (60 - len(numbers))
        assert int(inputs["text"]["mask"][row].sum()) == len(numbers)
        mels = files["valid_mels.p"][key][:60]
        np.testing.assert_array_equal(inputs["audio"]["x"][row, : len(mels)].numpy(), mels)
        assert int(inputs["audio"]["mask"][row].sum()) == len(mels)
        assert int(target[row]) == (files["valid_sentiment.p"][key] >= 0)
    published = load_dataset("mosei", str(root), "published")
    assert {name: len(split) for name, split in published.items()} == {"train": 24, "validation": 8}
    assert splits.notes[0].startswith("no --embeddings: the vectors of all")


def test_an_empty_sentence_still_has_a_step(tmp_path: Path) -> None:
    files = mosei_files()
    files["valid_sentences.p"]["valid0[0]"] = ["..."]
    inputs, _ = load_dataset("mosei", str(write_mosei(tmp_path, files)), "heldout").validation.read([0])
    assert inputs["text"]["mask"][0].tolist() == [True] + [False] * 59
    assert not inputs["text"]["tokens"][0].any()


def test_seven_classes() -> None:
    values = np.array([-3, -2.1, -2, -1.5, -1, -0.1, 0, 0.1, 1, 1.1, 2, 2.1, 3])
    assert sentiment_class(values).tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6]


def test_other_targets(root: Path) -> None:
    files = mosei_files()
    number = load_dataset("mosei", str(root), "heldout", 0, {"labels": "sentiment"})
    assert isinstance(number.task, Regression)
    assert number.outputs == 1
    assert number.validation.targets[:3, 0].tolist() == [-2.5, -1.5, -0.5]
    assert number.validation.class_counts() is None
    emotions = load_dataset("mosei", str(root), "heldout", 0, {"labels": "emotions"})
    assert isinstance(emotions.task, MultiLabel)
    np.testing.assert_array_equal(emotions.validation.targets[2], files["valid_emotion.p"]["valid2[0]"] > 0)
    seven = load_dataset("mosei", str(root), "heldout", 0, {"labels": "sentiment-7"})
    assert seven.validation.targets.tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    video = load_dataset("mosei", str(root), "heldout", 0, {"video": True})
    assert video.modalities == ("text", "audio", "visual")
    assert video.train.read([0])[0]["visual"]["x"].shape == (1, 60, 512)


def test_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("good " + " ".join(["0.5"] * 300) + "\nunheard " + "1 " * 300 + "\n")
    table, note = embedding_table({"bad": 2, "good": 3}, str(path))
    assert note.startswith("1 of 2 words have a vector in")
    assert table.shape == (4, 300)
    assert (table[3] == 0.5).all()
    assert not table[0].any()
    assert 0.05 < table[2].std() < 0.2
    for line, wrong in (("good 1 2", "short"), ("good " + "x " * 300, "text"), ("good " + "nan " * 300, "nan")):
        path.write_text("a 1\n" + line + "\n")
        with pytest.raises(DataError, match=r"glove\.txt, line 2: expected a word and 300 finite numbers"):
            embedding_table({"good": 2}, str(path))
        assert wrong
    with pytest.raises(DataError, match="is missing: --embeddings names a text file"):
        embedding_table({}, str(tmp_path / "nothing.txt"))


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def set_clip(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files[name]["train3[0]"] = value

    return change


DAMAGE = {
    "missing": (lambda f: f.pop("valid_mels.p"), r"valid_mels\.p is missing"),
    "clip": (lambda f: f["train_mels.p"].pop("train3[0]"), r"train_mels\.p lacks 1 of 24 clips, 'train3\[0\]' among"),
    "list": (lambda f: f.update({"test_sentences.p": [1]}), r"test_sentences\.p holds list; expected a dict of clips"),
    "empty": (lambda f: f.update({"test_sentences.p": {}}), r"test_sentences\.p holds dict; .*at least one"),
    "words": (
        set_clip("train_sentences.p", [1, 2]),
        r"train_sentences\.p: the clip 'train3\[0\]' holds list; expected",
    ),
    "shape": (
        set_clip("train_mels.p", np.zeros((4, 79))),
        r"train_mels\.p: .* has shape \[4, 79\]; expected \[T, 80\]",
    ),
    "nan": (set_clip("train_mels.p", np.full((4, 80), np.nan)), r"train_mels\.p: .* holds values that are not finite"),
    "text": (set_clip("train_sentiment.p", "good"), r"train_sentiment\.p: .* holds str; expected numbers"),
    "two": (set_clip("train_sentiment.p", [1, 2]), r"train_sentiment\.p: .* has shape \[2\]; expected \[1\]"),
    "code": (set_clip("train_mels.p", Exploit()), r"asks for (posix|nt)\.system.*refused"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    files = mosei_files()
    damage, message = DAMAGE[kind]
    damage(files)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        load_dataset("mosei", str(write_mosei(tmp_path, files)), "heldout")


def test_wrong_labels_and_missing_folder() -> None:
    with pytest.raises(ConfigError, match=r"data\.labels is 'joy'; expected one of sentiment-2"):
        load_dataset("mosei", "x", "heldout", 0, {"labels": "joy"})
    with pytest.raises(DataError, match=r"CMU-MOSEI: .*Looked for .*_sentences"):
        load_dataset("mosei", "", "heldout")


@pytest.mark.parametrize("labels", ["sentiment-2", "sentiment", "emotions"])
@pytest.mark.parametrize("more", [[], ["--video", "True"], ["--modality", "audio"]])
def test_it_trains(
    labels: str, more: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["train", "--dataset", "mosei", "--root", str(root), "--labels", labels, "--width", "8", "--layers", "2"]
    words += ["--epochs", "2", "--batch-size", "12", "--device", "cpu", "--name", "r", "--log-every", "1", *more]
    assert cli.main(words) == 0
    result = json.loads((tmp_path / "runs" / "r" / "result.json").read_text())
    headline = {"sentiment-2": "accuracy", "sentiment": "mae", "emotions": "macro_f1"}[labels]
    assert result["headline"] == headline
    values = [json.loads(line) for line in (tmp_path / "runs" / "r" / "metrics.jsonl").read_text().splitlines()]
    validation = [line["validation"][headline] for line in values if line["kind"] == "epoch"]
    best = min(validation) if labels == "sentiment" else max(validation)
    assert result["splits"]["validation"][headline] == pytest.approx(best)
    assert "note: no --embeddings" in capsys.readouterr().err


def test_dtypes(root: Path) -> None:
    inputs, target = load_dataset("mosei", str(root), "heldout", 0, {"labels": "emotions"}).train.read([0])
    assert inputs["text"]["tokens"].dtype == torch.int64
    assert target.dtype == torch.float32
