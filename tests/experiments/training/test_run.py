"""Whole runs: what they leave, that they train, that they agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradmod.experiments.errors import ConfigError, TrainingError
from gradmod.experiments.methods import METHODS
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.runs.records import read_result
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.training import loop
from gradmod.experiments.training.evaluation import measure, predict
from gradmod.experiments.training.parts import build_parts
from gradmod.experiments.training.run import RunSummary, evaluate, resume, train
from gradmod.tasks import Classification
from runs import log_lines, short


def run(config: object) -> RunSummary:
    summary = train(config)  # type: ignore[arg-type]
    assert summary is not None
    return summary


def test_a_run_leaves_everything(tmp_path: Path) -> None:
    config = short(tmp_path, epochs=3)
    summary = run(config)
    folder = summary.folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.toml",
        "metrics.jsonl",
        "result.json",
        "curves.svg",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
        "predictions/test.npz",
    } <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert load_config(folder / "config.toml") == config

    result = json.loads((folder / "result.json").read_text())
    assert result["splits"].keys() == {"train", "validation", "test", "predictor"}
    for block in result["splits"].values():
        assert block.keys() == {"accuracy", "macro_f1", "loss", "responses"}
        assert block["responses"].keys() == {"audio", "visual"}
    assert result["versions"].keys() >= {"gradmod", "python", "torch"}
    assert result["seed"] == 0
    assert result["device"].startswith("cpu")
    assert "git" in result
    assert 1 <= result["best_epoch"] <= 3

    start, *events = log_lines(folder)
    assert start["kind"] == "start"
    assert start["strategy"] == "additive"
    assert start["splits"] == {"train": 1152, "validation": 143, "test": 359, "predictor": 143}
    steps = [line for line in events if line["kind"] == "step"]
    epochs = [line for line in events if line["kind"] == "epoch"]
    assert [line["step"] for line in steps] == list(range(3, 28, 3))
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for name in ("scores", "ratios", "running_ratios", "coefficients", "headlines"):
        assert steps[0][name].keys() == {"audio", "visual"}
    assert epochs[0]["coefficients"]["audio"].keys() == {"min", "p05", "median", "p95", "max"}


def test_the_result_is_that_of_the_best_epoch_on_every_sample(tmp_path: Path) -> None:
    summary = run(short(tmp_path, epochs=3))
    figures = evaluate(summary.folder, split="test", checkpoint="best")
    assert figures == summary.result["splits"]["test"]
    with np.load(summary.folder / "predictions" / "test.npz") as file:
        assert len(file["target"]) == 359
        assert file["responses"].shape == (2, 359, 10)
        accuracy = float((file["logits"].argmax(1) == file["target"]).mean())
        np.testing.assert_allclose(file["responses"].sum(0), file["logits"], rtol=1e-4, atol=1e-4)
    assert accuracy == pytest.approx(figures["accuracy"])
    validation = [
        line["validation"]["accuracy"]
        for line in log_lines(summary.folder)
        if line["kind"] == "epoch"
    ]
    assert summary.result["best_epoch"] == 1 + int(np.argmax(validation))
    assert read_checkpoint(summary.folder / "checkpoints" / "best.pt")["best_value"] == max(
        validation
    )


def test_the_result_is_not_that_of_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch counts as the best here, and it is not as good as the last one."""
    monkeypatch.setattr(Classification, "improves", lambda self, value, best: math.isnan(best))
    summary = run(short(tmp_path, epochs=3, encoder="mlp", lr=0.05, score_test=False))
    validation = [
        line["validation"]["accuracy"]
        for line in log_lines(summary.folder)
        if line["kind"] == "epoch"
    ]
    assert validation[0] != validation[-1]
    assert summary.result["best_epoch"] == 1
    assert summary.result["splits"]["validation"]["accuracy"] == validation[0]


def test_every_step_of_every_epoch_draws_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    original = loop.Loop._step

    def step(self: loop.Loop, batch: Any) -> Any:
        result = original(self, batch)
        drawn.append(float(torch.rand(())))  # nothing else draws in this network
        return result

    monkeypatch.setattr(loop.Loop, "_step", step)
    run(short(tmp_path, epochs=3, width=4, score_test=False))
    assert len(drawn) == len(set(drawn)) == 3 * 9


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        summary = run(short(tmp_path, name=name, seed=seed, encoder="mlp"))
        states.append(read_checkpoint(summary.folder / "checkpoints" / "last.pt")["model"])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert log_lines(tmp_path / "a") == log_lines(tmp_path / "b")


