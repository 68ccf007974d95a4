"""Methods that begin with mono-modal models: the trainer makes those, once, and hands their encoders over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradmod.experiments.cli import main as cli
from gradmod.experiments.errors import ConfigError, InterruptedRunError
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training import conduct
from gradmod.experiments.training.concept_runs import ensure_concepts
from gradmod.experiments.training.concepts import concepts_of
from gradmod.experiments.training.parts import read_data
from gradmod.experiments.training.run import resume, train
from runs import log_lines, short


def state(folder: Path, checkpoint: str = "best") -> dict[str, Tensor]:
    return {
        name: value
        for name, value in read_checkpoint(folder / "checkpoints" / f"{checkpoint}.pt")[
            "model"
        ].items()
        if isinstance(value, Tensor)
    }


def encoders_of_concepts(config: Config, inside: str) -> dict[str, Tensor]:
    """What the concepts' own checkpoints hold of the encoder that they are the concept of."""
    found = {}
    for m, one in concepts_of(config, read_data(config)).items():
        start = f"{inside}encoders.{m}."
        own = {name: value for name, value in state(one.folder).items() if name.startswith(start)}
        assert own
        found |= {f"model.encoders.{m}.{name.removeprefix(start)}": v for name, v in own.items()}
    return found


@pytest.mark.parametrize(("fusion", "inside"), [("late", "model."), ("early", "model.model.")])
def test_frozen_encoders_are_those_of_the_concepts(
    fusion: str, inside: str, tmp_path: Path
) -> None:
    config = short(tmp_path, fusion=fusion, method="pretrained", encoder_lr=0.0)
    summary = train(config)
    assert summary is not None
    ours = state(summary.folder, "last")
    expected = encoders_of_concepts(config, inside)
    assert {name for name in ours if ".encoders." in name} == set(expected)
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
    # Settings of the method are no concept's: a second run finds them, and trains none.
    times = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "concepts").glob("*/result.json")
    }
    assert len(times) == 2
    train(short(tmp_path, fusion=fusion, method="umt", name="second", weight=1.0))
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "concepts").glob("*/result.json")}
    assert now == times


def test_a_run_that_begins_again_from_its_start_has_its_teachers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(short(tmp_path, method="umt", name="whole"))
    assert whole is not None

    def killed(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "Loop", killed)
    with pytest.raises(InterruptedRunError):
        train(short(tmp_path, method="umt", name="cut"))
    monkeypatch.undo()
    assert not list((tmp_path / "cut" / "checkpoints").glob("*.pt"))
    resume(tmp_path / "cut")
    ours, theirs = state(tmp_path / "cut", "last"), state(whole.folder, "last")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [line for line in log_lines(tmp_path / "cut") if line["kind"] == "epoch"] == [
        line for line in log_lines(whole.folder) if line["kind"] == "epoch"
    ]


def test_a_resumed_run_needs_no_concepts(tmp_path: Path) -> None:
    train(short(tmp_path, method="umt", name="run", epochs=1))
    (tmp_path / "concepts").rename(tmp_path / "elsewhere")
    assert resume(tmp_path / "run", epochs=2) is not None
    assert not (tmp_path / "concepts").exists()


def test_several_processes_ask_for_concepts_first(tmp_path: Path) -> None:
    several = short(tmp_path, method="umt", devices=2)
    with pytest.raises(ConfigError, match="a run of several processes does not train them"):
        ensure_concepts(several)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "kept"
    words = ["--epochs", "1", "--width", "16", "--device", "cpu", "--out", str(tmp_path)]
    more = ["--method", "pretrained", "--encoder-lr", "0.1", "--concepts", str(place)]
    assert cli.main(["train", *words, *more]) == 0
    printed = capsys.readouterr().err
    for m in ("audio", "visual"):
        assert f"training the mono-modal concept of {m}: {place}" in printed
    assert len(list(place.glob("*/result.json"))) == 2
    assert cli.main(["train", *words, "--modality", "audio", "--method", "pretrained"]) == 2
    assert "makes no difference with one modality" in capsys.readouterr().err
