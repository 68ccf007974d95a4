"""Around a command: our errors, and those of the system, become one line and an exit code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from gradmod.experiments.cli.streams import lasting_streams
from gradmod.experiments.errors import (
    OF_WRITING,
    GradmodError,
    InterruptedRunError,
    SettingsFileError,
    WriteError,
    system_refusal,
)

INTERRUPTED = (
    "interrupted; what was saved before is whole. A run whose folder is there already goes on with: gradmod resume "
    "FOLDER; anything else with the same command again"
)


def guarded(command: Callable[[], int | None], spelt: Callable[[str], str] = str) -> int:
    """Run a command; gradmod's own errors and the system's become one line and an exit code.

    Other exceptions are bugs and show. A reader of what is printed may leave (`| head`): the rest goes nowhere.

    Args:
        command: what is run; it may return an exit code.
        spelt: puts the names of settings in an error of ours as the user gave them.
    """
    threading.excepthook = _hook_of_threads
    try:
        with lasting_streams():
            return _guarded(command, spelt)
    except OSError as error:  # what was printed cannot be written
        return fail(system_refusal(error)[0], 1)


def _hook_of_threads(arguments: threading.ExceptHookArgs) -> None:
    """Say nothing of a file that a thread could not write (TensorBoard's does): the command says so itself."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def _guarded(command: Callable[[], int | None], spelt: Callable[[str], str]) -> int:
    try:
        return command() or 0
    except SettingsFileError as error:
        return fail(str(error), error.exit_code)
    except GradmodError as error:
        return fail(spelt(str(error)), error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gradmod":
            raise
        return fail(
            f"the module {error.name!r} is not installed; what the command line needs comes with: "
            "pip install 'gradmod[train]'",
            1,
        )
    except KeyboardInterrupt:
        return fail(INTERRUPTED, InterruptedRunError.exit_code)
    except OSError as error:
        if error.errno not in OF_WRITING:
            return fail(*system_refusal(error))
        from gradmod.experiments.files import cannot_write

        return fail(cannot_write(error), WriteError.exit_code)


def fail(message: str, code: int) -> int:
    """Print an error as one line; return `code`."""
    print(f"gradmod: error: {' '.join(message.split())}", file=sys.stderr)
    return code
