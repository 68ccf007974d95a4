"""The targets of a user's data set: made classes and said, or refused by check and train alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_files import write_loader

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.classes import settled
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError

TEXTS = "np.array(['cat', 'dog', 'emu'])[y]"
CHANGED = {
    "one-hot": ("np.eye(3, dtype=int)[y]", "one-hot: the class is the column", "012"),
    "one-hot floats": ("np.eye(3)[y]", "one-hot: the class is the column", "012"),
    "one-hot of a class that never occurs": (
        "np.eye(4)[y]",
        "no sample is of 1 of the classes: 3",
        "012",
    ),
    "a column": ("y[:, None]", r"one column [N, 1]", "012"),
    "a column of a column": ("y[:, None, None]", r"one column [N, 1]", "012"),
    "whole floats": ("y.astype(float)", "whole numbers in floats", "012"),
    "texts": (TEXTS, "texts: 3 classes, sorted: 0 = cat, 1 = dog, 2 = emu", ["cat", "dog", "emu"]),
    "bytes": (f"{TEXTS}.astype('S')", "0 = cat, 1 = dog", ["cat", "dog", "emu"]),
    "objects": (f"{TEXTS}.astype(object)", "0 = cat, 1 = dog", ["cat", "dog", "emu"]),
    "a list of texts": (f"{TEXTS}.tolist()", "0 = cat, 1 = dog", ["cat", "dog", "emu"]),
    "texts of numbers": (
        "(y * 5).astype(str)",
        "sorted by number: 0 = 0, 1 = 5, 2 = 10",
        ["0", "5", "10"],
    ),
    "from 1 on": (
        "y + 1",
        "from 1 on: 3 classes, numbered in their order: 0 = 1, 1 = 2, 2 = 3",
        "123",
    ),
    "gaps": ("y * 100000", "0 = 0, 1 = 100000, 2 = 200000", ["0", "100000", "200000"]),
    "minus one and one": ("np.where(y == 0, -1, 1)", "-1 and 1: 2 classes", ["-1", "1"]),
    "true and false": ("y == 0", "true and false: class 0 is False", ["False", "True"]),
    "unsigned": ("(y + 7).astype(np.uint64)", "0 = 7, 1 = 8, 2 = 9", "789"),
    "a tensor": ("__import__('torch').from_numpy(y).int()", None, "012"),
    "a list": ("y.tolist()", None, "012"),
}
REFUSED = {
    "NaN": (
        "np.where(np.arange(120) == 65, np.nan, y)",
        "hold NaN or infinite values: 1 of 30 samples of test",
    ),
    "None": (
        "np.where(np.arange(120) == 65, None, y)",
        "labels of test lack 1 of 30 (None or NaN)",
    ),
    "below 0": ("y - 1", "labels below 0 (-1): 10 of 30 samples of train, 10 of 30"),
    "fractions": ("y + 0.5", "no classes: 0.5, say: 30 of 30 samples of train"),
    "one class": ("y * 0", "all 30 samples of train are of one class, '0'"),
    "one class in train": (
        "np.where(np.arange(120) < 30, 0, y)",
        "all 30 samples of train are of one class",
    ),
    "several labels": ("np.ones((120, 3), int)", "task=MultiLabel(), outputs=3"),
    "segments": ("np.stack([y, y], 1)", "expected one class a sample, [N]"),
    "pictures": ("np.zeros((120, 4, 4), int)", "a label has the shape [4, 4]"),
    "kinds mixed": ("np.array([0, 'a'] * 60, dtype=object)", "are objects (int, str)"),
    "empty texts": (
        f"np.where(np.arange(120) < 40, '', {TEXTS})",
        "empty texts: 30 of 30 samples of train, 10 of 30",
    ),
    "dates": ("np.zeros(120, 'M8[D]')", "kind datetime64[D]"),
    "too few": ("y[:100]", "sources have {'left': 120, 'right': 120} samples and targets 100"),
    "rows of different lengths": ("[[0], [1, 2]] * 60", "rows are of different lengths"),
    "masked": ("np.ma.masked_equal(y, 0)", "a masked array"),
    "floats that are not exact": ("y + 2.0**60", "give them as int64"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_labels_that_are_made_classes(case: str, tmp_path: Path) -> None:
    labels, note, names = CHANGED[case]
    data = load_dataset(write_loader(tmp_path, f"return parts({labels})"), "", "heldout")
    assert [note in told for told in data.notes].count(True) == 1 if note else not data.notes
    y = np.arange(120) % 3
    expected = y if len(names) == 3 else (y != 0 if names[0] == "-1" else y == 0).astype(int)
    for start, (_, split) in zip((0, 30, 60, 90), data.items(), strict=True):
        assert split.targets.dtype == np.int64
        assert split.targets.tolist() == expected[start : start + 30].tolist()
        assert split.read([3])[1].tolist() == [expected[start + 3]]
    assert list(data.train.class_counts() or {}) == list(names)
    assert (
        data.outputs
        == len(data.classes)
        == (4 if case == "one-hot of a class that never occurs" else len(names))
    )


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, message = REFUSED[case]
    name = write_loader(tmp_path, f"return parts({labels})")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_dataset(name, "", "heldout")
    assert message in str(caught.value)
    assert "data.py, line " in str(caught.value)
    assert cli.main(["check", name]) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert cli.main(["train", "--dataset", name, "--device", "cpu", "--out", "runs"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_names_of_classes_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_loader(tmp_path, f"return parts({TEXTS})")
    assert cli.main(["check", name]) == 0
    assert "note: the labels are texts: 3 classes, sorted: 0 = cat" in capsys.readouterr().out
    words = [
        "train",
        "--dataset",
        name,
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--device",
        "cpu",
        "--name",
        "r",
    ]
    assert cli.main(words) == 0
    assert "note: the labels are texts: 3 classes, sorted: 0 = cat" in capsys.readouterr().err
    result = json.loads(Path("runs/r/result.json").read_text())
    assert list(result["class_counts"]["train"]) == ["cat", "dog", "emu"]


def test_codes_do_not_size_the_network(tmp_path: Path) -> None:
    from gradmod.experiments.settings.config import Config, DataConfig
    from gradmod.experiments.training.parts import build_parts

    config = Config(data=DataConfig(dataset=write_loader(tmp_path, "return parts(y * 100000)")))
    model = build_parts(config).model.eval()
    assert sum(p.numel() for p in model.parameters()) < 50_000
    assert model({m: torch.zeros(2, n) for m, n in (("left", 6), ("right", 4))}).shape == (2, 3)


def test_a_class_that_train_lacks_has_its_number_and_is_told(tmp_path: Path) -> None:
    labels = "np.where(np.arange(120) == 61, 'ant', np.array(['cat', 'dog', 'emu'])[y])"
    data = load_dataset(write_loader(tmp_path, f"return parts({labels})"), "", "heldout")
    assert data.classes == ("ant", "cat", "dog", "emu")
    assert data.train.targets[:3].tolist() == [1, 2, 3]  # the same numbers in all splits
    assert data.test is not None
    assert data.test.targets[:3].tolist() == [1, 0, 3]
    assert (
        "warning: test has classes that train lacks, which cannot be learnt: ant (1); 1 of 30 samples"
        in data.notes
    )


def test_classes_that_differ_in_capitals(tmp_path: Path) -> None:
    labels = "np.where(np.arange(120) % 2, np.array(['cat', 'dog', 'emu'])[y], np.array(['Cat ', 'dog', 'emu'])[y])"
    data = load_dataset(write_loader(tmp_path, f"return parts({labels})"), "", "heldout")
    assert any(
        note.startswith("warning: the classes 'Cat ', 'cat' differ in capitals")
        for note in data.notes
    )


def made(labels: object, **more: object) -> Splits:
    whole = Split({"x": ArraySource(np.zeros((12, 2)), (2,))}, labels)  # type: ignore[arg-type]
    rows = np.split(np.arange(12), 3)
    return settled(Splits(*(whole.subset(r) for r in rows), None, **more))  # type: ignore[arg-type]


def test_the_users_own_names() -> None:
    y = np.arange(12) % 3
    names = ("dog", "cat", "emu", "fox")
    assert made(np.array(names)[y], classes=names).train.targets.tolist() == [0, 1, 2, 0]
    assert made(y, classes=names).train.class_counts() == {"dog": 2, "cat": 1, "emu": 1}
    assert made(y + 2, classes=names).train.targets.tolist() == [
        1,
        2,
        3,
        1,
    ]  # 2 to 4: from 1 on, of four
    for labels, message in (
        (np.array(["dog", "cat", "gnu"])[y], "'gnu' are none of Splits"),
        (y + 3, "labels go from 3 to 5"),
        (y - 1, "labels below 0"),
        (y + 0.5, "no classes"),
    ):
        with pytest.raises(DataError, match=message):
            made(labels, classes=names)


def test_the_users_own_number_of_outputs() -> None:
    y = np.arange(12) % 3
    assert made(y, outputs=5).outputs == 5
    assert made(y * 2, outputs=5).train.targets.tolist() == [0, 2, 4, 0]  # as they are: all below 5
    assert made(y + 1, outputs=3).train.targets.tolist() == [0, 1, 2, 0]
    assert made(y + 2, outputs=4).train.targets.tolist() == [1, 2, 3, 1]
    assert made(y * 100, outputs=3).train.targets.tolist() == [0, 1, 2, 0]
    for labels, outputs, message in (
        (y, 2, "hold 3 classes"),
        (y * 100, 5, "labels go from 0 to 200 and Splits says 5"),
        (np.eye(3)[y], 4, "one-hot of 3 columns"),
    ):
        with pytest.raises(DataError, match=message):
            made(labels, outputs=outputs)


def test_rows_that_no_split_has_may_hold_anything() -> None:
    whole = Split({"x": ArraySource(np.zeros((8, 2)), (2,))}, np.array([0, 1, 0, 1, 0, 1, -7, 999]))
    data = settled(
        Splits(
            whole.subset(np.arange(2)),
            whole.subset(np.arange(2, 4)),
            whole.subset(np.arange(4, 6)),
            None,
        )
    )
    assert data.outputs == 2
    assert not data.notes


def test_a_label_that_is_not_scored_stays() -> None:
    from gradmod.tasks import Classification

    class Ignoring(Classification):
        ignore_index = -100

    labels = np.array([1, 2, -100, 1] * 3)
    data = made(labels, task=Ignoring())
    assert data.train.targets.tolist() == [0, 1, -100, 0]
    assert any("-100 are not scored: 1 of train, 1 of validation" in note for note in data.notes)


def test_numbers_and_several_labels() -> None:
    from gradmod.tasks import MultiLabel, Regression

    y = np.arange(12) % 3
    for labels in (y, y / 2, (y / 2)[:, None]):
        data = made(labels, task=Regression())
        assert data.outputs == 1
        assert data.train.targets.dtype == np.float32
        assert data.train.targets.shape == (4, 1)
        assert data.train.class_counts() is None
    assert made(np.eye(3, dtype=bool)[y], task=MultiLabel()).outputs == 3
    for task, wrong, message in (
        (Regression(), np.array(["a"] * 12), "the targets are texts"),
        (Regression(), np.full(12, np.inf), "infinite values: 4 of 4 samples of train"),
        (Regression(), np.full(12, np.nan), "NaN"),
        (Regression(), np.zeros((12, 2, 2)), r"shape \[2, 2\]"),
        (MultiLabel(), np.eye(3)[y] * 2, "not from 0 to 1: 4 of 4 samples of train"),
    ):
        with pytest.raises(DataError, match=message):
            made(wrong, task=task)


def test_many_classes_look_like_numbers(tmp_path: Path) -> None:
    data = load_dataset(write_loader(tmp_path, "return parts(np.arange(120))"), "", "heldout")
    assert any(
        "120 classes for 30 samples of train; to learn a number" in note for note in data.notes
    )
