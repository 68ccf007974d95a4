"""gradmod check: what it sees, and that it refuses what the loader refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ave_files import ave_arrays, write_ave
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from gradmod import cli
from gradmod.datasets.inspection import inspect
from mosei_files import mosei_files, write_mosei
from urfunny_files import urfunny_content, write_urfunny


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


def test_samples_in_two_splits_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = avmnist_arrays(train=40, test=20)
    for kind in ("image", "audio"):
        arrays[f"{kind}/test_data.npy"][:5] = arrays[f"{kind}/train_data.npy"][:5]
    root = write_avmnist(tmp_path, arrays)
    facts = inspect("av-mnist", str(root))
    assert sum(count for pair, count in facts.doubles.items() if "test" in pair) == 5
    assert cli.main(["check", "av-mnist", str(root)]) == 0
    assert "warning: " in capsys.readouterr().out


def test_a_damaged_sample_is_found_wherever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = written("crema-d", tmp_path)
    path = sorted((root / "Image-01-FPS").glob("*/*.jpg"))[-1]
    for frame in path.parent.iterdir():
        frame.write_bytes(frame.read_bytes()[:100])
    assert cli.main(["check", "crema-d", str(root)]) == 1
    assert ".jpg cannot be read: truncated" in capsys.readouterr().err


def test_values_that_are_not_finite_are_counted() -> None:
    from gradmod.datasets.inspection import DatasetFacts, _read_all
    from gradmod.datasets.registry import dataset_info
    from gradmod.datasets.samples import ArraySource, Split

    values: np.ndarray[Any, Any] = np.zeros((6, 2))
    values[1, 0], values[4, 1] = np.nan, np.inf
    facts = DatasetFacts(dataset_info("av-digits"))
    _read_all(Split({"x": ArraySource(values, (2,))}, np.zeros(6, dtype=np.int64)), facts)
    assert facts.inputs["x"].not_finite == 2
    assert (facts.inputs["x"].low, facts.inputs["x"].high) == (0, 0)


def test_unknown_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "mnist", "x"]) == 2
    assert "dataset is 'mnist'" in capsys.readouterr().err
