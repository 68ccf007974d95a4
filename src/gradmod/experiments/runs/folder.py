"""The folder of a run: its settings, its log, its result."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

import gradmod
from gradmod.experiments.errors import CheckpointError, ConfigError
from gradmod.experiments.files import is_leftover, json_text, making_beside, sync, write_json
from gradmod.experiments.runs.locks import acquire, holder_of
from gradmod.experiments.runs.names import CONFIG, DATA, METRICS
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import save_config


def create_run_folder(
    out: Path, name: str, config: Config, *, unique: bool, data: Mapping[str, Any] | None = None
) -> Path:
    """Make the folder of a new run, with its settings in it and what its data are: never does it exist without them.

    Args:
        out: where runs lie.
        name: name of the run.
        config: its settings.
        unique: True: add -2, -3, ... where the name is taken.
        data: what the run knows its data by; None: nothing.

    Raises:
        ConfigError: the name is taken and `unique` is False, or the folder cannot be made.
    """
    making = making_beside(out / name)
    try:
        making.mkdir(parents=True)
        save_config(config, making / CONFIG)
        if data is not None:
            write_json(making / DATA, data)
        folder, attempt = out / name, 1
        while not _rename(making, folder):
            if not unique:
                if not (folder / CONFIG).is_file():
                    raise ConfigError(
                        f"{folder} exists already and is no run's folder: choose another --name"
                    )
                raise ConfigError(
                    f"the run folder {folder} exists already; go on with it by `gradmod resume {folder}`, or choose "
                    "another --name"
                )
            attempt += 1
            folder = out / f"{name}-{attempt}"
        sync(out)
        return folder
    except OSError as error:
        raise ConfigError(
            f"the run folder {out / name} cannot be made: {error.strerror}; choose another --out"
        ) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _rename(source: Path, target: Path) -> bool:
    """Rename a folder; False: the name is taken."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        return False
    return True


class MetricsLog:
    """`metrics.jsonl`, a line for every event; its length is saved with each checkpoint, so that no line comes twice.

    Args:
        folder: the run's folder.
        keep_bytes: length to cut the file back to: what was there at the checkpoint from which training goes on.

    Raises:
        ConfigError: another process writes to it.
        CheckpointError: it is shorter than at the checkpoint, or there is none and it tells of training.
    """

    def __init__(self, folder: Path, keep_bytes: int = 0) -> None:
        path = folder / METRICS
        self._file: IO[bytes] = path.open("ab")
        lock = acquire(self._file)
        if lock is None:
            self._file.close()
            raise ConfigError(
                f"another process trains the run in {folder} now{holder_of(path)}: wait for it, or end it"
            )
        self._lock = lock
        if lock.is_marker:
            print(
                f"gradmod: note: the file system of {folder} has no locks: files that end in .lock keep two processes "
                "apart",
                file=sys.stderr,
            )
        try:
            _refuse_to_lose(path, keep_bytes)
        except CheckpointError:
            self.close()
            raise
        self._file.truncate(keep_bytes)
        if keep_bytes == 0:
            sync(folder)

    def write(self, kind: str, **values: Any) -> None:
        """Append one line."""
        self._file.write((json_text({"kind": kind, **values}) + "\n").encode())
        self._file.flush()

    def sync(self) -> int:
        """Flush to disk; return the length."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file, and let others have it."""
        self._file.close()
        self._lock.release()


def _refuse_to_lose(log: Path, keep_bytes: int) -> None:
    """Refuse a log that does not go with the checkpoint from which training goes on."""
    size = log.stat().st_size
    if size < keep_bytes:
        raise CheckpointError(
            f"{log} has {size} bytes, but {keep_bytes} at the checkpoint; it was cut: restore it"
        )
    # A checkpoint is written before the first step: a log without any holds no more than what the run is.
    if keep_bytes == 0 and log.read_bytes().count(b"\n") > 1:
        raise CheckpointError(
            f"{log} tells of training, but the run has no checkpoint any more: put its checkpoints back, or train anew "
            "under another --name"
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote a file has left beside it; see `is_leftover`."""
    for temporary in folder.rglob(".*.tmp"):
        if temporary.is_file() and is_leftover(temporary):
            temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "gradmod": gradmod.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def command_line(words: Sequence[str]) -> str:
    """The command that a process was started by, as a user types it on any machine.

    Args:
        words: `sys.argv`. The path of the program is left out; what lies below the working folder is named from there.
    """
    program, *arguments = words or [""]
    name = Path(program).name
    if name == "__main__.py":
        name = Path(program).parent.name
    if name.endswith(".py"):
        name = f"python {_from_here(program) if Path(program).is_absolute() else program}"
    return " ".join([name.removesuffix(".exe"), shlex.join(map(_from_here, arguments))]).strip()


def _from_here(word: str) -> str:
    """A word in which a path below the working folder is relative."""
    flag, equals, value = word.rpartition("=")
    if not Path(value).is_absolute():
        return word
    try:
        return f"{flag}{equals}{Path(value).relative_to(Path.cwd()).as_posix()}"
    except ValueError:
        return word


def git_revision() -> str | None:
    """Commit of the checkout that gradmod runs from, with `+` where files were changed; None outside a checkout."""
    here = Path(gradmod.__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + (
            "+" if _git(here, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
