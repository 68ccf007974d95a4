"""Data sets of the user's own, through the examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.training.network import build_model
from gradmod.models.mlp import MLP
from gradmod.models.small_cnn import SmallCNN

EXAMPLES = ROOT / "examples"
FAST = ["--epochs", "2", "--batch-size", "32", "--device", "cpu", "--name", "run", "--width", "8"]


def write_own_data(path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 100, (120, 16, 16, 3), dtype=np.uint8)
    images[np.arange(120), :, :, labels] += 100
    np.savez(path, images=images, table=rng.normal(labels[:, None], 1, (120, 5)), labels=labels)
    return path


@pytest.mark.parametrize("encoder", ["auto", "image=resnet18,table=mlp", "mlp"])
@pytest.mark.parametrize("modality", ["multimodal", "table"])
def test_images_and_a_table(
    encoder: str,
    modality: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_own_data(tmp_path / "my_data.npz")
    words = [
        "train",
        "--dataset",
        f"{EXAMPLES / 'own_data.py'}:load",
        "--root",
        str(data),
        "--encoder",
        encoder,
    ]
    assert cli.main([*words, "--modality", modality, *FAST]) == 0
    result = json.loads((tmp_path / "runs" / "run" / "result.json").read_text())
    assert result["modalities"] == (["image", "table"] if modality == "multimodal" else ["table"])
    assert result["splits"].keys() == {"train", "validation", "test", "predictor"}
    assert cli.main(["evaluate", "runs/run"]) == 2
    assert f"If it is yours, say so: --dataset {words[2]}" in capsys.readouterr().err
    assert cli.main(["evaluate", "runs/run", "--dataset", words[2]]) == 0


def test_the_example_is_short() -> None:
    assert len((EXAMPLES / "own_data.py").read_text().splitlines()) < 40


def test_six_modalities(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        f"{EXAMPLES / 'mfeat.py'}:load",
        "--root",
        str(shared_data / "mfeat.npz"),
        *FAST,
    ]
    assert cli.main([*words, "--lr", "0.05", "--alpha", "0.3"]) == 0
    result = json.loads((tmp_path / "runs" / "run" / "result.json").read_text())
    assert len(result["modalities"]) == 6
    assert result["strategy"] == "additive"
    assert result["splits"]["test"]["accuracy"] > 0.8


def test_auto_suits_the_shape() -> None:
    net = build_model({"image": (3, 8, 8), "table": (5,)}, 2, "auto", "late")
    assert isinstance(net.encoders["image"], SmallCNN)
    assert isinstance(net.encoders["table"], MLP)
    with pytest.raises(
        ConfigError, match=r"model\.encoder names image; expected one for each of image, table"
    ):
        build_model({"image": (3, 8, 8), "table": (5,)}, 2, {"image": "mlp"}, "late")


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def load(root, protocol, split_seed):\n    return 3\n")
    for name, message in (
        (f"{tmp_path}/mine.py:load", r"mine\.py:load returned int; expected gradmod\.data\.Splits"),
        (f"{tmp_path}/mine.py:other", r"mine\.py has no 'other'"),
        (f"{tmp_path}/yours.py:load", r"yours\.py does not exist"),
        ("no_such_module:load", r"there is no module 'no_such_module' to import"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_dataset(name, "", "heldout")
