"""Locks on open files, which end with the processes that hold them, however those end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Lock a file, made if need be; wait for whoever has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_taken(path: Path) -> bool:
    """Whether a file is locked."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not take(file)
