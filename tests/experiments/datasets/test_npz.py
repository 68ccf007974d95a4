"""Arrays in one file: what is read of it, how it is divided and scaled, and what is refused in which words."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from npz_files import Arrays, npz_arrays, write_npz

from conftest import ROOT
from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison.run import _modalities
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError
from gradmod.experiments.settings.arguments import parse_settings
from gradmod.experiments.settings.comparison import Comparison


def load(path: str, protocol: str = "heldout", seed: int = 0) -> Splits:
    return load_dataset("npz", path, protocol, seed)


def whole(splits: Splits, part: str, name: str) -> np.ndarray[Any, Any]:
    split = getattr(splits, part)
    value = split.read_input(name, range(len(split)))
    assert isinstance(value, torch.Tensor)
    assert value.dtype == torch.float32
    return value.numpy()


@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_read(compressed: bool, tmp_path: Path) -> None:
    arrays = npz_arrays()
    splits = load(write_npz(tmp_path / "d.npz", arrays, compressed))
    assert splits.train.shapes == {"motion": (4,), "steps": (3, 5), "image": (8, 8)}
    assert splits.outputs == 3
    assert splits.test is not None
    np.testing.assert_array_equal(splits.test.targets, arrays["y_test"])
    np.testing.assert_array_equal(splits.test.groups["user"], arrays["user_test"])
    np.testing.assert_array_equal(
        whole(splits, "test", "image"), arrays["image_test"] / np.float32(255)
    )
    rows = splits.train.rows
    for name in ("motion", "steps"):
        trained = arrays[f"{name}_train"][rows].astype(np.float64)
        for part, of in (("train", trained), ("test", arrays[f"{name}_test"])):
            expected = (of - trained.mean(0)) / trained.std(0)
            np.testing.assert_allclose(whole(splits, part, name), expected, rtol=1e-5, atol=1e-6)
    array = splits.train.sources["image"].array  # type: ignore[attr-defined]
    assert isinstance(array, np.memmap) != compressed


def test_held_out_rows_do_not_move_the_scale(tmp_path: Path) -> None:
    arrays = npz_arrays()
    path = write_npz(tmp_path / "d.npz", arrays)
    before = load(path)
    assert before.predictor is not None
    others = np.setdiff1d(np.arange(60), before.train.rows)
    assert len(others) == len(before.validation) + len(before.predictor)
    arrays["motion_train"][others] += 1000
    arrays["motion_test"] -= 1000
    after = load(write_npz(tmp_path / "e.npz", arrays))
    np.testing.assert_array_equal(whole(after, "train", "motion"), whole(before, "train", "motion"))
    assert whole(after, "validation", "motion").min() > 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_entries_stay_finite(dtype: type, tmp_path: Path) -> None:
    arrays = npz_arrays()
    for part in ("train", "test"):
        arrays[f"motion_{part}"] = arrays[f"motion_{part}"].astype(dtype)
        arrays[f"motion_{part}"][:, 1] = 0.1
        arrays[f"motion_{part}"][::2, 2] = dtype(3)  # what varies is how 3 was rounded
        arrays[f"motion_{part}"][1::2, 2] = np.nextafter(dtype(3), dtype(4))
    arrays["motion_test"][0, 1:3] = 7
    splits = load(write_npz(tmp_path / "d.npz", arrays))
    np.testing.assert_allclose(whole(splits, "train", "motion")[:, 1:3], 0, atol=1e-6)
    np.testing.assert_allclose(whole(splits, "test", "motion")[0, 1:3], (6.9, 4), rtol=1e-6)
    note = splits.train.sources["motion"].describe()  # type: ignore[attr-defined]
    assert note.endswith("2 of 4 entries of a sample are constant there")


def test_large_offsets_keep_their_digits(tmp_path: Path) -> None:
    arrays = npz_arrays()
    times = 1.7e9 + np.arange(60) / 8
    arrays["time_train"], arrays["time_test"] = times, times[:21]
    splits = load(write_npz(tmp_path / "d.npz", arrays), "published")
    assert splits.train.shapes["time"] == (1,)
    expected = (times - times.mean()) / times.std()
    np.testing.assert_allclose(whole(splits, "train", "time")[:, 0], expected, atol=1e-5)


def test_protocols_and_a_validation_split(tmp_path: Path) -> None:
    def sizes(arrays: Arrays, protocol: str) -> dict[str, int]:
        splits = load(write_npz(tmp_path / "d.npz", arrays), protocol)
        return {part: len(split) for part, split in splits.items()}

    with_users, arrays = npz_arrays(), npz_arrays(validation=12)
    without = {name: of for name, of in with_users.items() if not name.startswith("user")}
    assert sizes(without, "heldout") == {"train": 48, "validation": 6, "test": 21, "predictor": 6}
    assert sizes(without, "published") == {"train": 60, "validation": 21}
    # Of 10 users, each with 6 samples.
    assert sizes(with_users, "heldout") == {
        "train": 42,
        "validation": 6,
        "test": 21,
        "predictor": 12,
    }
    assert sizes(arrays, "heldout") == {"train": 48, "validation": 12, "test": 21, "predictor": 12}
    assert sizes(arrays, "published") == {"train": 60, "validation": 21}
    splits = load(write_npz(tmp_path / "d.npz", arrays))
    np.testing.assert_array_equal(splits.validation.targets, arrays["y_validation"])
    for name in [name for name in arrays if name.startswith("user")]:
        del arrays[name]
    assert sizes(arrays, "heldout") == {"train": 54, "validation": 12, "test": 21, "predictor": 6}


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    """Of every kind: rooms join two users each, so that they go together."""
    arrays = npz_arrays()
    for part in ("train", "test"):
        users = arrays[f"user_{part}"]
        arrays[f"group_{part}"] = np.array([f"room {user // 2}" for user in users])
    path = write_npz(tmp_path / "d.npz", arrays)
    seen = []
    for seed in range(3):
        splits = load(path, seed=seed)
        parts = [split for part, split in splits.items() if part != "test"]
        assert sorted(np.concatenate([split.rows for split in parts])) == list(range(60))
        for kind, count in (("user", 10), ("group", 5)):
            of = [set(split.groups[kind].tolist()) for split in parts]
            assert sum(map(len, of)) == len(set.union(*of)) == count
        seen.append(splits.validation.rows.tolist())
        assert splits.notes[0].startswith(
            "warning: whole groups of user and group are held out of train: of 5, train 3 (36 samples), "
        )
    assert len({tuple(rows) for rows in seen}) > 1


def test_few_groups_are_told_of_aloud(tmp_path: Path) -> None:
    arrays = npz_arrays()
    assert load(write_npz(tmp_path / "d.npz", arrays)).notes[0].startswith("whole groups of user")
    for part in ("train", "test"):
        arrays[f"user_{part}"] //= 3
    (note,) = load(write_npz(tmp_path / "d.npz", arrays)).notes
    assert note.startswith("warning: whole groups of user are held out of train: of 4, train 2 (")
    assert "of 60 samples train. A validation split in the file, or --protocol published" in note
    assert load(str(tmp_path / "d.npz"), "published").notes == ()


def test_texts_are_classes_and_groups(tmp_path: Path) -> None:
    arrays = npz_arrays()
    names = np.array(["sit", "walk", "run"])
    for part in ("train", "test"):
        arrays[f"y_{part}"] = names[arrays[f"y_{part}"]]
        arrays[f"user_{part}"] = np.char.encode(arrays[f"user_{part}"].astype(str))
    splits = load(write_npz(tmp_path / "d.npz", arrays))
    assert splits.classes == ("run", "sit", "walk")
    assert splits.train.class_counts() == {"run": 14, "sit": 14, "walk": 14}
    assert {type(user) for user in splits.train.groups["user"].tolist()} == {str}


def test_a_file_that_is_not_compressed_stays_on_disk(tmp_path: Path) -> None:
    arrays = npz_arrays(train=3000)
    arrays["motion_train"] = np.random.default_rng(1).normal(size=(3000, 2000))  # 48 MB
    arrays["motion_test"] = np.asfortranarray(arrays["motion_train"][:21])
    path = write_npz(tmp_path / "d.npz", arrays)
    last = arrays["motion_test"][-1, :5].copy()
    arrays.clear()
    tracemalloc.start()
    try:
        splits = load(path, "published")
        inputs, _ = splits.validation.read([20])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Chunks of 16 MB, and what is made of one on the way.
    assert peak < 80e6
    moments = splits.train.sources["motion"].moments  # type: ignore[attr-defined]
    expected = (last - moments.mean[:5]) / moments.deviation[:5]
    np.testing.assert_allclose(inputs["motion"][0, :5], expected, rtol=1e-5)


Change = Callable[[Arrays], Any]


def setting(**values: Any) -> Change:
    return lambda arrays: arrays.update(values)


def removing(*names: str) -> Change:
    return lambda arrays: [arrays.pop(name) for name in names]


def holding(name: str, at: Any, value: Any) -> Change:
    def change(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(type(value))
        arrays[name][at] = value

    return change


def renaming(old: str, new: str) -> Change:
    return lambda arrays: arrays.update({new: arrays.pop(old)})


OBJECTS = np.array([{"a": 1}] * 60, dtype=object)
REFUSED: list[tuple[Change, list[str]]] = [
    (removing("y_train"), ["lacks 'y_train', the labels of train; it holds motion_train"]),
    (renaming("y_test", "labels_test"), ["lacks 'y_test'", "save 'labels_test' under that name"]),
    (removing("image_test"), ["holds 'image_train' but not 'image_test'"]),
    (removing("user_test"), ["holds 'user_train' but not 'user_test'"]),
    (setting(image_validation=np.zeros((5, 8, 8))), ["'image_validation' but not 'y_validation'"]),
    (setting(y_validation=np.zeros(5, int)), ["holds 'motion_train' and 'motion_test' but not"]),
    (setting(image_val=np.zeros((5, 8, 8))), ["'image_val'", "'image_validation'"]),
    (
        setting(label_train=np.zeros(60), label_test=np.zeros(21)),
        ["'label_train' beside 'y_train'"],
    ),
    (setting(motion_test=np.zeros((20, 4))), ["/motion_test holds 20 samples and 'y_test' 21"]),
    (setting(motion_test=np.zeros((21, 5))), ["shape [5] and 'motion_train' of [4]"]),
    (setting(motion_test=np.float32(3)), ["/motion_test is a single value"]),
    (setting(motion_train=np.zeros((60, 0))), ["has the shape [60, 0]"]),
    (setting(image_test=np.zeros((21, 8, 8))), ["is float64 and 'image_train' uint8"]),
    (
        holding("motion_train", (slice(2, 9, 3), 1), np.float64(np.nan)),
        ["/motion_train holds 3 values that are not finite", "in 3 of 60 samples: 2, 5, 8"],
    ),
    (holding("motion_test", 4, np.float32(np.inf)), ["4 values", "in 1 of 21 samples: 4"]),
    (setting(motion_train=np.full((60, 4), 1e300)), ["240 values", "beyond float32"]),
    (setting(motion_train=OBJECTS), ["/motion_train holds objects, which take a pickle"]),
    (setting(y_train=OBJECTS), ["/y_train holds objects", "np.array(texts, dtype=str)"]),
    (setting(motion_train=np.array(["a"] * 60)), ["holds <U1; expected numbers: encode the text"]),
    (setting(motion_train=np.zeros((60, 4), complex)), ["holds complex128; expected numbers"]),
    (holding("y_train", 0, np.float32(0.5)), ["/y_train holds float32", "y.astype(np.int64)"]),
    (holding("y_train", [7, 9], np.int64(-1)), ["2 labels below 0 of 60 (sample 7: -1)"]),
    (holding("y_test", [1, 2], np.int64(8)), ["classes that train lacks", "8, in 2 of 21 samples"]),
    (setting(y_test=np.array(["a"] * 21)), ["numbers in 'y_train', texts in 'y_test'"]),
    (setting(y_train=np.zeros((60, 3), int)), ["/y_train has the shape [60, 3]; expected [N]"]),
    (setting(y_train=np.zeros(60, int), y_test=np.zeros(21, int)), ["one class"]),
    (
        removing(*(f"{m}_{p}" for m in ("motion", "steps", "image") for p in ("train", "test"))),
        ["holds no input; expected '<modality>_train'"],
    ),
    (setting(user_train=np.zeros((60, 2))), ["float64 [60, 2]; 'user' is the name of a group"]),
    (setting(user_train=np.arange(60) % 2), ["too few groups (2 of user); expected at least 3"]),
    (
        setting(group_train=np.zeros(60, int), group_test=np.ones(21, int)),
        ["(10 of user, 1 of group, 1 of them that share no sample with others)"],
    ),
    (renaming("motion_train", "multimodal_train"), ["but not"]),
    (
        setting(**{"a.b_train": np.zeros((60, 1)), "a.b_test": np.zeros((21, 1))}),
        ["an input is called 'a.b'"],
    ),
    (
        setting(
            image_train=np.arange(60, dtype=np.uint8)[:, None] % 5,
            image_test=np.arange(21, dtype=np.uint8)[:, None] % 5,
        ),
        ["/image_train: uint8, 0 to 4", "save them as int64"],
    ),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_is_refused(case: int, tmp_path: Path) -> None:
    change, said = REFUSED[case]
    arrays = npz_arrays()
    change(arrays)
    path = write_npz(tmp_path / "d.npz", arrays)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(path)
    for words in said:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def npy_bytes() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def torch_bytes() -> bytes:
    file = io.BytesIO()
    torch.save({"y_train": torch.zeros(3)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"", "it is empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "it is a web page (HTML)"),
        (npy_bytes(), "it is a NumPy array (.npy), not an .npz file of arrays"),
        (torch_bytes(), "it is a file of torch.save"),
        (b"\x80\x04\x95\x00\x00", "it is a pickle"),
    ],
)
def test_other_files(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(str(path))
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert cli.main(["check", "npz", str(path)]) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_told_in_words(compressed: bool, tmp_path: Path) -> None:
    path = Path(write_npz(tmp_path / "d.npz", npz_arrays(), compressed))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot be read: truncated, or not an \.npz file"):
        load(str(path))
    at = content.index(b"\x93NUMPY") if not compressed else content.index(b"motion_train.npy") + 40
    path.write_bytes(content[:at] + b"\xff" * 20 + content[at + 20 :])
    with pytest.raises(DataError, match=r"motion_train cannot be read: truncated or damaged"):
        load(str(path))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_that_promises_more_is_not_believed(compressed: bool, tmp_path: Path) -> None:
    """Else what lies behind an array in the file would be read as its values."""
    path = Path(write_npz(tmp_path / "d.npz", npz_arrays()))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    true = members["motion_train.npy"]
    members["motion_train.npy"] = true.replace(b"(60, 4)", b"(60, 9)")
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=r"motion_train cannot be read: .*2160 bytes of values"):
        load(str(path))


class Attack:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["motion_train", "y_train", "user_test"])
def test_nothing_in_a_file_is_run(name: str, tmp_path: Path) -> None:
    arrays = npz_arrays()
    arrays[name] = np.array([Attack(tmp_path / "run")] * len(arrays[name]), dtype=object)
    path = write_npz(tmp_path / "d.npz", arrays)
    with np.load(path, allow_pickle=True) as file:
        file[name]
    (tmp_path / "run").unlink()  # so the attack works
    with pytest.raises(DataError, match="holds objects, which take a pickle"):
        load(path)
    assert not (tmp_path / "run").exists()


def test_no_root_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root is empty\. Looked for .* y_train, y_test"):
        load("")
    with pytest.raises(DataError, match="is a folder; expected a file"):
        load(str(tmp_path))


def test_check_says_what_is_there_and_what_is_in_two_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = npz_arrays()
    arrays["user_test"][:6] = arrays["user_train"][0]
    for name in ("motion", "steps", "image"):
        arrays[f"{name}_test"][3] = arrays[f"{name}_train"][5]
    arrays["feature_names"] = np.array(["x", "y", "z", "up"])
    path = write_npz(tmp_path / "d.npz", arrays)
    facts = inspect("npz", path)
    assert not facts.problems
    assert facts.splits == {"train": 42, "validation": 6, "test": 21, "predictor": 12}
    assert facts.classes["test"] == {"0": 7, "1": 7, "2": 7}
    (double,) = (pair for pair in facts.doubles if "test" in pair)
    assert facts.doubles[double] == 1
    (shared,) = (key for key in facts.shared_groups if "test" in key)
    assert facts.shared_groups[shared].distinct == 1
    assert cli.main(["check", "npz", path]) == 0
    text = capsys.readouterr().out
    assert "note: not read, as their names end in no split's: feature_names" in text
    assert "note: motion: float32, " in text
    assert "standardised with mean and deviation of the 42 samples that train" in text
    assert "note: image: uint8: 0..255, divided by 255" in text
    assert "1 samples of test are in " in text
    assert "warning: the same user is in two splits: 1 of test (6 samples) in " in text


def test_the_example_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = (ROOT / "docs" / "datasets" / "npz.md").read_text(encoding="utf-8")
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    facts = inspect("npz", "my_data.npz")
    assert not facts.problems
    assert list(facts.inputs) == ["motion", "sound"]


def test_check_lists_all_that_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = npz_arrays()
    arrays["motion_train"][0] = np.nan
    arrays["steps_test"] = arrays["steps_test"][:5]
    assert cli.main(["check", "npz", write_npz(tmp_path / "d.npz", arrays)]) == 1
    text = capsys.readouterr().out
    assert text.count("problem: ") == 2
    assert "strike its row from every array of its split" in text


def test_a_run_of_it_and_what_a_comparison_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_npz(tmp_path / "d.npz", npz_arrays())
    base = ["--dataset", "npz", "--root", path, "--epochs", "1", "--device", "cpu", "--out", "runs"]
    encoder = "motion=mlp,steps=mlp,image=small-cnn"
    words = ["--encoder", encoder, "--norm", "true", "--method", "joint", "--name", "one"]
    assert cli.main(["train", *base, *words]) == 0
    assert cli.main(["evaluate", "runs/one"]) == 0
    weights = torch.load("runs/one/checkpoints/best.pt", weights_only=True)["model"]
    assert any(key.endswith("encoders.steps.layers.1.running_mean") for key in weights)
    compared = parse_settings(base, "gradmod compare", Comparison())
    assert _modalities(compared) == ("motion", "steps", "image")


def test_norm_without_an_mlp_is_refused_where_samples_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data.py"
    path.write_text(
        "import numpy as np\nfrom gradmod.data import Split, Splits\n\n\n"
        "def load(root, protocol, split_seed):\n"
        "    x = np.zeros((12, 1, 8, 8), np.float32)\n"
        "    whole = Split({'image': x}, np.arange(12) % 2)\n"
        "    return Splits(whole, whole, None, None)\n"
    )
    words = ["train", "--dataset", f"{path}:load", "--norm", "true", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "--norm is true and makes no difference" in error
    assert "the encoders are image=small-cnn" in error
