"""A window of epochs, outside which a method is joint training."""

from __future__ import annotations

from collections.abc import Sequence

from gradmod.methods.base import Method

Window = tuple[int, int | None]


class WindowedMethod(Method):
    """A method that acts in a window of epochs.

    Args:
        modalities: names of the inputs.
        epochs: (first, last) epoch that is modulated, both included, counted from 1; `last` may be None. None: always.
            With a window, call `model.before_epoch`.

    Raises:
        ValueError: an empty window.
    """

    def __init__(self, modalities: Sequence[str], epochs: Window | None = None) -> None:
        super().__init__(modalities)
        if epochs is not None and (
            epochs[0] < 1 or (epochs[1] is not None and epochs[1] < epochs[0])
        ):
            raise ValueError(
                f"epochs is {epochs}; expected (first, last) with 1 <= first <= last, or last None"
            )
        self.epochs = epochs

    def is_active(self) -> bool:
        """Whether the present epoch lies in the window.

        Raises:
            RuntimeError: there is a window, but `model.before_epoch` was never called.
        """
        if self.epochs is None:
            return True
        if self.epoch is None:
            raise RuntimeError(
                f"{type(self).__name__} has a window of epochs {self.epochs} but was not told where training is: call "
                "model.before_epoch(number), counted from 1, at the start of every epoch"
            )
        first, last = self.epochs
        return first <= self.epoch and (last is None or self.epoch <= last)
