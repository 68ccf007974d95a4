"""Runs of a comparison: what is finished stays, what was cut goes on, what fails stops nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison import scheduling
from gradmod.experiments.comparison.launchers import LocalLauncher, SubmititLauncher
from gradmod.experiments.comparison.plan import PlannedRun
from gradmod.experiments.comparison.scheduling import FAILED, FINISHED, State, run_all
from gradmod.experiments.errors import ConfigError, InterruptedRunError
from gradmod.experiments.reporting.states import RunState, last_epoch, progress_table
from gradmod.experiments.runs.locks import acquire, is_taken
from gradmod.experiments.runs.records import read_result
from runs import log_lines, short


class InProcess:
    """A launcher that runs a command at once, in this process, and says what it ran."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.before: Callable[[Sequence[str]], None] = lambda words: None

    def start(self, words: Sequence[str], log: Path, slot: int) -> InProcess.Job:
        self.started.append((words[0], slot))
        self.before(words)
        return InProcess.Job(cli.main(words))

    class Job:
        def __init__(self, code: int) -> None:
            self.code = code

        def poll(self) -> int | None:
            return self.code

        def interrupt(self) -> None:
            pass


def planned(name: str, **changes: Any) -> PlannedRun:
    config = short(Path("unused"), **{"method": "joint", "epochs": 1, "width": 4, **changes})
    return PlannedRun(name, "joint", "late", 0, "", config)


def quiet(states: Sequence[State]) -> None:
    pass


def test_finished_runs_are_not_repeated_and_new_ones_are_added(tmp_path: Path) -> None:
    launcher = InProcess()
    runs = [planned("a", seed=1), planned("b", seed=2)]
    assert [state.status for state in run_all(runs, tmp_path, launcher, 2, quiet)] == [FINISHED] * 2
    assert launcher.started == [("train", 0), ("train", 1)]
    before = (tmp_path / "a" / "result.json").stat().st_mtime_ns
    states = run_all([*runs, planned("c", seed=3)], tmp_path, launcher, 1, quiet)
    assert [state.status for state in states] == [FINISHED] * 3
    assert launcher.started[2:] == [("train", 0)]
    assert (tmp_path / "a" / "result.json").stat().st_mtime_ns == before
    assert [read_result(state.folder)["seed"] for state in states] == [1, 2, 3]


def test_a_failed_run_is_told_and_stops_nothing_and_is_tried_again(tmp_path: Path) -> None:
    launcher = LocalLauncher(2, "cpu")
    runs = [planned("bad", lr=1e30, clip_norm=None), planned("good")]
    bad, good = run_all(runs, tmp_path, launcher, 2, quiet)
    assert (bad.status, good.status) == (FAILED, FINISHED)
    assert "gradmod: error: " in bad.reason
    assert "finite" in bad.reason
    again = InProcess()
    bad, good = run_all(runs, tmp_path, again, 2, quiet)
    assert (bad.status, good.status) == (FAILED, FINISHED)
    assert len(again.started) == 1


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradmod.experiments.training import loop

    (whole,) = run_all([planned("run", epochs=3)], tmp_path / "whole", InProcess(), 1, quiet)
    original, steps = loop.Loop._step, []

    def interrupting(self: loop.Loop, batch: object) -> object:
        steps.append(1)
        if len(steps) == 15:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Loop, "_step", interrupting)
    (state,) = run_all([planned("run", epochs=3)], tmp_path / "cut", InProcess(), 1, quiet)
    # In this process it is the run that was interrupted, not the comparison.
    assert state.status == FAILED
    monkeypatch.undo()
    launcher = InProcess()
    (state,) = run_all([planned("run", epochs=3)], tmp_path / "cut", launcher, 1, quiet)
    assert (state.status, launcher.started) == (FINISHED, [("resume", 0)])
    assert log_lines(state.folder) == log_lines(whole.folder)
    assert read_result(state.folder)["splits"] == read_result(whole.folder)["splits"]


def test_a_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    launcher = InProcess()
    run_all([planned("a")], tmp_path, launcher, 1, quiet)
    with pytest.raises(
        ConfigError, match=r"optimizer.lr 0\.\d+ there, 0.5 here.*name another --name"
    ):
        run_all([planned("a", lr=0.5)], tmp_path, launcher, 1, quiet)
    # These change no figure.
    run_all([planned("a", workers=1, log_every=7)], tmp_path, launcher, 1, quiet)
    assert len(launcher.started) == 1


