"""What is printed to somebody who stops reading (`gradmod list | head`): the rest is not seen, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Lasting:
    """A text stream that goes nowhere once its reader has left, in place of raising BrokenPipeError.

    The program that writes goes on to its end, with its own exit code.

    Args:
        stream: `sys.stdout` or `sys.stderr`.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`; return its length."""
        try:
            self._stream.write(text)
        except BrokenPipeError:
            self._lead_nowhere()
        return len(text)

    def flush(self) -> None:
        """Flush the stream.

        Raises:
            OSError: what was printed cannot be written, for another reason than that its reader left.
        """
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._lead_nowhere()
        except OSError:
            self._lead_nowhere()
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lead_nowhere(self) -> None:
        # What the stream still holds would be written, and fail again, when Python ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Around a command: both standard streams outlast their readers.

    Raises:
        OSError: what was printed cannot be written.
    """
    before = sys.stdout, sys.stderr
    wrapped = [None if stream is None else Lasting(stream) for stream in before]
    sys.stdout, sys.stderr = wrapped
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in filter(None, wrapped):
            stream.flush()
