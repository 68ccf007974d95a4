"""Whether a method has been given what it needs before a training step; each error says what to call."""

from __future__ import annotations

from gradmod.methods.base import Method, Need


class Readiness:
    """What a method must have been given.

    Its needs are looked at once: torch 2.6 cannot compile a look into a set of enum members.

    Args:
        method: of the model.
    """

    def __init__(self, method: Method) -> None:
        self._wants_epochs = bool(method.needs & {Need.SPLITS, Need.TRIALS})
        self._wants_teachers = Need.TEACHERS in method.needs
        self._hands_over = (
            "held_out=loader, optimizer=optimizer"
            if Need.TRIALS in method.needs
            else "validation=loader"
        )

    def expect(self, method: Method, *, in_training_step: bool) -> None:
        """Check that a training forward can be made.

        Args:
            method: as it is now.
            in_training_step: whether the forward is one of `training_step`.

        Raises:
            RuntimeError: something is missing.
        """
        name = type(method).__name__
        if method.needs_training_step and not in_training_step:
            raise RuntimeError(
                f"{name} has losses, gradients or optimizer steps of its own, which this loop leaves out: call loss = "
                "model.training_step(inputs, target, optimizer) in place of the forward, the backward and the "
                "optimizer's step"
            )
        if self._wants_epochs and method.epoch is None:
            raise RuntimeError(
                f"{name} looks at the data between epochs, and was not told of one: call model.before_epoch(number, "
                f"train=loader, {self._hands_over}) before every epoch, counted from 1"
            )
        if self._wants_teachers and not method.has_teachers:
            raise RuntimeError(
                f"{name} begins with encoders that were trained on one modality alone, and was given none: call "
                "model.take_teachers({modality: state dict of its encoder, ...}) before the first step. `gradmod "
                "train` trains them itself"
            )
