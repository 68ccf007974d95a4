"""SHAPE and competition strength of runs: while they train, afterwards, and without training anything twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ave_files import ave_arrays, write_ave
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from mosei_files import mosei_files, write_mosei
from urfunny_files import urfunny_content, write_urfunny

from gradmod.experiments.analysis.competition import measure_competition
from gradmod.experiments.analysis.diagnosis import attribute_run
from gradmod.experiments.cli import main as cli
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.reporting.report import write_report
from gradmod.experiments.runs.records import read_metrics, read_result
from gradmod.experiments.settings.config import Config, MonitorConfig
from gradmod.experiments.training.concept_runs import ensure_concepts
from gradmod.experiments.training.concepts import concept_outputs, concepts_of
from gradmod.experiments.training.evaluation import predict_features
from gradmod.experiments.training.opening import open_run
from gradmod.experiments.training.parts import read_data
from gradmod.experiments.training.run import train
from gradmod.metrics.competition import competition_strength
from runs import log_lines, short


def names(config: Config) -> list[str]:
    return [one.config.train.name for one in concepts_of(config, read_data(config)).values()]


@pytest.mark.parametrize("fusion", ["late", pytest.param("early", marks=pytest.mark.slow)])
def test_monitored_while_it_trains_and_measured_afterwards(
    fusion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--fusion",
        fusion,
        "--epochs",
        "4",
        "--width",
        "16",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    monitored = ["--shape-every", "1", "--competition-every", "2", "--name", "a"]
    assert cli.main(["train", *words, *monitored]) == 0
    epochs = read_metrics(tmp_path / "a" / "metrics.jsonl").epochs
    assert ["competition" in epoch for epoch in epochs] == [False, True, False, True]
    for epoch in epochs:
        shape, validation = epoch["shape"], epoch["validation"]
        assert sum(shape["values"].values()) <= validation["accuracy"]
        assert shape["contributions"]["audio"] == pytest.approx(
            shape["values"]["audio"] / validation["accuracy"]
        )
    trained = sorted(path.name for path in (tmp_path / "concepts").iterdir() if path.is_dir())
    assert len(trained) == 2
    assert {read_result(tmp_path / "concepts" / name)["modality"] for name in trained} == {
        "audio",
        "visual",
    }

    # The epoch's figures are those of the checkpoint of that epoch.
    record = measure_competition(tmp_path / "a", split="validation", checkpoint="last")
    assert record["strength"] == pytest.approx(epochs[-1]["competition"], rel=1e-6)
    found = json.loads(
        attribute_run(
            tmp_path / "a", split="validation", checkpoint="last", replicates=10
        ).read_text()
    )
    assert found["values"] == pytest.approx(epochs[-1]["shape"]["values"], abs=1e-9)
    assert set(found["alone"]) == {"audio", "visual"}
    path = attribute_run(
        tmp_path / "a", split="validation", metric="auroc", noise_levels=(1.0,), replicates=0
    )
    areas = json.loads(path.read_text())
    assert (areas["metric"], areas["game"]["nothing"], areas["alone"]) == ("auroc", 0.5, {})
    assert 0.5 < areas["game"]["audio+visual"] <= 1
    assert 0 <= areas["robustness"]["audio"][0] <= 1

    # A run that is not monitored trains to the same weights, and needs no concept trained again.
    capsys.readouterr()
    assert cli.main(["train", *words, "--name", "b"]) == 0
    dropped = ("seconds", "command", "shape", "competition")
    assert log_lines(tmp_path / "b", drop=dropped) == log_lines(tmp_path / "a", drop=dropped)
    assert cli.main(["competition", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    assert "training the mono-modal concept" not in printed.err
    assert "competition strength" in printed.out
    assert cli.main(["attribute", str(tmp_path / "b"), "--replicates", "20"]) == 0
    printed = capsys.readouterr()
    for part in (
        "share of the whole",
        "nothing (best constant answer)",
        "with noise in one modality",
        "carries",
    ):
        assert part in printed.out


def test_a_strength_is_that_of_the_exported_arrays(tmp_path: Path) -> None:
    summary = train(short(tmp_path, name="a"))
    assert summary is not None
    for kind in ("logits", "features"):
        record = measure_competition(tmp_path / "a", concept=kind, penalty=7.0)
        run = open_run(tmp_path / "a")
        concepts = concepts_of(run.config, run.parts.data)
        with np.load(tmp_path / "a" / "competition" / "test_features.npz") as features:
            for m, one in concepts.items():
                outputs = [
                    concept_outputs(one, split, run.parts.data, kind)
                    for split in ("predictor", "test")
                ]
                strength = competition_strength(
                    features["predictor"], outputs[0], features["evaluated"], outputs[1], 7
                )
                assert record["strength"][m] == pytest.approx(strength)
    logits = predict_features(run.fabric, run.model, run.split("test"), batch_size=50)[1]
    with np.load(tmp_path / "a" / "predictions" / "test.npz") as stored:
        np.testing.assert_allclose(logits.numpy(), stored["logits"], atol=1e-5)


@pytest.mark.slow
def test_a_concept_that_learnt_nothing_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--width",
        "4",
        "--encoder",
        "mlp",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--lr",
        "1e-12",
        "--batch-size",
    ]
    words += ["2000", "--out", str(tmp_path), "--name", "run"]
    # An untrained network says something, if little.
    assert cli.main(["train", *words, "--competition-every", "1"]) == 0
    for path in tmp_path.rglob("outputs/*.npz"):
        with np.load(path) as stored:
            np.savez(path, **{name: np.ones_like(values) for name, values in stored.items()})
    capsys.readouterr()
    assert cli.main(["competition", str(tmp_path / "run")]) == 1
    assert cli.main(["train", *words[:-1], "other", "--competition-every", "1"]) == 1
    assert capsys.readouterr().err.count("says the same of every sample") == 2


def test_a_concept_is_known_by_what_it_depends_on(tmp_path: Path) -> None:
    config = short(tmp_path)
    base = names(config)
    same = {
        "method": "ogm-ge",
        "alpha": 0.1,
        "workers": 1,
        "log_every": 9,
        "timeout": 2.0,
        "name": "other",
    }
    assert names(short(tmp_path, **same)) == base
    changes: list[dict[str, Any]] = [
        {"epochs": 3}, {"seed": 1}, {"lr": 0.5}, {"width": 8}, {"fusion": "early"}, {"batch_size": 64},
        {"split_seed": 1}, {"clip_norm": 1.0}, {"precision": "bf16-mixed"},
    ]  # fmt: skip
    found = [names(short(tmp_path, **change)) for change in changes]
    assert all(not set(other) & set(base) for other in found)
    assert len({name for other in found for name in other}) == 2 * len(changes)


def test_other_data_have_other_concepts_wherever_they_lie(tmp_path: Path) -> None:
    arrays = avmnist_arrays()
    for folder in ("one", "copy"):
        write_avmnist(tmp_path / folder, arrays)
    arrays["audio/train_data.npy"][5] += 1
    write_avmnist(tmp_path / "changed", arrays)
    one, copy, changed = (
        names(short(tmp_path, dataset="av-mnist", root=str(tmp_path / folder), width=None))
        for folder in ("one", "copy", "changed")
    )
    assert one == copy
    assert not set(changed) & set(one)


def test_an_interrupted_concept_goes_on(tmp_path: Path) -> None:
    config = short(tmp_path)
    concepts = concepts_of(config, read_data(config))
    audio = concepts["audio"]
    half = replace(audio.config, train=replace(audio.config.train, epochs=1))
    assert train(half) is not None
    (audio.folder / "result.json").unlink()
    settings = audio.folder / "config.toml"
    settings.write_text(settings.read_text().replace("epochs = 1", "epochs = 2"))
    ensure_concepts(config)
    assert read_result(audio.folder)["epochs_trained"] == 2
    assert all(one.is_trained for one in concepts.values())


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="nothing competes with it"):
        concepts_of(short(tmp_path, modality="audio"), read_data(short(tmp_path)))
    monitored = replace(short(tmp_path), monitor=MonitorConfig(competition_every=1))
    several = replace(monitored, train=replace(monitored.train, devices=2))
    with pytest.raises(ConfigError, match="a run of several processes does not train them"):
        ensure_concepts(several)
    assert cli.main(["train", "--shape-every", "-1"]) == 2
    train(short(tmp_path, name="a", epochs=1))
    for words, message in (
        (["attribute", str(tmp_path / "a"), "--split", "exam"], "split is 'exam'"),
        (["attribute", str(tmp_path / "a"), "--metric", "auc"], "metric is 'auc'"),
        (["attribute", str(tmp_path / "a"), "--noise-levels", "-1"], "--noise-levels is (-1.0,)"),
        (["attribute", str(tmp_path / "nowhere")], "not a run folder"),
        (["competition", str(tmp_path / "a"), "--concept", "weights"], "concept is 'weights'"),
        (["competition", str(tmp_path / "a"), "--penalty", "-1"], "penalty is -1"),
    ):
        assert cli.main(words) in (1, 2)
        assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["crema-d", "ur-funny", "ave", "mosei"])
def test_every_data_set_can_be_diagnosed_and_measured(dataset: str, tmp_path: Path) -> None:
    """Frames, padded sequences, segments, token ids; networks that fuse late, and those whose modalities attend."""
    root = {
        "crema-d": lambda: write_cremad(tmp_path / "data"),
        "ur-funny": lambda: write_urfunny(tmp_path / "humor.pkl", urfunny_content()),
        "ave": lambda: write_ave(tmp_path / "data", ave_arrays()),
        "mosei": lambda: write_mosei(tmp_path / "data", mosei_files()),
    }[dataset]()
    small: dict[str, Any] = {
        "crema-d": {"encoder": "small-cnn"},
        "ur-funny": {"width": 16, "layers": 1},
    }.get(dataset, {})
    settings = {"width": None, "batch_size": 8, **small}
    config = short(
        tmp_path / "runs", dataset=dataset, root=str(root), epochs=1, name="a", **settings
    )
    summary = train(config)
    assert summary is not None
    strengths = measure_competition(summary.folder)["strength"]
    modalities = summary.result["modalities"]
    assert set(strengths) == set(modalities)
    assert all(np.isfinite(value) and value >= 0 for value in strengths.values())
    found = json.loads(
        attribute_run(summary.folder, noise_levels=(0.0, 1.0), replicates=20).read_text()
    )
    assert len(found["game"]) == 1 << len(modalities)
    assert set(found["alone"]) == set(modalities)
    assert write_report([summary.folder], tmp_path / "report.html").stat().st_size > 10_000
