"""A run knows its data: other data are refused with the difference, moved ones are taken by --root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from avmnist_files import avmnist_arrays, write_avmnist

from gradmod.experiments.cli import main as cli
from gradmod.experiments.errors import CheckpointError, ConfigError, DataError
from gradmod.experiments.files import write_json
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.training.known_data import known_data
from gradmod.experiments.training.opening import open_run
from gradmod.experiments.training.run import evaluate, resume, train
from runs import short

SETTINGS = {
    "dataset": "av-mnist",
    "encoder": "mlp",
    "width": 4,
    "batch_size": 16,
    "method": "joint",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and a run of an epoch, which was started there with a relative root."""
    folder = tmp_path_factory.mktemp("trained")
    write_avmnist(folder / "data", avmnist_arrays(60, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(short(Path("runs"), name="r", epochs=1, root="data", **SETTINGS))
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_it_is_kept_from_the_start(here: Path) -> None:
    known = known_data(here / "runs" / "r")
    assert known is not None
    assert {name: split["samples"] for name, split in known["splits"].items()} == {
        "train": 48, "validation": 6, "test": 20, "predictor": 6,
    }  # fmt: skip
    assert sum(known["splits"]["train"]["classes"].values()) == 48


@pytest.mark.parametrize("command", ["resume", "evaluate", "attribute", "competition"])
def test_data_that_grew_are_refused(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The held-out parts would be drawn anew: samples that were trained on would be scored."""
    write_avmnist(here / "data", avmnist_arrays(80, 30))
    before = sorted(path for path in here.rglob("*") if path.is_file())
    message = refused(
        capsys, command, "runs/r", *(["--epochs", "2"] if command == "resume" else [])
    )
    assert "the data at 'data' differ from those that the run runs/r was trained on" in message
    assert (
        "train: 64 samples, 48 then; validation: 8 samples, 6 then; test: 30 samples, 20 then"
        in message
    )
    assert sorted(path for path in here.rglob("*") if path.is_file()) == before


def test_changed_labels_and_inputs_are_refused(here: Path) -> None:
    arrays = avmnist_arrays(60, 20)
    arrays["test_labels.npy"] = arrays["test_labels.npy"][::-1].copy()
    write_avmnist(here / "data", arrays)
    with pytest.raises(
        DataError, match=r"trained on: test: other labels, or in another order\. Scores"
    ):
        evaluate("runs/r")
    arrays = avmnist_arrays(60, 20)
    arrays["image/train_data.npy"] = np.roll(arrays["image/train_data.npy"], 7, axis=0)
    write_avmnist(here / "data", arrays)
    with pytest.raises(DataError, match="train: other values of visual"):
        resume("runs/r", epochs=2)


def test_moved_data_are_taken_by_root(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = here.parent / "elsewhere"
    elsewhere.mkdir()
    (here / "runs" / "r").rename(elsewhere / "r")
    (here / "data").rename(here.parent / "moved")
    monkeypatch.chdir(elsewhere)
    for words in (["resume", "r", "--epochs", "2"], ["evaluate", "r"], ["attribute", "r"]):
        message = refused(capsys, *words)
        assert "was trained on data at 'data'" in message
        assert message.endswith("if they were moved, say where they are: --root")
        assert cli.main([*words, "--root", "../moved"]) == 0
        if words[0] == "resume":
            assert load_config(Path("r/config.toml")).data.root == "../moved"
            (here.parent / "moved").rename(here.parent / "again")
            (here.parent / "again").rename(here.parent / "moved")
            settings = Path("r/config.toml")
            settings.write_text(settings.read_text().replace("../moved", "data"))
    capsys.readouterr()
    assert cli.main(["evaluate", "r", "--root", "../moved", "--split", "validation"]) == 0


def test_root_and_dataset_that_change_nothing_are_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "evaluate", "runs/r", "--dataset", "av-mnist")
    assert "--dataset makes no difference: the run runs/r is of av-mnist" in message
    train(short(tmp_path, name="d", epochs=1))
    for command in ("resume", "evaluate", "attribute", "competition"):
        message = refused(capsys, command, str(tmp_path / "d"), "--root", "data")
        assert "--root makes no difference: AV-Digits" in message


def test_a_run_of_an_older_version_is_told_and_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "runs/r/data.json").unlink()
    evaluate("runs/r")
    note = "is a run of an older version: of its data, sizes and class counts are known"
    assert capsys.readouterr().err.count(note) == 1
    resume("runs/r", epochs=2)
    assert capsys.readouterr().err.count(note) == 1
    evaluate("runs/r")
    assert note not in capsys.readouterr().err  # training went on: from here on its data are known
    (here / "runs/r/data.json").unlink()
    write_avmnist(here / "data", avmnist_arrays(80, 30))
    with pytest.raises(DataError, match="train: 64 samples, 48 then"):
        evaluate("runs/r")
    log = here / "runs/r/metrics.jsonl"
    log.write_text(log.read_text().replace('"splits"', '"parts"', 1))
    evaluate("runs/r")
    assert "that they are the same cannot be checked" in capsys.readouterr().err


def test_damaged_knowledge_is_refused(here: Path) -> None:
    path = here / "runs/r/data.json"
    for text in ("{", "[]", '{"format": 99, "splits": {}}', '{"format": 1}'):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=r"data\.json is damaged, or of another version"):
            evaluate("runs/r")
    path.write_text('{"format": 1, "splits": {"train": 3}}')
    with pytest.raises(CheckpointError, match=r"data\.json cannot be used"):
        evaluate("runs/r")


def test_data_that_were_read_already_are_checked_too(here: Path) -> None:
    run = open_run("runs/r")
    known = json.loads((here / "runs/r/data.json").read_text())
    known["splits"]["train"]["targets"] = "0"
    write_json(here / "runs/r/data.json", known)
    with pytest.raises(DataError, match="other labels, or in another order"):
        open_run("runs/r", "best", run.parts.data)


OWN = """
import numpy as np
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits
def load(root, protocol, split_seed):
    x = np.random.default_rng(0).normal(size=(64, 4))
    whole = Split({"a": ArraySource(x, (4,)), "b": ArraySource(x, (4,))}, np.arange(64) % 2)
    return Splits(*(whole.subset(np.arange(i, 64, 3)) for i in range(3)), None)
"""


def test_code_of_ones_own_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("work", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "work" / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "work")
    train(short(Path("runs"), name="r", epochs=1, dataset="own.py:load", batch_size=8, width=4))
    monkeypatch.chdir(tmp_path / "other")
    run = "../work/runs/r"
    with pytest.raises(ConfigError, match="names code as its data set"):
        evaluate(run)
    with pytest.raises(ConfigError, match="code of its own: name that"):
        evaluate(run, dataset="av-digits")
    evaluate(run, dataset="../work/own.py:load")
    (tmp_path / "other" / "changed.py").write_text(OWN.replace("% 2", "// 32"))
    with pytest.raises(DataError, match="train: other labels"):
        evaluate(run, dataset="changed.py:load")
