"""CMU-MOSEI from its pickles: words, targets, splits, and what can be wrong."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mosei_files import mosei_files, write_mosei

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.mosei import (
    UNKNOWN,
    embedding_table,
    sentiment_class,
    words_in,
    words_of,
)
from gradmod.experiments.datasets.preparation.mosei import prepare
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.tasks import MultiLabel, Regression


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mosei(tmp_path_factory.mktemp("mosei"), mosei_files())


def test_words() -> None:
    assert words_in(["It's", "well-made,", "AND/or", "(#1):", "a*b;", '"so"', "--"]) == [
        *("its", "well", "made", "and", "or", "1", "ab", "so"),
    ]
    assert words_of([["b", "a"], ["a", "C!"]]) == {
        "b": 2,
        "a": 3,
        "c": 4,
    }  # 0 is padding, 1 unknown, and no word


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
    inputs, _ = load_dataset("mosei", str(write_mosei(tmp_path, files)), "heldout").validation.read(
        [0]
    )
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
    np.testing.assert_array_equal(
        emotions.validation.targets[2], files["valid_emotion.p"]["valid2[0]"] > 0
    )
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
    for line, wrong in (
        ("good 1 2", "short"),
        ("good " + "x " * 300, "text"),
        ("good " + "nan " * 300, "nan"),
    ):
        path.write_text("a " + "1 " * 300 + "\n" + line + "\n")
        with pytest.raises(
            DataError, match=r"glove\.txt, line 2: expected a word and 300 finite numbers"
        ):
            embedding_table({"good": 2}, str(path))
        assert wrong
    with pytest.raises(DataError, match="is missing: --embeddings names a text file"):
        embedding_table({}, str(tmp_path / "nothing.txt"))


def vector(value: float, count: int = 300) -> str:
    return " ".join([f"{value:g}"] * count)


GOOD, AT, OTHER = vector(1), vector(2), vector(9)
FORMS = {
    "glove.840B": f". . . {OTHER}\nat name@domain.com {OTHER}\ngood {GOOD}\nat {AT}\n",
    "token with a space behind": f"good {GOOD}\nat {AT}\nat name@domain.com {OTHER}\n",
    "word2vec": f"3 300\ngood {GOOD}\nat {AT}\nunheard {OTHER}\n",
    "fastText": f"2000000 300\ngood {GOOD} \nat {AT} \n",
    "tabs": f"good\t{GOOD}\nat\t{AT}\n".replace(" ", "\t"),
    "Windows": f"good {GOOD}\r\nat {AT}\r\n",
    "blank lines": f"\ngood {GOOD}\n\nat {AT}\n\n",
    "twice": f"good {GOOD}\nat {AT}\ngood {OTHER}\nat {OTHER}\n",
    "odd tokens": f"\x85 {OTHER}\na\u2028good {OTHER}\n\xa0 {OTHER}\ngood {GOOD}\nat {AT}\n",
    "numbers as tokens": f"1 2 {OTHER}\n300 {OTHER}\ngood {GOOD}\nat {AT}\nat 5 {OTHER}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_vectors(form: str, tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(FORMS[form].encode())
    table, note = embedding_table({"at": 2, "bad": 3, "good": 4}, str(path))
    assert note.startswith("2 of 3 words have a vector in")
    assert (table[4] == 1).all()
    assert (table[2] == 2).all()
    assert abs(table[3]).max() < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f"good {vector(1, 50)}\nat {vector(2, 50)}\n",
            r"txt: its vectors have 50 numbers; expected .* 300 num",
        ),
        (
            f"2 200\ngood {vector(1, 200)}\nat {vector(2, 200)}\n",
            r"its vectors have 200 numbers; expected",
        ),
        (
            f"good {vector(1, 301)}\nat {vector(2, 301)}\n",
            r"its vectors have 301 numbers; expected",
        ),
        (f"a b {vector(1, 299)}\nat {vector(2, 299)}\n", r"its vectors have 299 numbers; expected"),
        ("3 300\n\x00\x01\x02 \x03\n", r"no line near its start is a word and numbers; expected"),
        ("", r"it is empty \(0 bytes\)"),
        (
            f"Good {GOOD}\nunheard {GOOD}\n",
            r"has a vector of none of the 2 words of train \(the first is 'at'",
        ),
        (f"a {GOOD}\ngood {vector(1, 299)}\n", r"line 2: expected a word and 300 finite numbers"),
        (
            f"a {GOOD}\ngood {vector(1, 299)} 1e99\n",
            r"line 2: expected a word and 300 finite numbers",
        ),
        (
            f"2 300\na {GOOD}\ngood {vector(1, 120)}",
            r"line 3: expected a word and 300 finite numbers",
        ),
    ],
)
def test_other_vectors_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_bytes(content.encode())
    with pytest.raises(DataError, match=message):
        embedding_table({"at": 2, "good": 3}, str(path))


SENTENCES: dict[str, Callable[[list[str]], Any]] = {
    "tuple": tuple,
    "array of str": lambda words: np.array(words, dtype=str),
    "array of objects": lambda words: np.array(words, dtype=object),
    "array of bytes": lambda words: np.array([word.encode() for word in words], dtype=bytes),
    "column of bytes": lambda words: np.array(
        [[word.encode()] for word in words], dtype=bytes
    ).reshape(-1, 1),
    "list of bytes": lambda words: [word.encode() for word in words],
    "list of lists": lambda words: [[word] for word in words],
    "NumPy strings": lambda words: [np.str_(word) for word in words],
    "NumPy bytes": lambda words: [np.bytes_(word.encode()) for word in words],
    "one string": " ".join,
    "one string in a list": lambda words: [" ".join(words)],
    "bytes": lambda words: " ".join(words).encode(),
    "one string in an array": lambda words: np.array(" ".join(words)),
}


@pytest.mark.parametrize("form", SENTENCES)
def test_sentences_are_the_same_in_every_form(form: str, root: Path, tmp_path: Path) -> None:
    files = mosei_files()
    for part in ("train", "valid", "test"):
        name = f"{part}_sentences.p"
        files[name] = {
            key: SENTENCES[form](list(map(str, words))) for key, words in files[name].items()
        }
    usual = load_dataset("mosei", str(root), "heldout")
    other = load_dataset("mosei", str(write_mosei(tmp_path, files)), "heldout")
    for (_, split), (_, same) in zip(usual.items(), other.items(), strict=True):
        everything = range(len(split))
        for key, values in split.read(everything)[0]["text"].items():
            assert torch.equal(same.read(everything)[0]["text"][key], values)
    assert other.notes == usual.notes


def test_half_a_character_is_no_word(tmp_path: Path) -> None:
    """Text files cannot hold it, so `gradmod prepare` could not write it."""
    path = write_mosei(tmp_path, mosei_files()) / "train_sentences.p"
    path.write_bytes(pickle.dumps({"a": ["caf\ud800"]}))
    with pytest.raises(
        DataError, match=r"train_sentences\.p: the clip 'a' holds a word that is not UTF-8"
    ):
        load_dataset("mosei", str(tmp_path), "heldout")


NUMBERS: dict[str, Callable[[Any], Any]] = {
    "float64": np.float64,
    "[1]": lambda value: np.array([value]),
    "[1, 1]": lambda value: [[value]],
    "0-d": np.array,
    "object": lambda value: np.array([value], dtype=object),
    "int": int,
}


@pytest.mark.parametrize("form", NUMBERS)
def test_numbers_of_other_forms(form: str, tmp_path: Path) -> None:
    files = mosei_files()
    emotions = np.stack(list(files["valid_emotion.p"].values()))
    for part in ("train", "valid", "test"):
        for name in ("sentiment", "emotion", "mels"):
            files[f"{part}_{name}.p"] = {
                key: NUMBERS[form](value) if name == "sentiment" else value[None].astype(np.float64)
                for key, value in files[f"{part}_{name}.p"].items()
            }
    root = str(write_mosei(tmp_path, files))
    sentiments = load_dataset(
        "mosei", root, "heldout", 0, {"labels": "sentiment"}
    ).validation.targets
    expected = (
        [-2, -1, 0, 0, 0, 1, 2, -2] if form == "int" else [-2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, -2.5]
    )
    assert sentiments.tolist() == [[value] for value in expected]
    found = load_dataset("mosei", root, "heldout", 0, {"labels": "emotions"}).validation
    np.testing.assert_array_equal(found.targets, emotions > 0)


def test_clips_named_with_bytes_are_those_named_with_strings(root: Path, tmp_path: Path) -> None:
    files = mosei_files()
    for name in ("train_mels.p", "valid_sentences.p", "test_sentiment.p"):
        files[name] = {key.encode(): value for key, value in files[name].items()}
    usual = load_dataset("mosei", str(root), "heldout")
    other = load_dataset("mosei", str(write_mosei(tmp_path, files)), "heldout")
    for (_, split), (_, same) in zip(usual.items(), other.items(), strict=True):
        assert torch.equal(split.read([0, 1])[0]["audio"]["x"], same.read([0, 1])[0]["audio"]["x"])
        np.testing.assert_array_equal(split.targets, same.targets)


def test_the_vocabulary_is_that_of_train_alone(tmp_path: Path) -> None:
    files = mosei_files()
    files["valid_sentences.p"]["valid0[0]"] = ["good", "validword"]
    files["test_sentences.p"]["test0[0]"] = ["testword", "bad", "validword"]
    root = write_mosei(tmp_path / "raw", files)
    glove = tmp_path / "glove.txt"
    glove.write_text(
        "".join(f"{word} {vector(1)}\n" for word in ("good", "bad", "validword", "testword"))
    )
    prepare(root, tmp_path / "fast", embeddings=str(glove))
    words = len(words_of(list(files["train_sentences.p"].values())))
    for folder, options in (
        (root, {}),
        (root, {"embeddings": str(glove)}),
        (tmp_path / "fast", {}),
    ):
        splits = load_dataset("mosei", str(folder), "heldout", 0, options)
        assert splits.test is not None
        assert splits.network["embedding"].shape == (words + 2, 300)
        valid = splits.validation.read([0])[0]["text"]["tokens"][0].tolist()
        test = splits.test.read([0])[0]["text"]["tokens"][0].tolist()
        assert valid[0] > UNKNOWN
        assert valid[1] == UNKNOWN
        assert [test[0], test[2]] == [UNKNOWN, UNKNOWN]
        assert test[1] > UNKNOWN
        assert (
            int(splits.train.read(range(len(splits.train)))[0]["text"]["tokens"].max()) <= words + 1
        )
        if options or folder != root:
            assert splits.notes[0].startswith(f"2 of {words} words have a vector")


class Exploit:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def set_clip(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(files: dict[str, Any]) -> None:
        files[name]["train3[0]"] = value

    return change


DAMAGE = {
    "missing": (lambda f: f.pop("valid_mels.p"), r"valid_mels\.p is missing"),
    "clip": (
        lambda f: f["train_mels.p"].pop("train3[0]"),
        r"train_mels\.p lacks 1 of 24 clips, 'train3\[0\]' among",
    ),
    "list": (
        lambda f: f.update({"test_sentences.p": [1]}),
        r"test_sentences\.p holds list; expected a dict of clips",
    ),
    "empty": (
        lambda f: f.update({"test_sentences.p": {}}),
        r"test_sentences\.p holds dict; .*at least one",
    ),
    "words": (
        set_clip("train_sentences.p", [1, 2]),
        r"train_sentences\.p: the clip 'train3\[0\]' holds list of int; expected a list of words",
    ),
    "no words": (
        set_clip("train_sentences.p", np.zeros(3)),
        r"'train3\[0\]' holds list of float; expected a list",
    ),
    "word ids": (
        set_clip("train_sentences.p", {"a": 1}),
        r"'train3\[0\]' holds dict; expected a list of words",
    ),
    "a set": (
        set_clip("train_sentences.p", {"a", "b"}),
        r"'train3\[0\]' holds set; expected a list of words",
    ),
    "nothing": (
        set_clip("train_sentences.p", None),
        r"'train3\[0\]' holds NoneType; expected a list of words",
    ),
    "none in it": (
        set_clip("train_sentences.p", ["a", None]),
        r"holds list of NoneType; expected a list of words",
    ),
    "bytes": (
        set_clip("train_sentences.p", [b"caf\xe9"]),
        r"'train3\[0\]' holds a word that is not UTF-8",
    ),
    "number in words": (
        set_clip("train_sentiment.p", "0.5"),
        r"train_sentiment\.p: .* holds str; expected numbers",
    ),
    "complex": (
        set_clip("train_mels.p", np.ones((4, 80), complex)),
        r"train_mels\.p: .* holds an array of complex128; expected",
    ),
    "ragged": (
        set_clip("train_mels.p", [[1.0], [1.0, 2.0]]),
        r"train_mels\.p: .* holds list; expected numbers",
    ),
    "too large": (
        set_clip("train_mels.p", np.full((4, 80), 1e300)),
        r"train_mels\.p: .* are not finite",
    ),
    "beyond": (
        set_clip("train_sentiment.p", 4.0),
        r"'train3\[0\]' has the sentiment 4; expected a number from -3 to 3",
    ),
    "classes": (
        lambda f: f.update(
            {"train_sentiment.p": {key: abs(v) for key, v in f["train_sentiment.p"].items()}}
        ),
        r"the target of all 24 clips of train is 1 \(--labels sentiment-2\); expected several",
    ),
    "bytes and string": (
        lambda f: f["train_mels.p"].update({b"train3[0]": np.zeros((4, 80))}),
        r"train_mels\.p holds a clip twice, named with bytes and with a string",
    ),
    "shape": (
        set_clip("train_mels.p", np.zeros((4, 79))),
        r"train_mels\.p: .* has shape \[4, 79\]; expected \[T, 80\]",
    ),
    "nan": (
        set_clip("train_mels.p", np.full((4, 80), np.nan)),
        r"train_mels\.p: .* holds values that are not finite",
    ),
    "text": (
        set_clip("train_sentiment.p", "good"),
        r"train_sentiment\.p: .* holds str; expected numbers",
    ),
    "two": (
        set_clip("train_sentiment.p", [1, 2]),
        r"train_sentiment\.p: .* has shape \[2\]; expected \[1\]",
    ),
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


@pytest.mark.parametrize(
    "labels", ["sentiment-2", "sentiment", pytest.param("emotions", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "more", [[], pytest.param(["--video", "True"], marks=pytest.mark.slow), ["--modality", "audio"]]
)
def test_it_trains(
    labels: str, more: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        "mosei",
        "--root",
        str(root),
        "--labels",
        labels,
        "--width",
        "8",
        "--layers",
        "2",
    ]
    words += [
        "--epochs",
        "2",
        "--batch-size",
        "12",
        "--device",
        "cpu",
        "--name",
        "r",
        "--log-every",
        "1",
        *more,
    ]
    assert cli.main(words) == 0
    result = json.loads((tmp_path / "runs" / "r" / "result.json").read_text())
    headline = {"sentiment-2": "accuracy", "sentiment": "mae", "emotions": "macro_f1"}[labels]
    assert result["headline"] == headline
    values = [
        json.loads(line)
        for line in (tmp_path / "runs" / "r" / "metrics.jsonl").read_text().splitlines()
    ]
    validation = [line["validation"][headline] for line in values if line["kind"] == "epoch"]
    best = min(validation) if labels == "sentiment" else max(validation)
    assert result["splits"]["validation"][headline] == pytest.approx(best)
    assert "note: no --embeddings" in capsys.readouterr().err


def test_dtypes(root: Path) -> None:
    inputs, target = load_dataset(
        "mosei", str(root), "heldout", 0, {"labels": "emotions"}
    ).train.read([0])
    assert inputs["text"]["tokens"].dtype == torch.int64
    assert target.dtype == torch.float32
