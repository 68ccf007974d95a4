"""What a data set is known by: the same wherever it lies, another when anything that matters changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from torch import Tensor

from gradmod.experiments.datasets import fingerprint
from gradmod.experiments.datasets.fingerprint import differences, record_of
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.crema_d import prepare
from gradmod.experiments.datasets.split import ArraySource, ChainedSource, Indices, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.files import json_text

N = 2000
Arrays = dict[str, Any]


def arrays(**changes: Any) -> Arrays:
    rng = np.random.default_rng(0)
    whole: Arrays = {
        "image": rng.normal(size=(N, 6, 6)).astype(np.float32),
        "table": rng.normal(size=(N, 20)),
        "labels": np.arange(N) % 4,
        "rows": np.arange(N),
    }
    return whole | changes


def splits(content: Arrays) -> Splits:
    half = N // 4
    image = ChainedSource(
        ArraySource(content["image"][:half], (1, 6, 6)),
        ArraySource(content["image"][half:], (1, 6, 6)),
    )
    whole = Split(
        {"image": image, "table": ArraySource(content["table"], (20,))}, content["labels"]
    )
    train, validation = np.split(content["rows"], [N // 2])
    return Splits(whole.subset(np.sort(train)), whole.subset(np.sort(validation)), None, None)


def changed(what: str, rows: Any, value: Callable[[Any], Any]) -> Arrays:
    content = arrays()
    content[what] = content[what].copy()
    content[what][rows] = value(content[what][rows])
    return content


CHANGES: dict[str, tuple[Arrays, str]] = {
    "a label": (
        changed("labels", 5, lambda old: old + 1),
        "train: other labels (249 of class 1, 250 then",
    ),
    "labels' order": (
        arrays(labels=np.arange(N)[::-1] % 4),
        "train: other labels, or in another order",
    ),
    "another draw": (arrays(rows=np.random.default_rng(1).permutation(N)), "train: "),
    "one image": (
        changed("image", [1234], lambda old: -old + 3),
        "validation: other values of image",
    ),
    "most images": (
        changed("image", slice(20, 980), lambda old: old[::-1].copy()),
        "train: other values of image",
    ),
    "their scale": (
        changed("table", slice(None), lambda old: old * 1.02),
        "train: other values of table",
    ),
    "one row": (changed("table", [77], lambda old: old * 0), "train: other values of table"),
    "order of rows": (
        changed("table", slice(0, 900), lambda old: old[::-1].copy()),
        "train: other values of table",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_seen_and_told(case: str) -> None:
    before = record_of(splits(arrays()))
    content, told = CHANGES[case]
    found = differences(before, record_of(splits(content)))
    assert any(what.startswith(told) for what in found), found
    assert json_text(before)  # plain values


def test_sizes_and_splits_are_told() -> None:
    whole = splits(arrays())
    fewer = Splits(whole.train.subset(np.arange(900)), whole.validation, whole.validation, None)
    assert differences(record_of(whole), record_of(fewer)) == [
        "train: 900 samples, 1000 then",
        "there is a test split now",
    ]
    only = Splits(
        Split({"image": whole.train.sources["image"]}, np.arange(N) % 4, whole.train.rows),
        whole.validation,
        None,
        None,
    )
    assert differences(record_of(whole), record_of(only)) == ["train: table is missing"]


def test_last_digits_of_another_machine_are_no_change() -> None:
    rng = np.random.default_rng(5)
    noise = 1 + rng.normal(0, 1e-6, (N, 6, 6))
    near = arrays(image=(arrays()["image"] * noise).astype(np.float32))
    assert differences(record_of(splits(arrays())), record_of(splits(near))) == []


def test_what_is_not_read_the_same_twice_is_left_out() -> None:
    @dataclass
    class Noisy:
        shape: tuple[int, ...] = (3,)

        def __len__(self) -> int:
            return 50

        def read(self, rows: Indices, draws: np.random.Generator | None) -> Tensor:
            return torch.rand(len(rows), 3)

    split = Split({"noise": Noisy()}, np.arange(50) % 2)
    one, other = (record_of(Splits(split, split, None, None)) for _ in range(2))
    assert one["splits"]["train"]["inputs"]["noise"]["whole"] is None
    assert differences(one, other) == []


def test_of_a_large_array_on_disk_few_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LARGE_ARRAY", 1000)
    monkeypatch.setattr(fingerprint, "PAGE", 64)
    rows = np.arange(N)
    columns: list[Any] = []

    class Watched(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, where: Any) -> Any:
            columns.append(where[1])
            return super().__getitem__(where)

    image = arrays()["image"].view(Watched)
    source = ArraySource(arrays()["image"], (1, 6, 6))
    object.__setattr__(source, "array", image)
    assert fingerprint._of_every_sample(source, rows)
    ((of_each,),) = [columns]
    assert (of_each.max(1) - of_each.min(1)).max() * image.itemsize <= 64
    assert len({tuple(line) for line in of_each.tolist()}) > 1  # not the same places in each


def test_avmnist_wherever_it_lies(tmp_path: Path) -> None:
    content = avmnist_arrays()
    records = []
    for folder in ("one", "copy", "changed"):
        if folder == "changed":
            content["audio/train_data.npy"][5] = 255 - content["audio/train_data.npy"][5]
        root = write_avmnist(tmp_path / folder, content)
        records.append(record_of(load_dataset("av-mnist", str(root), "heldout")))
    assert differences(records[0], records[1]) == []
    assert any("other values of audio" in what for what in differences(records[0], records[2]))


def test_prepared_data_are_the_same_data(tmp_path: Path) -> None:
    root = write_cremad(tmp_path / "raw")
    prepare(root, tmp_path / "fast")
    raw, fast = (
        record_of(load_dataset("crema-d", str(tmp_path / name), "heldout"))
        for name in ("raw", "fast")
    )
    assert raw["splits"]["train"]["names"] is not None
    assert differences(raw, fast) == []
