"""Methods that change the gradients after the backward pass, and the check that they were let to."""

from __future__ import annotations

from abc import abstractmethod

import torch

from gradmod.methods.base import Method


class ChangesGradients(Method):
    """A method whose `after_backward` does the work; the next forward raises if it was left out."""

    needs_modules = True
    _versions: list[int] | None = None
    """Versions of the modalities' parameters at the last forward; None: its gradients were changed since."""

    def after_backward(self) -> None:
        """See `Method.after_backward`. With several backward passes for one step, call it once, before the step."""
        self._versions = None
        self.change_gradients()

    @abstractmethod
    def change_gradients(self) -> None:
        """Change the gradients of the parameters."""

    def expect_after_backward(self) -> None:
        """Remember that gradients are on their way; every training forward calls it.

        Raises:
            RuntimeError: the parameters were changed since the last forward, but `after_backward` was not called.
        """
        if torch.compiler.is_compiling():
            return
        versions = [parameter._version for m in self.modalities for parameter in self.parameters_of(m)]
        if self._versions is not None and self._versions != versions:
            raise RuntimeError(
                f"{type(self).__name__} changes gradients, but an optimizer step was made without it: call "
                "model.after_backward() between loss.backward() and optimizer.step() (before clipping)"
            )
        self._versions = versions
