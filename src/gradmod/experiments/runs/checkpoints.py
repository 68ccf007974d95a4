"""Checkpoints: written whole or not at all, the one before the last kept, read without running code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from gradmod.experiments.errors import CheckpointError
from gradmod.experiments.file_kinds import another_kind
from gradmod.experiments.files import sync, temporary_beside, write_atomically
from gradmod.experiments.runs.names import CHECKPOINTS

FORMAT = 1
_COUNTS = {"epoch": 1, "step_in_epoch": 0, "step": 0, "best_epoch": 0, "log_bytes": 0}
"""Whole numbers of a checkpoint, with the smallest that each can be."""
_REQUIRED = ("format", *_COUNTS, "best_value", "seconds", "history", "model", "optimizer")


class Checkpoints:
    """The folder `checkpoints/` of a run: `last.pt`, `previous.pt` (the last before it) and `best.pt`."""

    def __init__(self, run: Path) -> None:
        self.folder = run / CHECKPOINTS

    def path(self, name: str) -> Path:
        """File of the checkpoint `last`, `previous` or `best`; or `name` itself where it is a path."""
        return Path(name) if name.endswith(".pt") else self.folder / f"{name}.pt"

    def save(self, state: dict[str, Any], *, best: bool = False) -> None:
        """Write `state` (tensors and plain values) as the last checkpoint, and as the best one if it is."""
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync(self.folder.parent)
        last, previous = self.path("last"), self.path("previous")
        if best:
            write_atomically(self.path("best"), lambda file: torch.save(state, file))
        if last.exists():
            _duplicate(last, previous)
        write_atomically(last, lambda file: torch.save(state, file))

    def load(self, name: str) -> dict[str, Any]:
        """Read a checkpoint onto the CPU.

        Raises:
            CheckpointError: it is missing, truncated or not gradmod's; names the ones that can be read.
        """
        path = self.path(name)
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            whole = [
                other
                for other in ("last", "previous", "best")
                if self.path(other) != path and self._is_whole(other)
            ]
            offer = (
                f"; whole: {', '.join(f'{self.path(other)} (--checkpoint {other})' for other in whole)}"
                if whole
                else "; no other checkpoint of the run can be read"
            )
            raise CheckpointError(f"{error}{offer}") from None

    def exist(self) -> bool:
        """Whether any checkpoint was ever written."""
        return any(self.path(name).exists() for name in ("last", "previous", "best"))

    def _is_whole(self, name: str) -> bool:
        try:
            read_checkpoint(self.path(name))
        except CheckpointError:
            return False
        return True


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint file onto the CPU, with `weights_only=True`.

    Raises:
        CheckpointError: names the file and what is wrong with it.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in many places of the unpickler
        reason = str(error).split("\n", 1)[0][:200]
        other = another_kind(path, "a checkpoint", "torch")
        raise CheckpointError(
            f"checkpoint {path} cannot be read, {other or f'it is truncated or not a checkpoint ({reason})'}"
        ) from None
    missing = [key for key in _REQUIRED if not isinstance(state, dict) or key not in state]
    if missing:
        raise CheckpointError(
            f"checkpoint {path} is not one of gradmod's: it lacks {', '.join(missing)}"
        )
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {state['format']!r}; this version reads format {FORMAT}"
        )
    for name, smallest in _COUNTS.items():
        if type(state[name]) is not int or state[name] < smallest:
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name} is {state[name]!r}; expected a whole number from {smallest} on"
            )
    for name in ("best_value", "seconds"):
        if not isinstance(state[name], float):
            raise CheckpointError(
                f"checkpoint {path} is damaged: {name} is {state[name]!r}; expected a number"
            )
    return dict(state)


def _duplicate(source: Path, destination: Path) -> None:
    """Make `destination` the same file as `source`, at no moment leaving either broken."""
    # Killed before the source was replaced.
    if destination.exists() and destination.samefile(source):
        return
    temporary = temporary_beside(destination)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        with source.open("rb") as content:
            write_atomically(destination, lambda file: shutil.copyfileobj(content, file))
    else:
        temporary.replace(destination)