def test_an_unfinished_beginning_is_begun_again(tmp_path: Path) -> None:
    """Killed before the first checkpoint: a folder with settings, and half a line of the log."""
    (whole,) = run_all([planned("a")], tmp_path / "whole", InProcess(), 1, quiet)
    begun = tmp_path / "cut" / "a"
    begun.mkdir(parents=True)
    settings = (whole.folder / "config.toml").read_text()
    (begun / "config.toml").write_text(
        settings.replace(str(tmp_path / "whole"), str(tmp_path / "cut"))
    )
    start = (whole.folder / "metrics.jsonl").read_text().splitlines()[0]
    (begun / "metrics.jsonl").write_text(f'{start}\n{{"kind": "st')
    (begun / "notes.txt").write_text("mine")
    launcher = InProcess()
    (state,) = run_all([planned("a")], tmp_path / "cut", launcher, 1, quiet)
    assert (state.status, launcher.started) == (FINISHED, [("resume", 0)])
    assert log_lines(state.folder) == log_lines(whole.folder)
    assert (begun / "notes.txt").read_text() == "mine"


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_whose_checkpoints_were_moved_away_is_not_lost(
    finished: bool, tmp_path: Path
) -> None:
    (state,) = run_all([planned("a")], tmp_path, InProcess(), 1, quiet)
    (state.folder / "checkpoints").rename(tmp_path / "elsewhere")
    if not finished:
        (state.folder / "result.json").unlink()
    before = content_of(state.folder)
    assert cli.main(["resume", str(state.folder)]) == 2
    assert content_of(state.folder) == before
    launcher = InProcess()
    (state,) = run_all([planned("a")], tmp_path, launcher, 1, quiet)
    assert state.status == (FINISHED if finished else FAILED)
    assert content_of(state.folder) == before


@pytest.mark.parametrize(
    "name", ["my_notes.txt", "result.json", "checkpoints/last.pt", "metrics.jsonl", ".hidden"]
)
def test_a_folder_that_is_no_run_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / "b" / name
    path.parent.mkdir(parents=True)
    path.write_text("three days of work")
    launcher = InProcess()
    with pytest.raises(ConfigError, match=r"b is no run's folder.*choose another --name"):
        run_all([planned("a"), planned("b")], tmp_path, launcher, 1, quiet)
    assert launcher.started == []
    assert content_of(tmp_path) == {f"b/{name}": b"three days of work"}


def test_files_beside_the_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(ConfigError, match="no run's folder"):
        run_all([planned("a")], tmp_path, InProcess(), 1, quiet)
    (tmp_path / "b.toml").write_text("my = 'settings'")
    with pytest.raises(ConfigError, match=r"b.toml.*no comparison wrote it"):
        run_all([planned("b")], tmp_path, InProcess(), 1, quiet)
    assert content_of(tmp_path) == {"a": b"a file", "b.toml": b"my = 'settings'"}
    (tmp_path / "c").mkdir()  # an empty one is nobody's
    (state,) = run_all([planned("c")], tmp_path, InProcess(), 1, quiet)
    assert state.status == FINISHED


class Printing(InProcess):
    """Prints into the log as a process would, and fails."""

    def start(self, words: Sequence[str], log: Path, slot: int) -> InProcess.Job:
        self.started.append((words[0], slot))
        with log.open("a") as file:
            file.write(self.text)
        return InProcess.Job(1)

    text = ""


def test_logs_of_earlier_tries_are_kept_but_not_told(tmp_path: Path) -> None:
    launcher = Printing()
    for launcher.text, reason in (
        ("gradmod: error: first\n", "gradmod: error: first"),
        ("", "exit code 1"),
    ):
        (state,) = run_all([planned("a")], tmp_path, launcher, 1, quiet)
        assert state.reason == reason
    assert (tmp_path / "a.log").read_text() == "gradmod: error: first\n"


