"""Locks on open files, which end with the processes that hold them, however those end."""

from __future__ import annotations

from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: there, nothing keeps two processes apart
    fcntl = None  # type: ignore[assignment]


def take(file: IO[bytes]) -> bool:
    """Lock an open file, until every process that has it open closed it; False: it is locked already."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_taken(path: Path) -> bool:
    """Whether a file is locked."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not take(file)
