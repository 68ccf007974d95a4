"""Which run a command is of: the one that is named, else the newest, which is said."""

from __future__ import annotations

import sys
from pathlib import Path


def positional() -> object:
    """Marks an argument that has a place and no name; asked for where a command is parsed, because tyro is slow."""
    import tyro

    return tyro.conf.Positional


def finished(run: Path | None) -> Path:
    """The run that was named; else the newest finished one, which is said."""
    from gradmod.experiments.runs.records import newest_run

    return run or told(newest_run(Path("runs")))


def told(folder: Path) -> Path:
    """The folder, which the user is told of."""
    print(f"gradmod: note: no run was named, so this is of the newest: {folder}", file=sys.stderr)
    return folder