class Counting(InProcess):
    """Jobs that last a few looks; says which slots are in use at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Counting.Lasting] = {}
        self.most = 0

    def start(self, words: Sequence[str], log: Path, slot: int) -> Counting.Lasting:
        going_on = [job.slot for job in self.jobs.values() if job.left]
        assert slot not in going_on
        self.most = max(self.most, len(going_on) + 1)
        # Of different lengths, so that slots come free out of order.
        self.jobs[log.stem] = Counting.Lasting(slot, 1 + 2 * (len(self.jobs) % 3))
        return self.jobs[log.stem]

    class Lasting(InProcess.Job):
        def __init__(self, slot: int, left: int) -> None:
            super().__init__(1)
            self.slot, self.left = slot, left

        def poll(self) -> int | None:
            self.left = max(0, self.left - 1)
            return None if self.left else 1


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_two_runs_at_a_time_have_the_same_slot(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "PAUSE", 0)
    launcher = Counting()
    states = run_all(
        [planned(f"run{n}", seed=n) for n in range(9)], tmp_path, launcher, jobs, quiet
    )
    assert all(state.status == FAILED for state in states)
    assert launcher.most == jobs
    assert {job.slot for job in launcher.jobs.values()} == set(range(jobs))


def test_ctrl_c_reaches_every_job_and_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "PAUSE", 0)
    launcher, interrupted = Counting(), []

    def interrupt(job: Counting.Lasting) -> None:
        interrupted.append(job)
        job.left = 3  # it saves itself first

    def look(states: Sequence[State]) -> None:
        if len(launcher.jobs) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Counting.Lasting, "interrupt", interrupt)
    with pytest.raises(InterruptedRunError, match="0 of 9 runs are finished"):
        run_all([planned(f"run{n}", seed=n) for n in range(9)], tmp_path, launcher, 2, look)
    assert interrupted
    assert {id(job) for job in launcher.jobs.values() if job in interrupted} == {
        id(job) for job in interrupted
    }
    assert all(job.left == 0 for job in launcher.jobs.values())


def test_ctrl_c_is_passed_on_and_says_how_to_go_on(tmp_path: Path) -> None:
    def look(states: Sequence[State]) -> None:
        if any((state.folder / "metrics.jsonl").is_file() for state in states):
            raise KeyboardInterrupt

    runs = [planned("a", epochs=400), planned("b", epochs=400)]
    with pytest.raises(InterruptedRunError, match=r"0 of 2 runs are finished.*same command"):
        run_all(runs, tmp_path, LocalLauncher(1, "cpu"), 1, look)
    assert not is_taken(tmp_path / "a.log")  # it ended, and saved itself before
    assert "gradmod resume" in (tmp_path / "a.log").read_text()
    assert not (tmp_path / "b").exists()


def test_what_a_killed_comparison_started_is_waited_for(tmp_path: Path) -> None:
    """Its runs are processes of their own: they go on, and a second one beside them would write to the same files."""
    out, log = tmp_path / "out", tmp_path / "out" / "a.log"
    launcher = InProcess()
    run_all([planned("a")], out, launcher, 1, quiet)
    with log.open("ab") as file:
        assert acquire(file)
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=file)
    assert is_taken(log)
    looks: list[int] = []

    def look(states: Sequence[State]) -> None:
        looks.append(1)
        if len(looks) == 2:
            assert states[0].status == "waiting"
            other.kill()
            other.wait()

    (state,) = run_all([planned("a")], out, launcher, 1, look)
    assert other.poll() is not None
    assert state.status == FINISHED
    assert len(launcher.started) == 1


def test_local_processes_share_the_cores_and_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradmod.experiments.comparison import launchers

    monkeypatch.setattr(launchers, "_gpus", lambda: ["4", "7"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: seen.append(rest["env"]))
    for device, jobs in (("auto", 3), ("cpu", 8)):
        launcher = LocalLauncher(jobs, device)
        for slot in range(3):
            launcher.start(["list"], tmp_path / "log", slot)
    assert [environment["OMP_NUM_THREADS"] for environment in seen] == ["2"] * 3 + ["1"] * 3
    assert [environment.get("CUDA_VISIBLE_DEVICES") for environment in seen[:3]] == ["4", "7", "4"]
    assert seen[3].get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.slow
def test_jobs_of_a_cluster_with_the_local_executor_of_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs gradmod[cluster]")
    launcher = SubmititLauncher(tmp_path / "submitit", {"cluster": "local", "timeout_min": "5"})
    runs = [planned("good"), planned("bad", lr=1e30, clip_norm=None)]
    good, bad = run_all(runs, tmp_path / "runs", launcher, 2, quiet)
    assert (good.status, bad.status) == (FINISHED, FAILED)
    assert "finite" in bad.reason
    assert read_result(good.folder)["epochs_trained"] == 1
    job = launcher.start(
        ["train", "--epochs", "500", "--out", str(tmp_path), "--name", "long"],
        tmp_path / "l.log",
        0,
    )
    assert job.poll() is None
    job.interrupt()
    deadline = time.monotonic() + 60
    while job.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert job.poll() != 0


def test_submitit_options_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs gradmod[cluster]")
    for options in ({"cluster": "local", "tmeout_min": "5"}, {"cluster": "cloud"}):
        with pytest.raises(ConfigError, match=r"compare.launcher_options .* submitit says"):
            SubmititLauncher(tmp_path, options)


def test_two_processes_do_not_train_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_all([planned("a")], tmp_path, InProcess(), 1, quiet)
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    with (tmp_path / "a" / "metrics.jsonl").open("ab") as held:
        assert acquire(held)
        assert cli.main(["resume", str(tmp_path / "a"), "--epochs", "9"]) == 2
    assert "another process trains the run" in capsys.readouterr().err
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_how_far_runs_are(tmp_path: Path) -> None:
    path = tmp_path / "a" / "metrics.jsonl"
    assert last_epoch(path) == ("", "")
    run_all([planned("a", epochs=3)], tmp_path, InProcess(), 1, quiet)
    number, value = last_epoch(path)
    assert number == "3"
    assert value.startswith("accuracy 0.")
    with path.open("a") as file:
        file.write('{"kind": "epoch", "ep')
    assert last_epoch(path) == (number, value)
    states = [
        RunState("a", "running", tmp_path / "a", 0.0, ""),
        RunState("b", "waiting", tmp_path / "b", 0.0, ""),
        RunState("c", "failed", tmp_path / "c", 0.0, "it [broke]"),
    ]
    table = progress_table("runs", states)
    assert table.title == "runs: 1 running, 1 waiting, 1 failed"
    assert list(table.columns[0].cells) == ["a", "c"]
    assert next(iter(table.columns[2].cells)) == "3"
