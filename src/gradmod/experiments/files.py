"""Files that are whole or not there: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gradmod.experiments.errors import OF_WRITING, CheckpointError, WriteError, system_refusal
from gradmod.experiments.file_kinds import another_kind

if TYPE_CHECKING:
    import numpy.typing as npt

_TEMPORARY = re.compile(
    r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]{1,9})-[0-9a-f]{8}\.(tmp|making)"
)


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Call `write` on a temporary file and put it in the place of `path`; a crash leaves the old file as it was.

    Raises:
        WriteError: it cannot be written: the disk is full, the folder read-only, ...
    """
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        failed = _failure_to_write(error)
        if failed is not None:
            raise WriteError(cannot_write(failed, path)) from None
        raise


def temporary_beside(path: Path, ending: str = "tmp") -> Path:
    """A name for what is to be renamed to `path`, no other process' and no other call's; see `is_leftover`."""
    return path.with_name(
        f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{ending}"
    )


def making_beside(path: Path) -> Path:
    """A name for a folder that is to be renamed to `path`; what killed processes left of the same is removed."""
    for left in path.parent.glob(f".{escape(path.name)}.*.making"):
        if is_leftover(left):
            shutil.rmtree(left, ignore_errors=True)
    return temporary_beside(path, "making")


def is_leftover(path: Path) -> bool:
    """Whether `path` has a name of `temporary_beside`, given by a process of this machine that has ended.

    Only that can be removed: what a process of another machine (or container) writes may be in use, and no other name
    is ours.
    """
    found = _TEMPORARY.fullmatch(path.name)
    return (
        found is not None and found["machine"] == _machine() and _has_ended(int(found["process"]))
    )


def sync(path: Path) -> None:
    """Flush a file or a folder to disk: what was written, or made or renamed in it, survives a power cut only then."""
    if os.name != "posix":  # elsewhere, a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    write_atomically(path, lambda file: _write(file, text))


def cannot_write(error: OSError, path: Path | None = None) -> str:
    """What to tell a user who wants something written that the system refuses.

    Args:
        error: the system's error.
        path: the file, where the error does not name it.
    """
    where = path if path is not None else error.filename or "a file"
    if error.errno not in OF_WRITING | {errno.EACCES, errno.EPERM, errno.EIO}:
        return system_refusal(
            OSError(error.errno, error.strerror, str(where)), " cannot be written"
        )[0]
    return (
        f"{where} cannot be written: {error.strerror or error}. Make room, or allow it, and go on: what was saved "
        "before is whole"
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json_text(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays by name as a compressed .npz, atomically."""
    import numpy as np

    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of numbers by name from an .npz, running nothing.

    Raises:
        CheckpointError: the file is missing or damaged, or lacks one of them.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            found = {name: np.asarray(stored[name]) for name in names}
    except Exception as error:  # a damaged archive raises nearly anything
        reason = " ".join(str(error).split())[:200]
        other = another_kind(path, "an .npz archive", "npz")
        raise CheckpointError(
            f"{path} cannot be read: {other or f'missing, truncated or damaged ({reason})'}"
        ) from None
    for name, array in found.items():
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"{path}: {name} holds {array.dtype}; expected numbers")
    return found


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of `value`; numbers that JSON lacks (NaN, infinity) become the strings "nan", "inf" and "-inf"."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _failure_to_write(error: BaseException | None) -> OSError | None:
    """The system's error behind `error`; torch wraps one while it writes a file."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def _machine() -> str:
    """What tells machines apart whose processes have numbers of their own: containers, and one machine's boots, too."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux alone has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _has_ended(process: int) -> bool:
    if os.name != "posix" or process == 0:  # elsewhere, asking ends it
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is another user's
        return False
    return False