@pytest.mark.parametrize(
    "fusion", ["late", *(pytest.param(f, marks=pytest.mark.slow) for f in ("sum", "early"))]
)
def test_every_method_starts_from_the_same_network(fusion: str, tmp_path: Path) -> None:
    networks = {
        m: build_parts(short(tmp_path, method=m, fusion=fusion, seed=3)).model.model
        for m in METHODS
    }
    other = build_parts(short(tmp_path, fusion=fusion, seed=4)).model.model.state_dict()
    joint = networks["joint"].state_dict()
    assert any(not torch.equal(joint[key], other[key]) for key in joint)
    networks["mla"] = networks["mla"].network  # which has a head of its own around it
    for network in networks.values():
        assert repr(network) == repr(networks["joint"])
        ours = network.state_dict()
        assert ours.keys() == joint.keys()
        assert all(torch.equal(ours[key], joint[key]) for key in joint)


@pytest.mark.parametrize("clip", [{"clip_norm": 0.05}, {"clip_norm": 0.05, "clip_when": "head"}])
def test_agm_without_modulation_is_joint_training(clip: dict[str, Any], tmp_path: Path) -> None:
    """Head, batches, clipping, schedule: all is shared, so that alpha = 0 gives the same run."""
    ends = {}
    for method in ("joint", "agm"):
        config = short(
            tmp_path,
            name=method,
            method=method,
            **({"alpha": 0.0} if method == "agm" else {}),
            fusion="early",
            schedule="cosine",
            **clip,
        )
        ends[method] = read_checkpoint(run(config).folder / "checkpoints" / "last.pt")["model"]
    for name, value in ends["joint"].items():
        if name.startswith("model."):
            torch.testing.assert_close(ends["agm"][name], value, rtol=1e-4, atol=1e-5)


def test_the_test_split_is_left_alone_on_request(tmp_path: Path) -> None:
    folder = run(short(tmp_path, epochs=1, score_test=False)).folder
    assert set(read_result(folder)["splits"]) == {"train", "validation", "predictor"}
    assert [path.name for path in (folder / "predictions").iterdir()] == ["validation.npz"]


def test_a_modality_alone_has_its_encoder_or_the_whole_network_masked(tmp_path: Path) -> None:
    late = build_parts(short(tmp_path, fusion="late", modality="visual", method="joint")).model
    assert {name.split(".")[2] for name, _ in late.named_parameters() if ".encoders." in name} == {
        "visual"
    }
    parts = build_parts(short(tmp_path, fusion="early", modality="visual", method="joint"))
    assert {name.split(".")[3] for name, _ in parts.model.named_parameters() if ".encoders." in name} == {
        "audio", "visual",
    }  # fmt: skip
    inputs, _ = parts.data.train.read(range(4))
    parts.model.eval()
    shown = parts.model.model(inputs)
    for key, changes in (("audio", False), ("visual", True)):
        other = {**inputs, key: inputs[key] + 1}
        assert torch.equal(parts.model.model(other), shown) is not changes


@pytest.mark.parametrize("fusion", ["late", "sum", "early"])
@pytest.mark.parametrize("modality", ["multimodal", "visual"])
def test_every_fusion_trains_with_all_and_with_one_modality(
    fusion: str, modality: str, tmp_path: Path
) -> None:
    method = "agm" if modality == "multimodal" else "joint"
    summary = run(
        short(tmp_path, epochs=4, fusion=fusion, modality=modality, method=method, lr=0.05)
    )
    expected = {"audio", "visual"} if modality == "multimodal" else {"visual"}
    assert summary.result["splits"]["test"]["responses"].keys() == expected
    assert summary.result["splits"]["train"]["accuracy"] > 0.3  # chance is 0.1


@pytest.mark.parametrize("coalitions", ["looped", "batched", "reuse", "additive", "shared"])
def test_a_forced_strategy_is_used_and_recorded(coalitions: str, tmp_path: Path) -> None:
    summary = run(short(tmp_path, epochs=1, coalitions=coalitions))
    start = log_lines(summary.folder)[0]
    assert start["strategy"].startswith(coalitions)
    assert start["exact"] is (coalitions != "shared")


def test_the_window_of_epochs_is_kept(tmp_path: Path) -> None:
    summary = run(short(tmp_path, epochs=4, starts=2, ends=3, alpha=3.0))
    spans = [
        {m: (c["min"], c["max"]) for m, c in line["coefficients"].items()}
        for line in log_lines(summary.folder)
        if line["kind"] == "epoch"
    ]
    assert spans[0] == spans[3] == {"audio": (1.0, 1.0), "visual": (1.0, 1.0)}
    assert all(low < high for span in spans[1:3] for low, high in span.values())


