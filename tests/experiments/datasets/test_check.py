"""gradmod check: what it sees, and that it refuses what the loader refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ave_files import ave_arrays, write_ave
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from mosei_files import mosei_files, write_mosei
from own_files import write_loader
from urfunny_files import urfunny_content, write_urfunny

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.check import DatasetFacts, inspect
from gradmod.experiments.datasets.problems import by_kind


def written(dataset: str, folder: Path) -> Path:
    root = folder / "data"
    if dataset == "av-mnist":
        return write_avmnist(root, avmnist_arrays())
    if dataset == "crema-d":
        return write_cremad(root, train=12, test=12)
    if dataset == "ur-funny":
        return write_urfunny(folder / "humor.pkl", urfunny_content())
    return write_ave(root, ave_arrays(20)) if dataset == "ave" else write_mosei(root, mosei_files())


@pytest.mark.parametrize("dataset", ["av-mnist", "crema-d", "ur-funny", "ave", "mosei"])
def test_a_good_folder(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = written(dataset, tmp_path)
    assert cli.main(["check", dataset, str(root)]) == 0
    text = capsys.readouterr().out
    assert "ready to train on" in text
    assert "missing" not in text
    assert "warning" not in text
    facts = inspect(dataset, str(root))
    assert all(count for count, _ in facts.files.values())
    assert sum(facts.splits.values()) > 10
    assert all(np.isfinite(seen.low) and seen.low <= seen.high for seen in facts.inputs.values())


def test_what_the_files_of_av_mnist_hold_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = avmnist_arrays()
    mean = arrays["image/train_data.npy"].mean(0)
    for split in ("train", "test"):
        arrays[f"image/{split}_data.npy"] = arrays[f"image/{split}_data.npy"] - mean
    assert cli.main(["check", "av-mnist", str(write_avmnist(tmp_path, arrays))]) == 0
    images = np.concatenate([arrays[f"image/{split}_data.npy"] for split in ("train", "test")])
    text = capsys.readouterr().out
    share = f"{100 * (images < 0).mean():.0f} % negative"
    said = f"visual: float64, {images.min():.4g} to {images.max():.4g}, {share}: centred, divided by 255 as they are"
    assert text.count(said) == 1
    assert text.count("audio: uint8, 0 to 255, 0 % negative: 0..255, divided by 255") == 1
    assert "ready to train on" in text


def test_an_unclear_scale_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = avmnist_arrays()
    for split in ("train", "test"):
        arrays[f"audio/{split}_data.npy"] = arrays[f"audio/{split}_data.npy"] / 16
    assert cli.main(["check", "av-mnist", str(write_avmnist(tmp_path, arrays))]) == 1
    printed = capsys.readouterr()
    assert "not usable" in printed.out
    assert "it cannot be told of which scale that is" in printed.err


def test_embedded_data() -> None:
    facts = inspect("av-digits", "")
    assert not facts.problems
    assert facts.inputs["audio"].shape == (1, 32, 32)
    assert facts.classes["test"] is not None
    assert sum(facts.classes["test"].values()) == 359


def test_sequences_have_no_fixed_length(tmp_path: Path) -> None:
    facts = inspect("ur-funny", str(written("ur-funny", tmp_path)))
    assert facts.inputs["text.x"].shape == (None, 300)


@pytest.mark.parametrize("dataset", ["av-mnist", "crema-d", "ur-funny", "ave", "mosei"])
def test_a_missing_folder(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", dataset, str(tmp_path / "nowhere")]) == 1
    printed = capsys.readouterr()
    assert "not usable" in printed.out
    assert "missing" in printed.out
    assert printed.err.startswith("gradmod: error: ")
    assert printed.err.count("\n") == 1


def test_samples_in_two_splits_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = avmnist_arrays(train=40, test=20)
    for kind in ("image", "audio"):
        arrays[f"{kind}/test_data.npy"][:5] = arrays[f"{kind}/train_data.npy"][:5]
    root = write_avmnist(tmp_path, arrays)
    facts = inspect("av-mnist", str(root))
    assert sum(count for pair, count in facts.doubles.items() if "test" in pair) == 5
    assert cli.main(["check", "av-mnist", str(root)]) == 0
    assert "warning: " in capsys.readouterr().out


def test_a_damaged_sample_is_found_wherever_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = written("crema-d", tmp_path)
    path = sorted((root / "Image-01-FPS").glob("*/*.jpg"))[-1]
    for frame in path.parent.iterdir():
        frame.write_bytes(frame.read_bytes()[:100])
    assert cli.main(["check", "crema-d", str(root)]) == 1
    assert ".jpg cannot be read: truncated" in capsys.readouterr().err


def test_values_that_are_not_finite_are_counted() -> None:
    from gradmod.experiments.datasets.check import DatasetFacts, _read_all
    from gradmod.experiments.datasets.registry import dataset_info
    from gradmod.experiments.datasets.split import ArraySource, Split

    values: np.ndarray[Any, Any] = np.zeros((6, 2))
    values[1, 0], values[4, 1] = np.nan, np.inf
    facts = DatasetFacts(dataset_info("av-digits"))
    _read_all(Split({"x": ArraySource(values, (2,))}, np.zeros(6, dtype=np.int64)), facts)
    assert facts.inputs["x"].not_finite == 2
    assert (facts.inputs["x"].low, facts.inputs["x"].high) == (0, 0)


def test_all_damaged_samples_are_listed_and_how_to_go_on_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = written("crema-d", tmp_path)
    sounds = sorted((root / "Audio").glob("*.wav"))
    for path in sounds[:3]:
        path.write_bytes(b"")
    frames = sorted((root / "Image-01-FPS").glob("*/*.jpg"))
    frames[-1].write_bytes(frames[-1].read_bytes()[:100])
    frames[0].write_bytes(frames[0].read_bytes()[:100])  # of the same clip as the first sound
    assert cli.main(["check", "crema-d", str(root)]) == 1
    text = capsys.readouterr().out
    problems = [line for line in text.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 2
    assert all(path.name in problems[0] for path in sounds[:3])
    assert problems[0].startswith("problem: 3 alike (Audio/")
    assert all(f"{path.parent.name}/{path.name}" in problems[1] for path in (frames[0], frames[-1]))
    assert "note: 4 samples cannot be used as they are" in text
    assert "remove its sound or frame, or strike its line from the csv file" in text
    for path in sounds[:3]:
        path.unlink()
    frames[-1].unlink()
    facts = inspect("crema-d", str(root))
    assert not facts.problems
    assert any("3 clips left out" in note for note in facts.notes)


def damage(dataset: str, folder: Path) -> tuple[Path, list[list[str]]]:
    """A data set with several things wrong; of each kind, what its line says."""
    if dataset == "av-mnist":
        arrays = avmnist_arrays()
        arrays["train_labels.npy"][3] = 12
        del arrays["image/test_data.npy"], arrays["audio/test_data.npy"]
        root = write_avmnist(folder / "data", arrays)
        return root, [
            ["holds labels from 0 to 12", "1 of"],
            ["2 alike", "image/test_data.npy", "audio/test_data.npy"],
        ]
    if dataset == "crema-d":
        root = write_cremad(folder / "data", train=12, test=12)
        path = root / "CREMAD" / "train.csv"
        lines = path.read_text().splitlines()
        lines[2], lines[5], lines[7] = "1001_IAA_X,JOY", "nothing", lines[6]
        path.write_text("\n".join(lines))
        return root, [["2 alike", "line 3", "expected a clip name and one of"]]
    if dataset == "ur-funny":
        content = urfunny_content()
        for row in (2, 5):
            content["train"]["vision"][row, 0, 0] = np.nan
        content["valid"]["audio"][1, 1, 1] = np.nan
        return write_urfunny(folder / "humor.pkl", content), [
            ["2 alike (2, 5)", "train/vision: sample 2 holds values that are not finite"],
            ["valid/audio: sample 1 holds"],
        ]
    if dataset == "ave":
        arrays = ave_arrays(20)
        arrays["audio_feature.h5"][1][[3, 6], 0, 0] = np.nan
        arrays["train_order.h5"][1][1] = 99
        return write_ave(folder / "data", arrays), [["2 alike (3, 6)", "not finite"], ["holds 99"]]
    files = mosei_files()
    keys = list(files["train_sentences.p"])
    files["train_mels.p"][keys[1]] = np.zeros((4, 7))
    files["train_mels.p"][keys[2]] = np.zeros((5, 7))
    files["train_sentiment.p"][keys[3]] = 9.0
    del files["valid_mels.p"][next(iter(files["valid_sentences.p"]))]
    return write_mosei(folder / "data", files), [
        ["2 alike", keys[1], keys[2], "has shape [4, 7]"],
        [keys[3], "sentiment 9"],
        ["lacks 1 of"],
    ]


@pytest.mark.parametrize("dataset", ["av-mnist", "crema-d", "ur-funny", "ave", "mosei"])
def test_what_a_reader_refuses_is_listed_in_full(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, kinds = damage(dataset, tmp_path)
    facts = inspect(dataset, str(root))
    assert len(facts.problems) == len(kinds)
    for words in kinds:
        assert any(all(word in problem for word in words) for problem in facts.problems), (
            words,
            facts.problems,
        )
    train = [
        "train",
        "--dataset",
        dataset,
        "--root",
        str(root),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "runs"),
    ]
    assert cli.main(train) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "more: gradmod check lists them)" in error
    assert not (tmp_path / "runs").exists()


def test_one_line_for_problems_of_one_kind() -> None:
    messages = [f"/data/a/clip{n}.wav cannot be read: empty" for n in range(9)]
    messages += [
        "b.npy: sample 3 holds 'x'",
        "b.npy: sample 14 holds 'x'",
        "/data/a/clip0.wav cannot be read: empty",
    ]
    first, second = by_kind(messages, "/data")
    shown = ", ".join(f"a/clip{n}.wav" for n in range(5))
    assert first == f"9 alike ({shown}, and 4 more): {messages[0]}"
    assert second == "2 alike (3, 14): b.npy: sample 3 holds 'x'"


def own_facts(tmp_path: Path, body: str) -> DatasetFacts:
    return inspect(write_loader(tmp_path, body), "")


def test_all_problems_of_own_data_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "a[3], a[65], b[40] = np.nan, np.inf, np.nan\nreturn parts(y - 1)"
    facts = own_facts(tmp_path, body)
    assert len(facts.problems) == 4
    for message in (
        "'left' holds values that are not finite (NaN, infinite, or beyond float32) in 1 of 30 samples of train",
        "1 of 30 samples of test: sample 5",
        "'right' holds values that are not finite (NaN, infinite, or beyond float32) in 1 of 30 samples of validation",
        "labels below 0 (-1)",
    ):
        assert any(message in problem for problem in facts.problems)
    name = write_loader(tmp_path, body)
    assert cli.main(["check", name]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("problem: ") == 4
    assert (
        cli.main(["train", "--dataset", name, "--device", "cpu", "--out", str(tmp_path / "runs")])
        == 2
    )
    assert "(and 3 more: gradmod check lists them)" in capsys.readouterr().err


def test_samples_on_disk_that_are_not_finite_are_named(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(120, 6))
    values[62:70, 1] = np.nan
    np.save(tmp_path / "a.npy", values)
    facts = own_facts(
        tmp_path, f"return parts(y, left=np.load({str(tmp_path / 'a.npy')!r}, mmap_mode='r'))"
    )
    (problem,) = facts.problems
    assert (
        "8 samples of left hold values that are not finite, of 30 in test: sample 62, 63, 64, 65, 66, ..."
        in problem
    )
    assert facts.unreadable == 8


def test_how_to_leave_samples_out_is_said_where_the_reader_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", write_loader(tmp_path, "return parts(y - 1)")]) == 1
    assert (
        "to leave a sample out, take its row out of the rows of its split"
        in capsys.readouterr().out
    )


def test_shapes_that_differ_from_sample_to_sample(tmp_path: Path) -> None:
    facts = own_facts(
        tmp_path,
        "import torch\nclass Own:\n    shape = (2,)\n    def __len__(self): return 120\n"
        "    def read(self, rows, draws): return torch.zeros(len(rows), 3 if max(rows) >= 64 else 2)\n"
        "whole = Split({'own': Own()}, y)\n"
        "return Splits(*(whole.subset(np.arange(n, n + 30)) for n in (0, 30, 60, 90)))",
    )
    assert any(
        "'own' of predictor is read with the shape [3]" in problem for problem in facts.problems
    )


def test_one_modality_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # left: five of test are of train; right: all of the samples are their own.
    body = "a[60:65] = a[:5]\na[7] = a[8]\nreturn parts(y)"
    facts = own_facts(tmp_path, body)
    assert not facts.doubles
    assert {key: shared.samples for key, shared in facts.equal_inputs.items()} == {
        ("test", "train", "left"): 5
    }
    assert cli.main(["check", write_loader(tmp_path, body)]) == 0
    text = capsys.readouterr().out
    assert (
        "warning: left alone is the same in two splits, other inputs not: 5 samples of test in train (5 inputs)"
        in text
    )


def test_whole_samples_in_two_splits_are_told_once(tmp_path: Path) -> None:
    facts = own_facts(
        tmp_path, "a[60:65], b[60:65] = a[:5], b[:5]\na[61], b[61] = a[0], b[0]\nreturn parts(y)"
    )
    assert facts.doubles == {("test", "train"): 5}
    assert not facts.equal_inputs
    assert facts.repeated == {"test": 2}


def test_silence_does_not_flood(tmp_path: Path) -> None:
    facts = own_facts(
        tmp_path, "a[::2] = 0\nb[1::4] = rng.normal(size=4)\na[90] = a[1]\nreturn parts(y)"
    )
    assert facts.slight == {"left": 59}
    assert facts.equal_inputs["predictor", "train", "left"].samples == 1
    assert all(
        shared.samples == 0 for (_, _, m), shared in facts.equal_inputs.items() if m == "right"
    )
    assert len(list(facts.warnings())) == 1
    assert (
        sum(
            "right: some inputs are those of 10 samples and more" in remark
            for remark in facts.remarks()
        )
        == 1
    )


def test_groups_in_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = (
        "who = np.arange(120) // 20\n"
        "whole = Split({'left': a, 'right': b}, y, groups={'subject': who})\n"
        "return Splits(*(whole.subset(np.arange(n, n + 30)) for n in (0, 30, 60, 90)))"
    )
    facts = own_facts(tmp_path, body)
    shared = {key: (found.distinct, found.samples) for key, found in facts.shared_groups.items()}
    assert shared == {
        ("validation", "train", "subject"): (1, 10),
        ("predictor", "test", "subject"): (1, 10),
    }
    assert cli.main(["check", write_loader(tmp_path, body)]) == 0
    text = capsys.readouterr().out
    assert (
        "warning: the same subject is in two splits: 1 of validation (10 samples) in train, 1 of predictor"
        in text
    )


def test_speakers_of_crema_d_are_told_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = written("crema-d", tmp_path)
    assert cli.main(["check", "crema-d", str(root)]) == 0
    text = capsys.readouterr().out
    assert (
        "note: 6 speakers of test (12 of 12 samples) are in train too; so its csv files are; --speakers disjoint"
        in text
    )


def test_one_class_and_classes_that_train_lacks(tmp_path: Path) -> None:
    arrays = avmnist_arrays(train=40, test=20)
    arrays["train_labels.npy"][:] = 3
    facts = inspect("av-mnist", str(write_avmnist(tmp_path, arrays)))
    warnings = list(facts.warnings())
    assert "all samples of train are of one class, 3" in warnings
    assert any(
        warning.startswith("test has classes that train lacks: 0, 1, 2") for warning in warnings
    )


def test_unknown_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "mnist", "x"]) == 2
    assert "dataset is 'mnist'" in capsys.readouterr().err
