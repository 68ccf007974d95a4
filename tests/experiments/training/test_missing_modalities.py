"""Samples that lack modalities, from the data set to the report: what stands in their place is never looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from missing_modalities import load

from conftest import ROOT
from gradmod import ModulatedModel
from gradmod.data import Split, Splits
from gradmod.experiments.analysis.diagnosis import attribute_run
from gradmod.experiments.datasets.fingerprint import differences, record_of
from gradmod.experiments.datasets.own import load_own
from gradmod.experiments.errors import DataError
from gradmod.experiments.methods import METHODS
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.settings.config import MonitorConfig
from gradmod.experiments.training.evaluation import Predictions, measure
from gradmod.experiments.training.parts import build_parts, describe_splits
from gradmod.experiments.training.run import evaluate, train
from gradmod.tasks import Classification, Regression
from runs import log_lines, short

OWN = f"{ROOT / 'tests' / 'files' / 'missing_modalities.py'}:load"


def run(out: Path, root: str, method: str, **changes: Any) -> Path:
    settings = {"dataset": OWN, "root": root, "encoder": "mlp", "method": method, "batch_size": 32}
    train(short(out, **{**settings, **changes}))
    return out / "run"


OF_EACH_KIND = {"joint", "agm", "uni-modal-losses", "mla", "umt", "gblending", "opm"}
"""One for each way to read the inputs; the others take longer together than these."""


def result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())["splits"]


@pytest.mark.parametrize(
    "method",
    [
        method if method in OF_EACH_KIND else pytest.param(method, marks=pytest.mark.slow)
        for method in METHODS
    ],
)
def test_what_stands_in_their_place_is_not_looked_at(method: str, tmp_path: Path) -> None:
    nan, number = (run(tmp_path / root, root, method) for root in ("nan", "7"))
    weights = [read_checkpoint(f / "checkpoints" / "last.pt")["model"] for f in (nan, number)]
    for name, tensor in weights[0].items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, weights[1][name]), name
    assert log_lines(nan)[1:] == log_lines(number)[1:]
    assert result(nan) == result(number)


def test_a_run_is_not_that_of_samples_that_have_everything(tmp_path: Path) -> None:
    assert result(run(tmp_path / "lacks", "0", "joint")) != result(run(tmp_path, "all", "joint"))


def test_the_trainer_takes_the_steps_of_a_loop_of_ones_own(tmp_path: Path) -> None:
    """The batches of the run, one after the other, through `training_step`."""
    config = short(
        tmp_path,
        dataset=OWN,
        root="nan",
        encoder="mlp",
        method="mmpareto",
        epochs=1,
        batch_size=150,
    )
    folder = train(config).folder
    parts = build_parts(config)
    model: ModulatedModel = parts.model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), config.optimizer.lr, config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )  # fmt: skip
    everything = np.arange(150)
    inputs, target = parts.data.train.read(everything)
    present = parts.data.train.read_present(everything)
    model.training_step(
        inputs, target, optimizer, present=present, clip_norm=config.optimizer.clip_norm
    )
    trained = read_checkpoint(folder / "checkpoints" / "last.pt")["model"]
    for name, ours in model.state_dict().items():
        if ours.is_floating_point():  # the order of the samples differs, and with it the rounding
            torch.testing.assert_close(ours, trained[name], rtol=1e-4, atol=1e-5, msg=name)


def test_everything_else_reads_it_too(tmp_path: Path) -> None:
    settings = {"dataset": OWN, "encoder": "mlp", "method": "agm"}
    for root in ("nan", "7"):
        config = short(tmp_path, name=root, root=root, **settings)
        train(replace(config, monitor=MonitorConfig(shape_every=1)))
    folder = tmp_path / "nan"
    assert evaluate(folder, split="test", dataset=OWN) == result(folder)["test"]
    found = [
        json.loads(attribute_run(tmp_path / root, dataset=OWN, replicates=0).read_text())
        for root in ("nan", "7")
    ]
    assert found[0] == found[1]
    assert found[0]["samples"] == 50
    assert log_lines(folder)[1:] == log_lines(tmp_path / "7")[1:]
    stored = np.load(folder / "predictions" / "test.npz")
    expected = load("nan", "", 0).test.present  # type: ignore[union-attr]
    assert np.array_equal(stored["present"], np.stack([expected["audio"], expected["visual"]]))


def test_a_modality_is_measured_on_the_samples_that_have_it() -> None:
    target = torch.tensor([0, 1, 0, 1])
    right = torch.nn.functional.one_hot(target, 2).float()
    responses = torch.stack([right, torch.where(target[:, None] == 0, right, 0.0)])
    has = torch.tensor([[True] * 4, [True, False, True, False]])
    figures = measure(
        Predictions(right, responses, target, present=has), Classification(), ("a", "b")
    )
    assert figures["responses"]["b"]["accuracy"] == 1.0
    everyone = measure(Predictions(right, responses, target), Classification(), ("a", "b"))
    assert everyone["responses"]["b"]["accuracy"] < 1.0


def test_numbers_have_the_constant_shared_by_what_a_sample_has() -> None:
    """A sample with one modality alone: its response is the whole prediction, with all of the constant."""
    target = torch.tensor([[1.0], [3.0]])
    responses = torch.stack([torch.tensor([[0.5], [3.0]]), torch.tensor([[0.5], [0.0]])])
    has = torch.tensor([[True, True], [True, False]])
    alone = Predictions(responses.sum(0), responses, target, present=has).alone(Regression())
    torch.testing.assert_close(alone[:, 0], torch.tensor([[1.5], [1.5]]))
    torch.testing.assert_close(alone[0, 1], torch.tensor([3.0]))


def test_the_data_are_described_and_known_again() -> None:
    data = load("nan", "", 0)
    lacking = int((~data.train.present["audio"]).sum())
    assert f"train: {lacking} of 150 samples lack audio" in list(describe_splits(data))
    other = load("nan", "", 0)
    assert differences(record_of(data), record_of(other)) == []
    assert data.content_hash == other.content_hash
    other.train._present["audio"] = ~other.train._present["audio"]
    changed = Splits(other.train, data.validation, data.test, None)
    assert "train: other samples lack an input" in differences(record_of(data), record_of(changed))
    assert changed.content_hash != data.content_hash


def test_what_is_refused() -> None:
    inputs, labels = {"audio": np.zeros((4, 2))}, np.arange(4)
    for present, said in (
        ({"visual": np.ones(4, bool)}, "present names 'visual'; the inputs are audio"),
        ({"audio": np.ones(3, bool)}, r"present 'audio' is bool \[3\]; expected bool \[4\]"),
        ({"audio": np.ones(4)}, r"present 'audio' is float64 \[4\]; expected bool"),
    ):
        with pytest.raises(DataError, match=said):
            Split(inputs, labels, present=present)

    def nothing(root: str, protocol: str, split_seed: int) -> Splits:
        split = Split(inputs, labels, present={"audio": np.zeros(4, bool)})
        return Splits(split, split, None, None)

    with pytest.raises(DataError, match="no sample of train has the input 'audio'"):
        load_own(nothing, "x.py:nothing", "", "heldout", 0)

    def holes(root: str, protocol: str, split_seed: int) -> Splits:
        split = Split({"audio": np.full((4, 2), np.nan)}, labels % 2)
        return Splits(split, split, None, None)

    with pytest.raises(DataError, match=r"Split\(\.\.\., present=\{'audio': has\}\)"):
        load_own(holes, "x.py:holes", "", "heldout", 0)
