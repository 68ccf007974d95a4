"""What gradmod raises when a setting, a file or a checkpoint is wrong, what the system raises, and the exit codes."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class GradmodError(Exception):
    """Base of gradmod's own errors; the command line prints it as one line, without a traceback."""

    exit_code = 1


class ConfigError(GradmodError, ValueError):
    """A setting has a value that it cannot have."""

    exit_code = 2


class SettingsFileError(ConfigError):
    """The same in a file: its settings are called as they are there, not as the flags are."""


class DataError(GradmodError, ValueError):
    """A data set is missing, truncated or not of the form that its loader reads."""

    exit_code = 2


class UnusableDataError(GradmodError):
    """`gradmod check` found that a data set cannot be used."""

    exit_code = 1


class CheckpointError(GradmodError):
    """A run folder or a checkpoint in it cannot be read."""

    exit_code = 2


class WriteError(GradmodError):
    """A file cannot be written: the disk is full, the folder read-only; what was there before is as it was."""

    exit_code = 1


class TrainingError(GradmodError):
    """Training cannot go on, because of a value that is not finite; named with its step and modality."""

    exit_code = 1


class InterruptedRunError(GradmodError):
    """Ctrl-C: the step was finished and saved; the message says how to go on."""

    exit_code = 130


class FailedRunsError(GradmodError):
    """Some runs of a comparison failed; the others are in its table."""

    exit_code = 1


def closest(word: str, known: Iterable[str]) -> str:
    """Which of the `known` words was meant by `word`; empty: none of them.

    Capitals, hyphens and underscores count for nothing, and a word that another begins with is taken for it:
    `AVMNIST` means av-mnist, and `late_fusion` late.
    """

    def bare(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "").replace(" ", "")

    asked = bare(word)
    if not asked:
        return ""
    by_bare = {bare(name): name for name in reversed(list(known)) if bare(name)}
    if asked in by_bare:
        return by_bare[asked]
    close = difflib.get_close_matches(asked, by_bare, 1)
    if close:
        return by_bare[close[0]]
    begun = [
        name
        for name in by_bare
        if asked.startswith(name) or (len(asked) > 2 and name.startswith(asked))
    ]
    return by_bare[max(begun, key=len)] if begun else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, to stand behind a message on an unknown word; empty where nothing comes close."""
    meant = closest(word, known)
    return f"; did you mean {meant}?" if meant else ""


_OF_DAMAGE = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)


@contextmanager
def damage_in(what: object) -> Iterator[None]:
    """Around the use of records and checkpoints that somebody may have changed: their content may be anything.

    Args:
        what: the file or folder.

    Raises:
        CheckpointError: something in the block failed as things do on content of another form.
    """
    try:
        yield
    except GradmodError:
        raise
    except _OF_DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise CheckpointError(
            f"{what} cannot be used: what stands in it is damaged, or of another version of gradmod ({reason})"
        ) from error


UNREADABLE = (OSError, ValueError, RecursionError)
"""What reading a text, JSON or TOML raises: it is not there, not UTF-8, of another form, or nested too deep."""


def why_unreadable(error: BaseException) -> str:
    """Why a text cannot be read, in words that a user can do something with."""
    if isinstance(error, RecursionError):
        return "its brackets are nested too deep"
    # Of a number of thousands of digits; the rest is for programmers.
    return str(error).partition("; use sys.")[0]


OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""The system's errors that nothing but writing meets."""

_TO_DO = {
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ENOTDIR: "name a folder in its place",
    errno.EISDIR: "name a file in its place",
    errno.EEXIST: "expected a folder, or a name that is free: name another",
    errno.ELOOP: "mend its links, or name another path",
    errno.ENOENT: "name another path, or restore it",
    errno.EACCES: "allow it to this user, or name another path",
    errno.EPERM: "allow it to this user, or name another path",
}
_OF_WRONG_ARGUMENTS = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
)
_LONGEST_SHOWN = 400


def system_refusal(error: OSError, what: str = "") -> tuple[str, int]:
    """What to tell a user to whom the system refused a file or a folder, and the exit code.

    Args:
        error: the system's.
        what: said of the path, as in " cannot be written".

    Returns:
        The path, the system's reason and what to do; 2 where the path itself cannot be right, else 1.
    """
    code = error.errno if error.errno is not None else 0
    # A process that reads ahead hands its error on as a text, with its traceback: the last line says what it was.
    reason = error.strerror or (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if error.filename is not None:
        path = (
            os.fsdecode(error.filename)
            if isinstance(error.filename, bytes)
            else str(error.filename)
        )
        if code == errno.ENAMETOOLONG:
            reason += f" ({len(path)} characters)"
        elif code == errno.ENOTDIR:
            files = [str(part) for part in (Path(path), *Path(path).parents) if part.is_file()]
            reason += f": {files[-1]} is a file" if files else ""
        cut = len(path) > _LONGEST_SHOWN
        reason = f"{f'{path[:200]}...{path[-100:]}' if cut else path}{what}: {reason}"
    return "; ".join(
        filter(None, (reason, _TO_DO.get(code, "")))
    ), 2 if code in _OF_WRONG_ARGUMENTS else 1
