"""Ctrl-C: a wish that the loop grants after the step; elsewhere the end, with a word on how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from gradmod.experiments.errors import InterruptedRunError
from gradmod.experiments.runs.names import RESULT


class Interrupts:
    """Context in which SIGINT and SIGTERM only set `requested`; a second SIGINT acts as usual.

    Only Python's own handlers are replaced, and put back at the end. A signal that is ignored, as in a script's
    background job, stays so; a handler of the program that trains is left to it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, usual in (
                (signal.SIGINT, signal.default_int_handler),
                (signal.SIGTERM, signal.SIG_DFL),
            ):
                if signal.getsignal(number) is usual:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


@contextmanager
def interrupts_named(folder: Path) -> Iterator[None]:
    """Ctrl-C where the loop, which saves first, does not catch it: before it, after it, or twice.

    Raises:
        InterruptedRunError: says how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        finished = (folder / RESULT).is_file()
        how = (
            f"the run {folder} is finished" if finished else f"go on with: gradmod resume {folder}"
        )
        raise InterruptedRunError(f"interrupted; what was saved before is whole; {how}") from None
