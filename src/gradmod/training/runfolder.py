"""The folder of a run: its settings, its log, its result."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

import gradmod
from gradmod.errors import CheckpointError, ConfigError
from gradmod.experiments.locks import take
from gradmod.training.evaluation import Predictions
from gradmod.training.files import json_text, write_arrays

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
RESULT = "result.json"


def create_run_folder(out: Path, name: str, *, unique: bool) -> Path:
    """Make the folder of a new run.

    Args:
        out: where runs lie.
        name: name of the run.
        unique: True: add -2, -3, ... where the name is taken.

    Raises:
        ConfigError: the name is taken and `unique` is False, or the folder cannot be made.
    """
    attempt = 1
    while True:
        folder = out / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not unique:
                raise ConfigError(
                    f"the run folder {folder} exists already; go on with it by `gradmod resume {folder}`, or choose "
                    "another --name"
                ) from None
            attempt += 1
        except OSError as error:
            raise ConfigError(
                f"the run folder {folder} cannot be made: {error.strerror}; choose another --out"
            ) from None


class MetricsLog:
    """`metrics.jsonl`, a line for every event; its length is saved with each checkpoint, so that no line comes twice.

    Args:
        folder: the run's folder.
        keep_bytes: length to cut the file back to: what was there at the checkpoint from which training goes on.

    Raises:
        ConfigError: another process writes to it.
        CheckpointError: it is shorter than at the checkpoint.
    """

    def __init__(self, folder: Path, keep_bytes: int = 0) -> None:
        path = folder / METRICS
        self._file: IO[bytes] = path.open("ab")
        if not take(self._file):
            self._file.close()
            raise ConfigError(f"another process trains the run in {folder} now: wait for it, or end it")
        size = path.stat().st_size
        if size < keep_bytes:
            self._file.close()
            raise CheckpointError(
                f"{path} has {size} bytes, but {keep_bytes} at the checkpoint; it was cut: restore it"
            )
        self._file.truncate(keep_bytes)

    def write(self, kind: str, **values: Any) -> None:
        """Append one line."""
        self._file.write((json_text({"kind": kind, **values}) + "\n").encode())
        self._file.flush()

    def sync(self) -> int:
        """Flush to disk; return the length."""
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def save_predictions(folder: Path, split: str, predictions: Predictions) -> None:
    """Write a split's logits, responses and targets to `predictions/<split>.npz`."""
    target = folder / "predictions"
    target.mkdir(exist_ok=True)
    arrays = {name: getattr(predictions, name).numpy() for name in ("logits", "responses", "target")}
    write_arrays(target / f"{split}.npz", arrays)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {
        "gradmod": gradmod.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def git_revision() -> str | None:
    """Commit of the checkout that gradmod runs from, with `+` where files were changed; None outside a checkout."""
    here = Path(gradmod.__file__).resolve().parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        return revision + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
