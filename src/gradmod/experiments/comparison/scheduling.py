"""Runs of a comparison, a few at a time: what is finished is kept, what was interrupted goes on, what fails is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradmod.experiments.comparison.claims import refuse_foreign_run
from gradmod.experiments.comparison.launchers import Job, Launcher
from gradmod.experiments.comparison.plan import PlannedRun
from gradmod.experiments.errors import InterruptedRunError
from gradmod.experiments.own_code import is_own
from gradmod.experiments.runs.locks import is_taken
from gradmod.experiments.runs.names import CONFIG, RESULT
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import save_config

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"
PAUSE = 0.2
PATIENCE_AFTER_CTRL_C = 60.0


@dataclass
class State:
    """How far a run is.

    Attributes:
        run: the run.
        folder: where it lies.
        status: waiting, running, finished or failed.
        started: when, by `time.monotonic`.
        reason: why it failed.
        log_begins: bytes of its log that are of earlier tries.
    """

    run: PlannedRun
    folder: Path
    status: str = WAITING
    started: float = 0.0
    reason: str = ""
    log_begins: int = 0
    job: Job | None = field(default=None, repr=False)


def run_all(
    runs: Sequence[PlannedRun],
    out: Path,
    launcher: Launcher,
    jobs: int,
    look: Callable[[Sequence[State]], None],
) -> list[State]:
    """Run what is not finished yet, `jobs` at a time, each in a folder of its own below `out`.

    Args:
        runs: what to run.
        out: where their folders lie.
        launcher: starts them.
        jobs: how many at a time.
        look: called again and again with how far they are.

    Returns:
        Their states at the end.

    Raises:
        ConfigError: a folder holds a run with other settings, or what is no run.
        InterruptedRunError: Ctrl-C; the runs that went on saved themselves.
    """
    states = [State(run, out / run.name) for run in runs]
    for state in states:
        refuse_foreign_run(state.folder, _settings(state, out), _config(state))
    free = list(range(jobs - 1, -1, -1))
    slots: dict[str, int] = {}
    try:
        while any(state.status in (WAITING, RUNNING) for state in states):
            for state in states:
                # What an earlier comparison started goes on after that was killed, and holds its log.
                if state.status == WAITING and free and not is_taken(_log(state, out)):
                    _start_or_keep(state, out, launcher, free, slots)
                elif state.status == RUNNING and _has_ended(state, out):
                    free.append(slots[state.run.name])
            look(states)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        _interrupt(states)
        done = sum(state.status == FINISHED for state in states)
        raise InterruptedRunError(
            f"interrupted; {done} of {len(states)} runs are finished, the others go on where they were: give the same "
            "command again"
        ) from None
    look(states)
    return states


def _start_or_keep(
    state: State, out: Path, launcher: Launcher, free: list[int], slots: dict[str, int]
) -> None:
    if (state.folder / RESULT).is_file():
        state.status = FINISHED
        return
    slots[state.run.name] = free.pop()
    _start(state, out, launcher, slots[state.run.name])


def _start(state: State, out: Path, launcher: Launcher, slot: int) -> None:
    if (state.folder / CONFIG).is_file():  # begun: from its last checkpoint, or from its start
        words = ["resume", str(state.folder)]
    else:
        settings = _settings(state, out)
        out.mkdir(parents=True, exist_ok=True)
        save_config(_config(state), settings)
        words = ["train", "--config", str(settings)]
    config = state.run.config
    for flag, name in (
        ("--dataset", config.data.dataset),
        ("--model", config.model.model),
        ("--method", config.method.method),
    ):
        if is_own(name):  # code, which no file but only its user names
            words += [flag, name]
    log = _log(state, out)
    state.log_begins = log.stat().st_size if log.exists() else 0
    state.job = launcher.start(words, log, slot)
    state.status, state.started = RUNNING, time.monotonic()


def _has_ended(state: State, out: Path) -> bool:
    code = state.job.poll() if state.job is not None else 1
    if code is None:
        return False
    finished = code == 0 and (state.folder / RESULT).is_file()
    state.status = FINISHED if finished else FAILED
    if not finished:
        lines = [line for line in _printed(state, out).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        state.reason = (errors or lines or [f"exit code {code}"])[-1].strip()
    return True


def _printed(state: State, out: Path) -> str:
    """What the run printed since it was started; what it printed when it was tried before stands above it."""
    try:
        with _log(state, out).open("rb") as file:
            file.seek(state.log_begins)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _settings(state: State, out: Path) -> Path:
    return out / f"{state.run.name}.toml"


def _config(state: State) -> Config:
    train = replace(state.run.config.train, out=str(state.folder.parent), name=state.run.name)
    return replace(state.run.config, train=train)


def _log(state: State, out: Path) -> Path:
    return out / f"{state.run.name}.log"


def _interrupt(states: Sequence[State]) -> None:
    running = [state for state in states if state.status == RUNNING and state.job is not None]
    for state in running:
        if state.job is not None:
            state.job.interrupt()
    deadline = time.monotonic() + PATIENCE_AFTER_CTRL_C
    while time.monotonic() < deadline and any(
        s.job is not None and s.job.poll() is None for s in running
    ):
        time.sleep(PAUSE)
