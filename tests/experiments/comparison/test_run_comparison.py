"""`gradmod compare` in this process: what it writes and says, with runs whose figures a test tells."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison import run as comparing
from gradmod.experiments.comparison import scheduling
from gradmod.experiments.methods.modulating import MSLRSettings
from gradmod.experiments.settings.comparison import CompareConfig, Comparison
from gradmod.experiments.settings.config import Config, MethodConfig, TrainConfig
from gradmod.experiments.settings.toml import load_config, save_config

TARGET = np.arange(40) % 2
MODALITIES = ("audio", "visual")


class Told:
    """A launcher whose runs end at once: seed s of joint training has 20 + s right answers of 40, AGM 4 more."""

    def __init__(self, jobs: int, device: str) -> None:
        self.jobs, self.device = jobs, device

    def start(self, words: Sequence[str], log: Path, slot: int) -> Told.Job:
        config = load_config(words[words.index("--config") + 1])
        if config.method.method == "mslr":
            log.write_text("gradmod: error: it broke\n")
            return Told.Job(1)
        write_run(config)
        return Told.Job(0)

    class Job:
        def __init__(self, code: int) -> None:
            self.code = code

        def poll(self) -> int:
            return self.code

        def interrupt(self) -> None:
            pass


def write_run(config: Config) -> None:
    right = (
        20
        + config.train.seed
        + (4 if config.method.method == "agm" else 0)
        + round(10 * vars(config.method.settings).get("alpha", 1.0))
    )
    classes = np.where(np.arange(40) < right, TARGET, 1 - TARGET)
    names = MODALITIES if config.data.modality == "multimodal" else (config.data.modality,)
    figures: dict[str, Any] = {"accuracy": right / 40, "macro_f1": 0.5, "loss": 1.0}
    figures["responses"] = {m: {"accuracy": 0.5} for m in names}
    result = {
        "task": "classification", "dataset": "made", "protocol": "heldout", "method": config.method.method,
        "seed": config.train.seed, "epochs": 1, "selected_by": "best", "device": "cpu", "modalities": list(names),
        "train_seconds": 2.0, "splits": {"test": figures, "validation": figures},
    }  # fmt: skip
    folder = Path(config.train.out) / config.train.name
    (folder / "predictions").mkdir(parents=True)
    save_config(config, folder / "config.toml")
    np.savez(
        folder / "predictions" / "test.npz",
        logits=np.eye(2, dtype=np.float32)[classes],
        target=TARGET,
    )
    lines = [{"kind": "start", "headline": "accuracy", "modalities": list(names)}]
    lines += [{"kind": "epoch", "epoch": 1, "validation": {"accuracy": right / 40}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "PAUSE", 0)
    monkeypatch.setattr(comparing, "LocalLauncher", Told)


def compare(tmp_path: Path, *words: str) -> int:
    return cli.main(
        ["compare", "--out", str(tmp_path), "--device", "cpu", "--name", "mine", *words]
    )


def test_the_table_and_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The registry knows the modalities: the data are for the runs to read.
    monkeypatch.setattr("gradmod.experiments.training.parts.read_data", None)
    tune = ["--tune", "agm.alpha=0.1,0.3", "joint.lr=0.1,0.2", "--tune-seeds", "3,4"]
    assert compare(tmp_path, "--methods", "agm", "--seeds", "0,1", *tune) == 0
    printed = capsys.readouterr()
    folder = tmp_path / "mine"
    with (folder / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["joint", "agm", "audio alone", "visual alone", "ensemble"]
    # Joint training has no alpha, which counts as 1 here; AGM's was chosen.
    assert float(rows["joint"]["accuracy_mean"]) == pytest.approx((30 + 31) / 80)
    assert float(rows["agm"]["accuracy_mean"]) == pytest.approx((27 + 28) / 80)
    assert float(rows["agm"]["accuracy_difference_to_joint"]) == pytest.approx(-3 / 40)
    for name in ("table.tex", "comparison.toml", "curves.svg", "methods.svg"):
        assert (folder / name).stat().st_size > 0
    records = json.loads((folder / "comparison.json").read_text())
    assert [record["folder"] for record in records[:2]] == [
        "runs/late-joint-seed0",
        "runs/late-joint-seed1",
    ]
    assert len(records) == 2 * 2 + 2 * 2
    assert {record["modality"] for record in records} == {"", *MODALITIES}
    note = "chosen on the validation split (mean of seeds 3, 4), late fusion: joint lr 0.1; agm alpha 0.3"
    assert note in printed.out
    assert note in (folder / "table.md").read_text()
    cheap = "uni-modal-losses, modality-dropout, pretrained (--methods)"
    assert f"not among the rows, though cheap and often as good: {cheap}" in printed.out
    assert f"{folder}: table.md" in printed.out
    assert "comparison on av-digits" in printed.out
    lines = [line for line in printed.err.splitlines() if "finished" in line]
    assert lines[0] == "choosing on validation 1/8: late-joint-trial1-seed3 finished"
    assert lines[-1] == "runs 8/8: late-only-visual-seed1 finished"
    assert len(lines) == 8 + 8

    assert compare(tmp_path, "--methods", "agm", "--seeds", "0,1", *tune) == 0
    again = capsys.readouterr()
    assert "finished" not in again.err
    assert again.out == printed.out


def test_a_failed_run_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(tmp_path, "--methods", "agm,mslr", "--seeds", "0", "--mono", "false") == 1
    printed = capsys.readouterr()
    error = printed.err.splitlines()[-1]
    assert "1 of 3 runs failed (late-mslr-seed0: gradmod: error: it broke)" in error
    assert "runs 3/3: late-mslr-seed0 failed: gradmod: error: it broke" in printed.err
    assert "left out, because they failed: late-mslr-seed0" in printed.out
    assert "left out" in (tmp_path / "mine" / "table.md").read_text()
    assert "chosen on" not in printed.out


def test_each_fusion_is_told_what_was_chosen_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--methods",
        "joint",
        "--seeds",
        "0",
        "--mono",
        "false",
        "--fusions",
        "late,early",
        "--tune-seeds",
        "7",
    ]
    assert compare(tmp_path, *words, "--tune", "joint.lr=0.1,0.2") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("chosen on")]
    assert [note.split("), ")[1] for note in notes] == [
        "late fusion: joint lr 0.1",
        "early fusion: joint lr 0.1",
    ]


def test_it_is_callable_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Comparison(
        compare=CompareConfig(methods="agm,mslr", seeds="0,1", mono=False),
        train=TrainConfig(out=str(tmp_path), name="mine", device="cpu"),
        method=MethodConfig(others={"mslr": MSLRSettings(window=3)}),
    )
    seen: list[tuple[str, int]] = []
    result = comparing.run_comparison(
        settings, lambda title, states: seen.append((title, len(states)))
    )
    assert result.folder == tmp_path / "mine"
    assert result.table is not None
    assert [row.label for row in result.table.rows] == ["joint", "agm"]
    assert [state.run.name for state in result.failed] == ["late-mslr-seed0", "late-mslr-seed1"]
    assert result.count == 6
    assert set(seen) == {("runs", 6)}
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""
    assert comparing.run_comparison(settings).count == 6  # nobody need follow
