"""Killed, interrupted and damaged runs go on exactly."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from gradmod.experiments.errors import CheckpointError, ConfigError, InterruptedRunError, WriteError
from gradmod.experiments.runs.checkpoints import Checkpoints, read_checkpoint
from gradmod.experiments.settings.toml import save_config
from gradmod.experiments.training.run import resume, train
from processes import run_gradmod, run_script, started_gradmod
from runs import log_lines, short

KILLED_AT = """
import os, signal, sys
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.runs import checkpoints
from gradmod.experiments.training import loop
from gradmod.experiments.training import run
where, count = sys.argv[2], int(sys.argv[3])
module, name = {"step": (loop.Loop, "_step"), "save": (checkpoints, "write_atomically"),
                "rename": (checkpoints, "_duplicate"), "evaluate": (loop, "predict")}[where]
original, calls = getattr(module, name), 0
def counted(*args, **kwargs):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(module, name, counted)
run.train(load_config(sys.argv[1]))
"""


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / "last.pt")["model"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    summary = train(short(out, fusion="early", epochs=3, save_every=4))
    assert summary is not None
    return summary.folder


def assert_same_end(folder: Path, expected: Path) -> None:
    ours, theirs = final_state(folder), final_state(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert log_lines(folder) == log_lines(expected)
    results = [(f / "predictions" / "test.npz").read_bytes() for f in (folder, expected)]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("step", 2),
        pytest.param("step", 7, marks=pytest.mark.slow),
        pytest.param("step", 14, marks=pytest.mark.slow),
        ("evaluate", 1),
        pytest.param("evaluate", 3, marks=pytest.mark.slow),
        ("save", 1),
        pytest.param("save", 3, marks=pytest.mark.slow),
        pytest.param("save", 6, marks=pytest.mark.slow),
        pytest.param("rename", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_like_one_that_was_not(
    where: str, count: int, uninterrupted: Path, tmp_path: Path
) -> None:
    # Dropout and batch norm in the early fusion.
    config = short(tmp_path, fusion="early", epochs=3, save_every=4)
    save_config(config, tmp_path / "settings.toml")
    script = tmp_path / "killed_at.py"
    script.write_text(KILLED_AT)
    killed = run_script(script, str(tmp_path / "settings.toml"), where, str(count))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)


def test_ctrl_c_finishes_the_step_and_the_run_goes_on(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradmod.experiments.training import loop

    original, calls = loop.Loop._step, []

    def interrupting(self: loop.Loop, batch: object) -> object:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Loop, "_step", interrupting)
    with pytest.raises(
        InterruptedRunError, match=r"interrupted after step 6; saved. Go on with: gradmod resume"
    ):
        train(short(tmp_path, fusion="early", epochs=3, save_every=4))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(seed: int, uninterrupted: Path, tmp_path: Path) -> None:
    """The moment is counted in lines of the log, and a little later: that fits machines of any speed."""
    draw = random.Random(seed)
    settings, run = tmp_path / "settings.toml", tmp_path / "run"
    save_config(short(tmp_path, fusion="early", epochs=3, save_every=4), settings)
    last, kills = len(log_lines(uninterrupted)), 0
    while kills < 4:
        if (run / "result.json").exists():  # finished before it was killed: another run
            assert_same_end(run, uninterrupted)
            shutil.rmtree(run)
        with started_gradmod(*words_to_go_on(run, settings)) as process:
            lines = draw.randint(lines_in_log(run), last)
            while process.is_alive() and lines_in_log(run) < lines:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.2))
            process.kill()
            process.join()
            assert process.exitcode in (0, -signal.SIGKILL)
            kills += process.exitcode != 0
    if not (run / "result.json").exists():
        ended = run_gradmod(*words_to_go_on(run, settings))
        assert ended.returncode == 0, ended.stderr
    assert_same_end(run, uninterrupted)


def words_to_go_on(run: Path, settings: Path) -> list[str]:
    """What a user would type after a kill."""
    return (
        ["resume", str(run)]
        if (run / "config.toml").exists()
        else ["train", "--config", str(settings)]
    )


def lines_in_log(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def damage(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("this is no checkpoint")
    elif how == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif how == "other format":
        torch.save({**torch.load(path, weights_only=True), "format": 99}, path)
    else:
        path.unlink()


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "text", "foreign", "other format", "missing"]
)
def test_a_damaged_checkpoint_is_named_and_the_previous_one_offered(
    how: str, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    last = folder / "checkpoints" / "last.pt"
    damage(last, how)
    with pytest.raises(CheckpointError, match=rf"{last}.*whole: .*--checkpoint previous"):
        resume(folder)
    (folder / "result.json").unlink()
    resume(folder, checkpoint="previous")
    assert_same_end(folder, uninterrupted)


def test_a_checkpoint_that_would_run_code_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    class Exploit:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/exploited",)

    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    torch.save({"model": Exploit()}, folder / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resume(folder)
    assert not (tmp_path / "exploited").exists()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("step_in_epoch", "text", "step_in_epoch is 'text'"),
        ("step_in_epoch", 10_000, r"losses of shape \[0\].*expected those of 10000 steps"),
        ("epoch", 0, "epoch is 0; expected a whole number from 1 on"),
        ("step", True, "step is True"),
        ("best_value", None, "best_value is None"),
        (
            "history",
            {"losses": torch.zeros(3), "coefficients": torch.zeros(3, 1)},
            "losses of shape",
        ),
        ("history", [], "damaged"),
        (
            "optimizer",
            {"state": {0: {"momentum_buffer": torch.zeros(2, 2, 2)}}},
            "the optimizer's momentum_buffer",
        ),
        (
            "optimizer",
            {"state": {0: {"momentum_buffer": "text"}}},
            "the optimizer's momentum_buffer is",
        ),
        ("optimizer", {}, "damaged"),
    ],
)
def test_a_checkpoint_with_other_content_is_refused(
    name: str, value: object, says: str, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "result.json").unlink()
    last = folder / "checkpoints" / "last.pt"
    torch.save({**torch.load(last, weights_only=True), name: value}, last)
    with pytest.raises(CheckpointError, match=says):
        resume(folder, epochs=5)


def test_training_on_after_the_end_is_not_finished_until_it_is(
    uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradmod.experiments.training.loop.Loop.run", interrupt)
        with pytest.raises(InterruptedRunError, match=rf"go on with: gradmod resume {folder}"):
            resume(folder, epochs=4)
    assert not (folder / "result.json").exists()  # it was of three epochs
    with pytest.raises(
        ConfigError, match=r"epochs is 2, but the checkpoint is of epoch 3.*say --epochs 3 or more"
    ):
        resume(folder, epochs=2)
    summary = resume(folder)
    assert summary is not None
    assert (summary.result["epochs"], summary.result["epochs_trained"]) == (4, 4)


def test_a_checkpoint_of_another_model_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "config.toml").write_text(
        (folder / "config.toml").read_text().replace('fusion = "early"', 'fusion = "late"')
    )
    (folder / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"does not fit the model in config.toml"):
        resume(folder)


def test_a_log_that_was_cut_is_an_error(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    (folder / "result.json").unlink()
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(
        CheckpointError, match=r"metrics.jsonl has 0 bytes, but \d+ at the checkpoint"
    ):
        resume(folder)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder"):
        resume(tmp_path)


def test_the_last_checkpoint_is_whole_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk while writing: the error shows, and last and previous are as they were."""
    from gradmod.experiments.runs import checkpoints as module

    store = Checkpoints(tmp_path)
    counts = {
        "format": 1,
        "epoch": 1,
        "step_in_epoch": 0,
        "step": 0,
        "best_epoch": 0,
        "log_bytes": 0,
    }
    state = {
        **counts,
        "best_value": 0.0,
        "seconds": 0.0,
        "history": {},
        "model": {},
        "optimizer": {},
    }
    store.save(state)
    store.save({**state, "step": 1})

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(
        WriteError, match=r"best\.pt cannot be written: No space left on device\. Make room"
    ):
        store.save({**state, "step": 2}, best=True)
    assert store.load("last")["step"] == 1
    assert not list((tmp_path / "checkpoints").glob(".*"))
