"""AV-MNIST: splits, values, and every way in which its files can be wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avmnist_files import avmnist_arrays, write_avmnist

from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.errors import ConfigError, DataError

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_values_are_divided_by_255_and_only_rows_are_read(dtype: type, tmp_path: Path) -> None:
    arrays = avmnist_arrays(dtype=dtype)
    splits = load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "heldout")
    assert splits.test is not None
    inputs, targets = splits.test.read([3, 0])
    assert inputs["audio"].shape == (2, 1, 112, 112)
    assert inputs["visual"].shape == (2, 1, 28, 28)
    assert inputs["audio"].dtype == inputs["visual"].dtype == torch.float32
    expected = arrays["audio/test_data.npy"][[3, 0]].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(inputs["audio"][:, 0].numpy(), expected)
    expected = arrays["image/test_data.npy"][[3, 0]].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(inputs["visual"].reshape(2, 784).numpy(), expected)
    assert targets.tolist() == [3, 0]
    assert isinstance(splits.train.sources["audio"].first.array, np.memmap)


def centred_images(arrays: Arrays) -> None:
    """As published: float64 and without the mean image, which is not added back."""
    mean = arrays["image/train_data.npy"].mean(0)
    for split in ("train", "test"):
        arrays[f"image/{split}_data.npy"] = (
            arrays[f"image/{split}_data.npy"].astype(np.float64) - mean
        )


@pytest.mark.parametrize("protocol", ["heldout", "published"])
def test_published_centred_images_are_divided_as_they_are(protocol: str, tmp_path: Path) -> None:
    arrays = avmnist_arrays()
    centred_images(arrays)
    splits = load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), protocol)
    inputs, _ = splits.train.read([5, 2])
    rows = splits.train.rows[[5, 2]]
    # In float64, as published.
    expected = (arrays["image/train_data.npy"][rows] / 255.0).astype(np.float32)
    np.testing.assert_array_equal(inputs["visual"].reshape(2, 784).numpy(), expected)
    assert inputs["visual"].min() < 0
    sounds = arrays["audio/train_data.npy"][rows].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(inputs["audio"][:, 0].numpy(), sounds)
    source = splits.train.sources["visual"]
    assert isinstance(source.first.array, np.memmap)
    assert source.first.array.dtype == np.float64  # as in the file: no copy of all of it
    (note,) = splits.notes
    assert note.startswith("visual: float64, -")
    assert note.endswith("% negative: centred, divided by 255 as they are")


def test_the_published_form_stays_on_disk(tmp_path: Path) -> None:
    """50 MB of float64 images are looked at, and read a batch at a time, without room for a copy of them."""
    arrays = avmnist_arrays()
    rows = 8000
    arrays["image/train_data.npy"] = np.tile(np.linspace(-189.0, 256.0, 784), (rows, 1))
    arrays["image/test_data.npy"] = arrays["image/train_data.npy"][:20]
    arrays["audio/train_data.npy"] = np.zeros((rows, 112, 112), dtype=np.uint8)
    arrays["audio/train_data.npy"][:, 5] = 255
    arrays["train_labels.npy"] = np.arange(rows) % 10
    root = write_avmnist(tmp_path, arrays)
    del arrays
    tracemalloc.start()
    try:
        splits = load_dataset("av-mnist", str(root), "heldout")
        splits.train.read(range(64))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kinds", [("image",), ("audio",), ("image", "audio")])
def test_values_of_0_to_1_are_not_divided_again(
    dtype: type, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    """Of each input on its own: one may be scaled and the other not."""
    arrays = avmnist_arrays()
    plain = load_dataset("av-mnist", str(write_avmnist(tmp_path / "plain", arrays)), "heldout")
    for name in arrays:
        if name.startswith(kinds):
            arrays[name] = (arrays[name] / 255).astype(dtype)
    scaled = load_dataset("av-mnist", str(write_avmnist(tmp_path / "scaled", arrays)), "heldout")
    for (_, expected), (_, split) in zip(plain.items(), scaled.items(), strict=True):
        inputs, reference = split.read(range(len(split)))[0], expected.read(range(len(split)))[0]
        for modality in ("audio", "visual"):
            np.testing.assert_allclose(inputs[modality], reference[modality], atol=1e-6)
    assert plain.notes == ()
    assert [note.split(":")[0] for note in scaled.notes] == [
        m for m, kind in (("audio", "audio"), ("visual", "image")) if kind in kinds
    ]
    assert all("scaled to 0..1 already, taken as they are" in note for note in scaled.notes)


def test_the_scale_is_that_of_the_file_and_not_of_the_batch(tmp_path: Path) -> None:
    arrays = avmnist_arrays(dtype=np.float32)
    dark = arrays["image/train_data.npy"][:12]
    dark[:] = 0
    dark[:, 3] = 1
    splits = load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "published")
    inputs, _ = splits.train.read(range(12))
    assert float(inputs["visual"].max()) == pytest.approx(1 / 255)


def test_train_and_test_of_different_scales_are_refused(tmp_path: Path) -> None:
    arrays = avmnist_arrays()
    arrays["audio/test_data.npy"] = arrays["audio/test_data.npy"] / 255
    with pytest.raises(
        DataError, match=r"audio/test_data\.npy: float64, 0 to 1.*audio/train_data\.npy: uint8"
    ):
        load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "heldout")


def test_heldout_divides_train_and_keeps_test_whole(tmp_path: Path) -> None:
    root = str(write_avmnist(tmp_path, avmnist_arrays(train=57)))
    splits = load_dataset("av-mnist", root, "heldout")
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 47, "validation": 5, "test": 20, "predictor": 5}
    rows = [split.rows for name, split in splits.items() if name != "test"]
    assert sorted(np.concatenate(rows)) == list(range(57))
    again, other = (load_dataset("av-mnist", root, "heldout", split_seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.train.rows, splits.train.rows)
    assert not np.array_equal(other.train.rows, splits.train.rows)


def test_published_divides_as_the_paper(tmp_path: Path) -> None:
    arrays = avmnist_arrays(train=57, test=23)
    splits = load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "published")
    assert splits.test is None
    assert splits.predictor is not None
    assert (len(splits.train), len(splits.validation), len(splits.predictor)) == (51, 20, 6 + 3)
    np.testing.assert_array_equal(splits.train.targets, arrays["train_labels.npy"][:51])
    np.testing.assert_array_equal(splits.validation.targets, arrays["test_labels.npy"][:20])
    held = np.concatenate([arrays["image/train_data.npy"][51:], arrays["image/test_data.npy"][20:]])
    inputs, targets = splits.predictor.read(range(9))
    np.testing.assert_allclose(inputs["visual"].reshape(9, 784).numpy() * 255, held, rtol=1e-6)
    assert targets.tolist() == [*arrays["train_labels.npy"][51:], *arrays["test_labels.npy"][20:]]


def change(
    name: str, how: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = how(arrays[name])

    return apply


def at_sample_three(value: float) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def how(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        array = array.astype(np.float32)
        array[3].flat[5] = value
        return array

    return how


DAMAGE = {
    "missing": (
        lambda arrays: arrays.pop("audio/train_data.npy"),
        r"audio/train_data\.npy is missing",
    ),
    "shape": (
        change("image/test_data.npy", lambda a: a.reshape(-1, 28, 28)),
        r"image/test_data\.npy has shape \[20, 28, 28\]; expected \[N, 784\]",
    ),
    "cropped": (
        change("audio/train_data.npy", lambda a: a[:, :100]),
        r"has shape \[40, 100, 112\]; expected \[N, 112",
    ),
    "counts": (
        change("image/train_data.npy", lambda a: a[:-1]),
        r"holds 39 samples and .*audio.* 40; expected the same",
    ),
    "nan": (
        change("audio/test_data.npy", at_sample_three(np.nan)),
        r"audio/test_data\.npy: sample 3 holds nan",
    ),
    "inf": (
        change("image/train_data.npy", at_sample_three(np.inf)),
        r"image/train_data\.npy: sample 3 holds inf",
    ),
    "negative": (
        change("image/train_data.npy", at_sample_three(-1)),
        r"sample 3 holds -1.*from 0 to 255",
    ),
    "no numbers": (
        change("image/train_data.npy", lambda a: a.astype("U3")),
        r"holds <U3; expected an array of numbers",
    ),
    "objects": (
        change("image/train_data.npy", lambda a: a.astype(object)),
        r"train_data\.npy cannot be read",
    ),
    "empty": (change("image/test_data.npy", lambda a: a[:0]), r"is empty: it holds no sample"),
    "few labels": (change("train_labels.npy", lambda a: a[1:]), r"holds 39 labels for 40 samples"),
    "label 10": (
        change("train_labels.npy", lambda a: a + 1),
        r"labels from 1 to 10; expected 0 to 9",
    ),
    "one-hot labels": (
        change("train_labels.npy", lambda a: np.eye(10)[a]),
        r"has shape \[40, 10\]; expected \[N\]",
    ),
    "half labels": (
        change("test_labels.npy", lambda a: a + 0.5),
        r"labels that are not whole numbers",
    ),
    "nan labels": (
        change("test_labels.npy", lambda a: a * np.nan),
        r"labels that are not whole numbers",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(kind: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    arrays = avmnist_arrays()
    damage(arrays)
    with pytest.raises(DataError, match=message):
        load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "heldout")


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000])
def test_truncated_files_are_named(keep: int, tmp_path: Path) -> None:
    root = write_avmnist(tmp_path, avmnist_arrays())
    path = root / "audio" / "train_data.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"audio/train_data\.npy cannot be read: truncated, or not an \.npy file"
    ):
        load_dataset("av-mnist", str(root), "heldout")


def test_whole_number_labels_in_floats_are_fine(tmp_path: Path) -> None:
    arrays = avmnist_arrays()
    arrays["train_labels.npy"] = arrays["train_labels.npy"].astype(np.float64)
    splits = load_dataset("av-mnist", str(write_avmnist(tmp_path, arrays)), "heldout")
    assert splits.train.targets.dtype == np.int64


@pytest.mark.parametrize("root", ["", "/nowhere/at/all"])
def test_without_a_folder_the_layout_is_told(root: str) -> None:
    with pytest.raises(
        DataError, match=r"Looked for .*image/train_data\.npy.*How to get it: .*av-digits"
    ) as caught:
        load_dataset("av-mnist", root, "heldout")
    assert (root or "is empty") in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "protocol"), [(9, 20, "heldout"), (0, 20, "heldout"), (40, 0, "published")]
)
def test_too_few_samples_are_an_error(train: int, test: int, protocol: str, tmp_path: Path) -> None:
    root = write_avmnist(tmp_path, avmnist_arrays(train, test))
    with pytest.raises(DataError, match=r"expected at least 10|holds no sample"):
        load_dataset("av-mnist", str(root), protocol)


def test_unknown_protocol() -> None:
    with pytest.raises(ConfigError, match=r"data\.protocol is 'published'; AV-Digits has heldout"):
        load_dataset("av-digits", "", "published")


def test_the_real_files(shared_data: Path) -> None:
    splits = load_dataset("av-mnist", str(shared_data / "avmnist-small"), "heldout")
    sizes = {name: len(split) for name, split in splits.items()}
    assert sizes == {"train": 4800, "validation": 600, "test": 1200, "predictor": 600}
    assert set(splits.train.targets) == set(range(10))
    inputs, _ = splits.train.read(range(64))
    assert 0 <= float(inputs["audio"].min()) < float(inputs["audio"].max()) <= 1
