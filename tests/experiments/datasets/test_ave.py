"""AVE from its HDF5 files: splits, values, and what can be wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from ave_files import ave_arrays, write_ave

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.ave import H5Array
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.errors import DataError

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


def changed(
    name: str, how: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> Callable[[Files], None]:
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
    "key": (
        lambda f: f.update({"audio_feature.h5": ("x", np.zeros(3))}),
        r"audio_feature\.h5 lacks the array 'avad",
    ),
    "shape": (
        changed("visual_feature.h5", lambda a: a[:, :, 0]),
        r"visual_feature\.h5: .* expected \[N, 10, 7, 7, 512\]",
    ),
    "counts": (
        changed("audio_feature.h5", lambda a: a[1:]),
        r"holds .*'audio': 19.* expected the same number",
    ),
    "label count": (
        changed("right_labels.h5", lambda a: a[1:]),
        r"right_labels\.h5 holds labels of 19 samples, the features are of 20",
    ),
    "no labels": (
        lambda f: f.pop("right_labels.h5"),
        r"right_labels\.h5 is missing, as are right_label\.h5, labels\.h5",
    ),
    "weak labels": (
        lambda f: f.update({"mil_labels.h5": f.pop("right_labels.h5")}),
        r"right_labels\.h5 is missing.*mil_labels\.h5: no labels of segments",
    ),
    "video labels": (
        changed("right_labels.h5", lambda a: a[:, 0]),
        r"right_labels\.h5: .*\[20, 29\]; expected \[N, 10",
    ),
    "empty": (
        changed("audio_feature.h5", lambda a: a[:0]),
        r"audio_feature\.h5: avadataset is empty",
    ),
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
    "two labels": (
        changed("right_labels.h5", put(1)),
        r"right_labels\.h5: sample 3 is not one-hot",
    ),
    "half label": (
        changed("right_labels.h5", put(0.5)),
        r"right_labels\.h5: sample 3 is not one-hot",
    ),
    "range": (
        changed("test_order.h5", lambda a: a + 40),
        r"test_order\.h5 holds \d+; expected whole numbers 0 to 19",
    ),
    "negative": (
        changed("test_order.h5", lambda a: a - 20),
        r"test_order\.h5 holds -\d+; expected whole numbers 0",
    ),
    "halves": (
        changed("test_order.h5", lambda a: a + 0.5),
        r"test_order\.h5 holds \d+\.5; expected whole numbers",
    ),
    "nan order": (
        changed("val_order.h5", everywhere_nan),
        r"val_order\.h5 holds nan; expected whole numbers",
    ),
    "twice": (
        changed("train_order.h5", lambda a: np.repeat(a, 2)),
        r"train_order\.h5: sample \d+ is in train already",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    files = ave_arrays(20)
    damage, message = DAMAGE[kind]
    damage(files)  # type: ignore[operator]
    write_ave(tmp_path, files)
    with pytest.raises(DataError, match=message):
        load_dataset("ave", str(tmp_path), "heldout").train.read([0])


def test_the_test_split_is_that_of_its_order(root: Path) -> None:
    arrays = ave_arrays()
    test = load_dataset("ave", str(root), "heldout").test
    assert test is not None
    rows = arrays["test_order.h5"][1]
    np.testing.assert_array_equal(test.rows, rows)
    inputs, target = test.read(range(len(test)))
    np.testing.assert_array_equal(inputs["visual"].numpy(), arrays["visual_feature.h5"][1][rows])
    np.testing.assert_array_equal(target.numpy(), arrays["right_labels.h5"][1][rows].argmax(2))


@pytest.mark.parametrize("name", ["right_labels.h5", "right_label.h5", "labels.h5"])
def test_every_name_of_the_labels_is_read_and_said(name: str, tmp_path: Path) -> None:
    files = ave_arrays(20)
    files[name] = files.pop("right_labels.h5")
    splits = load_dataset("ave", str(write_ave(tmp_path, files)), "published")
    assert splits.notes == (f"the labels are those of {name}",)
    np.testing.assert_array_equal(splits.train.targets, files[name][1][splits.train.rows].argmax(2))


WRONG_LABELS = {
    "of videos": lambda a: a.max(1),
    "two a segment": lambda a: np.maximum(a, a[::-1]),
    "none a segment": lambda a: np.where(np.arange(10)[:, None] == 4, 0, a),
    "shares": lambda a: a / 2,
    "of fewer samples": lambda a: a[1:],
}


@pytest.mark.parametrize("wrong", WRONG_LABELS)
@pytest.mark.parametrize(
    ("bad", "good"), [("right_labels.h5", "labels.h5"), ("labels.h5", "right_label.h5")]
)
def test_of_several_labels_the_right_ones_are_taken(
    wrong: str, bad: str, good: str, tmp_path: Path
) -> None:
    files = ave_arrays(20)
    key, labels = files.pop("right_labels.h5")
    files |= {good: (key, labels), bad: (key, WRONG_LABELS[wrong](labels))}
    splits = load_dataset("ave", str(write_ave(tmp_path, files)), "published")
    taken, passed_over = splits.notes
    assert taken == f"the labels are those of {good}"
    assert passed_over.startswith(f"{bad} was not read: {tmp_path / bad}")
    np.testing.assert_array_equal(splits.train.targets, labels[splits.train.rows].argmax(2))


def test_two_right_files_of_labels_are_compared(tmp_path: Path) -> None:
    files = ave_arrays(20)
    key, labels = files["right_labels.h5"]
    other = labels.copy()
    other[3, :4] = np.eye(29)[7]
    files |= {"labels.h5": (key, other), "right_label.h5": (key, labels)}
    splits = load_dataset("ave", str(write_ave(tmp_path, files)), "published")
    assert splits.notes == (
        "the labels are those of right_labels.h5",
        "right_label.h5 was not read: it holds the same labels",
        "labels.h5 was not read: its labels differ for 4 of 200 segments",
    )
    np.testing.assert_array_equal(splits.train.targets, labels[splits.train.rows].argmax(2))


def test_check_says_which_labels_were_taken(tmp_path: Path) -> None:
    files = ave_arrays(20)
    files["labels.h5"] = files.pop("right_labels.h5")
    facts = inspect("ave", str(write_ave(tmp_path, files)))
    assert not facts.problems
    assert "the labels are those of labels.h5" in facts.notes
    assert facts.files["*label*.h5"][0] == 1


@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "u2"])
def test_other_types_of_the_same_numbers(kind: str, root: Path, tmp_path: Path) -> None:
    files = {
        name: (key, array.astype(kind if name.endswith("_order.h5") else "f8"))
        for name, (key, array) in ave_arrays().items()
    }
    files["right_labels.h5"] = ("avadataset", files["right_labels.h5"][1].astype(bool))
    other = load_dataset("ave", str(write_ave(tmp_path, files)), "heldout")
    usual = load_dataset("ave", str(root), "heldout")
    for (name, split), (_, same) in zip(usual.items(), other.items(), strict=True):
        np.testing.assert_array_equal(split.rows, same.rows, err_msg=name)
        for ours, theirs in zip(split.read([0, 1]), same.read([0, 1]), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


def test_samples_in_no_order_are_counted(tmp_path: Path) -> None:
    files = ave_arrays(20)
    key, order = files["train_order.h5"]
    files["train_order.h5"] = key, order[2:]
    assert (
        "2 samples are in none of train_order.h5"
        in load_dataset("ave", str(write_ave(tmp_path, files)), "heldout").notes[-1]
    )


def test_visual_features_of_the_genuine_size_stay_on_disk(tmp_path: Path) -> None:
    files = ave_arrays(10)
    samples, shape = 4143, (10, 7, 7, 512)
    rng = np.random.default_rng(0)
    first, last = rng.random((2, *shape))
    order = np.arange(samples)
    labels = np.eye(29, dtype=np.int64)[rng.integers(0, 29, (samples, 10))]
    files |= {
        "audio_feature.h5": ("avadataset", np.zeros((samples, 10, 128), np.float32)),
        "right_labels.h5": ("avadataset", labels),
        "train_order.h5": ("order", order[1:-402]),
        "val_order.h5": ("order", order[-402:]),
        "test_order.h5": ("order", order[:1]),
    }
    del files["visual_feature.h5"]
    write_ave(tmp_path, files)
    # 8.3 GB, of which two samples are written.
    with h5py.File(tmp_path / "visual_feature.h5", "w") as file:
        visual = file.create_dataset(
            "avadataset", (samples, *shape), np.float64, chunks=(1, *shape)
        )
        visual[0], visual[samples - 1] = first, last
    tracemalloc.start()
    splits = load_dataset("ave", str(tmp_path), "heldout")
    assert splits.test is not None
    values = splits.test.read([0])[0]["visual"], splits.validation.read([400, 401])[0]["visual"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(values[0][0].numpy(), first.astype(np.float32))
    np.testing.assert_array_equal(values[1][1].numpy(), last.astype(np.float32))
    assert not values[1][0].any()
    assert peak < 100e6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_reads_through_a_handle_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that read through one handle share its position, and HDF5's caches part from what is on disk."""
    opened: list[h5py.File] = []
    real = h5py.File

    def spy(*arguments: Any, **settings: Any) -> h5py.File:
        opened.append(real(*arguments, **settings))
        return opened[-1]

    array = H5Array(root / "visual_feature.h5", "avadataset", (None, 10, 7, 7, 512))
    parents = array._array().file.id.get_vfd_handle()
    before = os.lseek(parents, 777, os.SEEK_SET)
    monkeypatch.setattr(h5py, "File", spy)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            values = array.read(np.array([3]))
            own = opened[0].id.get_vfd_handle() if opened else parents
            answer = f"{len(opened)} {os.lseek(own, 0, os.SEEK_CUR)} {float(values.sum())}"
        except BaseException as error:
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        times, place, total = file.read().split()
    assert times == "1", "opened once more in the child"
    assert int(place) != before, "the child's handle is the parent's"
    assert float(total) == float(array.read(np.array([3])).sum())
    assert not opened, "the parent reads on through its own"


