"""Where the runs of a comparison run: as processes of this machine, or as jobs of a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.runs.locks import Lock, acquire


class Job(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Its exit code; None: it goes on."""

    def interrupt(self) -> None:
        """Ask it to save and to stop."""


class Launcher(Protocol):
    """Starts runs."""

    def start(self, words: Sequence[str], log: Path, slot: int) -> Job:
        """Start `gradmod WORDS`.

        Args:
            words: the command.
            log: file that takes what it prints; the run has it locked as long as it lasts.
            slot: 0 to jobs - 1; no two runs at a time have the same.
        """


class LocalLauncher:
    """Processes of this machine; cores and GPUs are shared out among `jobs` at a time."""

    def __init__(self, jobs: int, device: str) -> None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self._threads = max(1, cores // jobs)
        self._gpus = _gpus() if device in ("auto", "cuda") else []

    def start(self, words: Sequence[str], log: Path, slot: int) -> Job:
        """See `Launcher.start`."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        with log.open("ab") as file:
            lock = acquire(file)  # the run has it as long as it has the file open
            process = subprocess.Popen(
                [sys.executable, "-m", "gradmod", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to pass on, once
            )
        return _Process(process, lock)


class SubmititLauncher:
    """Jobs of a SLURM cluster, through submitit; or, with cluster=local, processes that it starts here.

    Args:
        folder: for submitit's own files.
        options: of `submitit.AutoExecutor.update_parameters`, and `cluster`.

    Raises:
        ConfigError: submitit is not installed, finds no cluster, or does not know an option.
    """

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "--launcher submitit needs it: pip install submitit, or gradmod[cluster]"
            ) from None
        self._submitit = submitit
        try:
            values: dict[str, Any] = {
                k: int(v) if v.lstrip("-").isdigit() else v for k, v in options.items()
            }
            self._executor = submitit.AutoExecutor(
                folder / "%j", cluster=values.pop("cluster", None)
            )
            self._executor.update_parameters(name="gradmod", **values)
        except (RuntimeError, NameError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"compare.launcher_options {dict(options)}: submitit says {error}"
            ) from None

    def start(self, words: Sequence[str], log: Path, slot: int) -> Job:
        """See `Launcher.start`. What the run prints is in submitit's folder as well."""
        command = [sys.executable, "-m", "gradmod", *words]
        return _SubmittedJob(self._executor.submit(_run_logged, command, str(log)))


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], lock: Lock | None) -> None:
        self._process = process
        self._lock = lock

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and self._lock is not None:
            self._lock.release()
            self._lock = None
        return code

    def interrupt(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


class _SubmittedJob:
    def __init__(self, job: Any) -> None:
        self._job = job

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        try:
            return int(self._job.result())
        except Exception:  # the job died, and whatever submitit makes of that
            return 1

    def interrupt(self) -> None:
        self._job.cancel()


def _run_logged(command: Sequence[str], log: str) -> int:
    with Path(log).open("ab") as file:
        lock = acquire(file)
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            ).returncode
        finally:
            if lock is not None:
                lock.release()


def _gpus() -> list[str]:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        visible.split(",")
        if visible
        else [str(number) for number in range(torch.cuda.device_count())]
    )