def test_bf16_mixed_trains(tmp_path: Path) -> None:
    summary = run(short(tmp_path, epochs=3, precision="bf16-mixed", lr=0.05))
    assert summary.result["precision"] == "bf16-mixed"
    assert summary.result["splits"]["train"]["accuracy"] > 0.3


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["step", "cosine", "warmup-cosine"])
def test_optimizers_and_schedules_train(optimizer: str, schedule: str, tmp_path: Path) -> None:
    config = short(
        tmp_path,
        epochs=3,
        optimizer=optimizer,
        schedule=schedule,
        lr=0.003,
        decay_every=1,
        warmup_epochs=2,
    )
    rates = [line["lr"] for line in log_lines(run(config).folder) if line["kind"] == "step"]
    assert len(set(rates)) >= 2


def test_settings_that_only_training_can_refuse(tmp_path: Path) -> None:
    refused = {
        "data.modality is 'smell'": {"modality": "smell"},
        "data.dataset is 'nope'": {"dataset": "nope"},
        "AV-Digits has heldout": {"protocol": "published"},
        "'16-mixed', which needs a GPU": {"precision": "16-mixed"},
        "MSES stops modalities one by one": {"method": "mses", "modality": "audio"},
        "this is joint training. Give a factor": {"method": "mslr", "rule": "keep"},
        "does not declare": {"fusion": "early", "coalitions": "additive"},
    }
    if not torch.cuda.is_available():
        refused["sees 0 cuda device"] = {"device": "cuda"}
    for match, changes in refused.items():
        with pytest.raises(ConfigError, match=match):
            train(short(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_refused_and_a_default_name_made_unique(tmp_path: Path) -> None:
    run(short(tmp_path, epochs=1))
    with pytest.raises(ConfigError, match="exists already; go on with it by `gradmod resume"):
        train(short(tmp_path, epochs=1))
    names = [run(short(tmp_path, epochs=1, name="")).folder.name for _ in range(2)]
    assert names == ["av-digits-late-agm-seed0", "av-digits-late-agm-seed0-2"]


def test_a_finished_run_can_be_trained_on(tmp_path: Path) -> None:
    folder = run(short(tmp_path, epochs=2)).folder
    with pytest.raises(ConfigError, match="is finished"):
        resume(folder)
    longer = resume(folder, epochs=3)
    assert longer is not None
    assert longer.result["epochs"] == 3
    straight = run(short(tmp_path, name="straight", epochs=3)).folder
    assert log_lines(folder) == log_lines(straight)


@pytest.mark.filterwarnings("ignore:AGM could not use")
def test_a_diverging_run_stops_with_the_step_and_the_scores(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError,
        match=r"(loss is (nan|inf) at step \d+ \(epoch \d\); scores: audio .*visual|not finite: )",
    ):
        train(short(tmp_path, epochs=20, lr=1e30, clip_norm=None))
    state = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert all(
        value.isfinite().all() for value in state["model"].values() if value.is_floating_point()
    )


@pytest.mark.filterwarnings("ignore:AGM could not use")
def test_a_sample_that_is_not_finite_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradmod.experiments.datasets import av_digits
    from gradmod.experiments.training import parts

    def damaged(*args: object) -> object:
        splits = av_digits.load("", "heldout", 0)
        source: Any = splits.train.sources["audio"]
        array = source.array.copy()
        array[splits.train.rows[7]] = np.nan
        object.__setattr__(source, "array", array)
        return splits

    monkeypatch.setattr(parts, "load_dataset", damaged)
    with pytest.raises(
        TrainingError,
        match=r"loss is nan at step \d.*input of 'audio' is not finite in sample\(s\) 7 of",
    ):
        train(short(tmp_path, epochs=2))
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 0


def test_evaluation_gives_every_sample_once_and_restores_the_mode(tmp_path: Path) -> None:
    from gradmod.experiments.training.devices import make_fabric
    from gradmod.experiments.training.parts import build_parts

    config = short(tmp_path)
    parts = build_parts(config)
    fabric = make_fabric(config.train)
    parts.model.train()
    results = [
        predict(fabric, parts.model, parts.data.validation, batch_size=size)
        for size in (7, 143, 1000)
    ]
    assert parts.model.training
    for result in results:
        assert len(result.logits) == 143
        torch.testing.assert_close(result.logits, results[0].logits, rtol=1e-5, atol=1e-5)
        assert torch.equal(result.target, torch.from_numpy(parts.data.validation.targets))
        figures = measure(result, parts.task, ("audio", "visual"))
        assert figures["accuracy"] == pytest.approx(
            (result.logits.argmax(1) == result.target).double().mean().item()
        )