def test_a_handle_does_not_travel_with_a_pickle(root: Path) -> None:
    """Processes that are spawned get the source pickled; an open file cannot be."""
    array = H5Array(root / "visual_feature.h5", "avadataset", (None, 10, 7, 7, 512))
    expected = array.read(np.array([5, 2]))
    other = pickle.loads(pickle.dumps(array))
    torch.testing.assert_close(other.read(np.array([5, 2])), expected, rtol=0, atol=0)


def write_locked(path: Path, libver: str = "earliest") -> subprocess.Popen[str]:
    """A process that has the file open for writing, as `h5py.File(path, "r+")` has."""
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+', libver=sys.argv[2]); print('ready', flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path), libver],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


@pytest.mark.parametrize(
    "name", ["audio_feature.h5", "visual_feature.h5", "right_labels.h5", "val_order.h5"]
)
def test_a_locked_file_is_called_locked(name: str, tmp_path: Path) -> None:
    write_ave(tmp_path, ave_arrays(10))
    writer = write_locked(tmp_path / name)
    try:
        with pytest.raises(DataError) as refused:
            load_dataset("ave", str(tmp_path), "heldout")
    finally:
        writer.communicate("\n")
    message = str(refused.value)
    assert f"{name} is locked: another program has it open for writing" in message
    assert "HDF5_USE_FILE_LOCKING=FALSE" in message
    assert "truncated" not in message
    assert "damaged" not in message
    assert "fetch" not in message
    assert load_dataset("ave", str(tmp_path), "published").train  # sound, once it is closed


