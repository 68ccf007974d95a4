"""What gradmod raises when a setting, a file or a checkpoint is wrong, and the exit code of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class GradmodError(Exception):
    """Base of gradmod's own errors; the command line prints it as one line, without a traceback."""

    exit_code = 1


class ConfigError(GradmodError, ValueError):
    """A setting has a value that it cannot have."""

    exit_code = 2


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


_OF_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError)


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
