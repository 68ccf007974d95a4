"""Locks on open files, which end with the processes that hold them, however those end.

Where the file system has no such locks (Lustre mounted without `-o flock`, some NFS), and on Windows, where a locked
file cannot be read, a marker beside the file stands for the lock: it names its process, and one whose process is dead
holds nobody up. `filelock` does both.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import SoftFileLock, Timeout, lock_descriptor

from gradmod.experiments.errors import ConfigError

_WITHOUT_LOCKS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
)
"""What a file system that has no locks answers."""
PAUSE = 0.05


class Lock:
    """A lock that this process holds on a file that it has open.

    Args:
        marker: what stands for it where the file system has no locks; None: the system has it, and gives it up when
            every process that has the file open, this one's children included, has closed it.
    """

    def __init__(self, marker: SoftFileLock | None = None) -> None:
        self._marker = marker

    @property
    def is_marker(self) -> bool:
        """Whether a marker stands for it."""
        return self._marker is not None

    def release(self) -> None:
        """Give a marker up; a lock of the system is given up by closing the file."""
        if self._marker is not None:
            self._marker.release()


def acquire(file: IO[bytes]) -> Lock | None:
    """Lock an open file; None: another process has it locked.

    Raises:
        ConfigError: the system refuses, for a reason other than that it has no locks.
    """
    path = Path(file.name)
    try:
        # On Windows nobody else could read a locked file.
        if os.name == "posix":
            return _natively(file)
        return _by_marker(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be locked, which keeps two processes apart: {error.strerror or error}; name a folder on "
            "another file system"
        ) from None


@contextmanager
def acquired(path: Path) -> Iterator[None]:
    """Lock a file, made if need be; wait for whoever has it, and say so.

    Raises:
        ConfigError: the system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        lock = acquire(file)
        if lock is None:
            print(
                f"gradmod: note: waiting for who has {path} locked{holder_of(path)}",
                file=sys.stderr,
            )
        while lock is None:
            time.sleep(PAUSE)
            lock = acquire(file)
        try:
            yield
        finally:
            lock.release()


def is_taken(path: Path) -> bool:
    """Whether a file is locked."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        lock = acquire(file)
        if lock is not None:
            lock.release()
        return lock is None


def holder_of(path: Path) -> str:
    """Who holds a marker, for a message: " (process 12 on node7; ...)"; empty where the system has the locks."""
    marker = _marker_of(path)
    try:
        process, host = marker.read_text(encoding="utf-8").split("\n")[:2]
    except (OSError, ValueError):
        return ""
    return f" (process {process} on {host}; if it is gone for good, remove {marker})"


def _natively(file: IO[bytes]) -> Lock | None:
    try:
        return Lock() if lock_descriptor(file.fileno(), blocking=False) else None
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return _by_marker(Path(file.name))


def _by_marker(path: Path) -> Lock | None:
    marker = SoftFileLock(_marker_of(path), thread_local=False)
    try:
        marker.acquire(blocking=False)
    except Timeout:
        return None
    return Lock(marker)


def _marker_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