def test_no_other_labels_stand_in_for_locked_ones(tmp_path: Path) -> None:
    files = ave_arrays(10)
    files["labels.h5"] = files["right_labels.h5"]
    write_ave(tmp_path, files)
    writer = write_locked(tmp_path / "right_labels.h5")
    try:
        with pytest.raises(DataError, match=r"right_labels\.h5 is locked"):
            load_dataset("ave", str(tmp_path), "heldout")
    finally:
        writer.communicate("\n")


def test_a_file_system_without_locks_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        reason = "unable to lock file, errno = 37, error message = 'No locks available'"
        raise OSError(37, f"Unable to synchronously open file ({reason})")

    write_ave(tmp_path, ave_arrays(10))
    monkeypatch.setattr(h5py, "File", refused)
    with pytest.raises(
        DataError,
        match=r"is locked: .* its file system has no locks\. .*HDF5_USE_FILE_LOCKING=FALSE",
    ):
        load_dataset("ave", str(tmp_path), "heldout")


def test_a_file_that_a_killed_writer_left_marked(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["avadataset"] = np.zeros(3)
    writer = write_locked(path, "latest")
    writer.kill()
    writer.communicate()
    with pytest.raises(
        DataError, match=r"x\.h5 is marked as open for writing: .*h5clear -s .*x\.h5"
    ):
        H5Array(path, "avadataset", (None,))


def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(
            13,
            "Unable to synchronously open file (errno = 13, error message = 'Permission denied')",
        )

    write_ave(tmp_path, ave_arrays(10))
    monkeypatch.setattr(h5py, "File", refused)
    with pytest.raises(DataError, match=r"audio_feature\.h5 cannot be opened: Permission denied"):
        load_dataset("ave", str(tmp_path), "heldout")


def test_an_unknown_compression_is_not_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("avadataset", data=np.arange(1000.0), compression="gzip", chunks=(100,))
    content = bytearray(path.read_bytes())
    filter_id = content.find(b"deflate") - 8
    content[filter_id : filter_id + 2] = (32001).to_bytes(2, "little")
    content[filter_id + 4 : filter_id + 6] = b"\0\0"  # needed, not optional
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"x\.h5: avadataset is compressed in a way that h5py cannot undo here"
    ):
        H5Array(path, "avadataset", (None,)).all()


@pytest.mark.parametrize("keep", [0, 50, 5000, -1000])
def test_truncated_files_are_named(keep: int, tmp_path: Path) -> None:
    write_ave(tmp_path, ave_arrays(10))
    path = tmp_path / "visual_feature.h5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"visual_feature\.h5 cannot be read: truncated"):
        load_dataset("ave", str(tmp_path), "heldout").train.read(range(6))


@pytest.mark.parametrize("modality", [pytest.param("multimodal", marks=pytest.mark.slow), "audio"])
def test_it_trains_with_workers_as_without(
    modality: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        "ave",
        "--root",
        str(root),
        "--modality",
        modality,
        "--width",
        "8",
        "--epochs",
        "2",
    ]
    words += ["--batch-size", "8", "--device", "cpu", "--log-every", "1"]
    results = []
    for workers in ("0", "1"):
        assert cli.main([*words, "--workers", workers, "--name", f"w{workers}"]) == 0
        results.append(json.loads((tmp_path / "runs" / f"w{workers}" / "result.json").read_text()))
    assert results[0]["splits"] == results[1]["splits"]
    assert results[0]["strategy"] == "batched"
    assert sum(results[0]["class_counts"]["train"].values()) == 220  # segments
    capsys.readouterr()
    assert cli.main([*words, "--fusion", "early"]) == 2
    assert (
        "--fusion makes no difference to --dataset ave, which has one network of its own"
        in capsys.readouterr().err
    )


def test_targets_are_per_segment(root: Path) -> None:
    _, target = load_dataset("ave", str(root), "heldout").train.read([0, 1])
    assert target.shape == (2, 10)
    assert target.dtype == torch.int64
