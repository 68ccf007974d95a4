"""The backward of a training forward: whether it came, and whether it came through the modulated logits."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.modes import has_training_batch_norm
from gradmod.coalitions.outputs import scalar_losses
from gradmod.protocols import Output


class BackwardWatch:
    """Sees to it that the loss comes from the modulated logits, and not past them; of one forward after the other."""

    def __init__(self) -> None:
        self._last: weakref.ref[_BackwardSeen] | None = None
        self._reached: _Reached | None = None

    def begin(self, result: Any, logits: Tensor, before: Tensor | None) -> None:
        """Watch the backward of a forward.

        Args:
            result: what the forward returned, and may hold losses.
            logits: the modulated logits in it.
            before: what they were modulated from; None: they were not.
        """
        if not logits.requires_grad:
            return
        reached = _Reached()
        seen = _BackwardSeen(reached)
        logits.register_hook(seen)  # type: ignore[no-untyped-call]
        self._last, self._reached = weakref.ref(seen), reached
        if before is not None and before is not logits and before.requires_grad:
            before.register_hook(reached.expect_now)  # type: ignore[no-untyped-call]
        # An extra loss, declared as one, may have a backward of its own before that of the logits.
        hook = reached.expect_later if isinstance(result, Output) else reached.expect_soon
        for loss in scalar_losses(result):
            loss.register_hook(hook)  # type: ignore[no-untyped-call]

    def refuse_pending(self, model: nn.Module) -> None:
        """Look back before the next forward.

        Raises:
            RuntimeError: the last backward went past the logits; or it is still to come, and the model has batch norm.
        """
        if self._reached is not None:
            self._reached.refuse_bypass()
        last = self._last() if self._last is not None else None
        if last is not None and not last.reached.logits and has_training_batch_norm(model):
            raise RuntimeError(
                "a second training forward before the backward of the first: batch norm would change the running "
                "statistics under the first one's masked passes and its gradients would be silently wrong. Call "
                "backward() after each forward (gradients add up), or drop the first output"
            )


def refuse_backward(logits: Tensor) -> None:
    """Make the backward of a forward in eval mode raise: it would be joint training, and in silence."""

    def refuse(gradient: Tensor) -> None:
        raise RuntimeError(
            "backward through a forward that was made in eval mode with a target: the method did nothing in it. Call "
            "model.train() before training; for gradients of a model in eval mode leave the target out"
        )

    if logits.requires_grad:
        logits.register_hook(refuse)  # type: ignore[no-untyped-call]


class _BackwardSeen:
    """Gradient hook of the logits; it lives as long as the graph it hangs on."""

    def __init__(self, reached: _Reached) -> None:
        self.reached = reached

    def __call__(self, gradient: Tensor) -> None:
        self.reached.logits = True


class _Reached:
    """What the backward of one forward has reached."""

    def __init__(self) -> None:
        self.logits = False
        self._others = False

    def expect_now(self, gradient: Tensor) -> None:
        """Hook of what the logits were modulated from; a gradient that comes by way of them reaches them first."""
        self._others = True
        self.refuse_bypass()

    def expect_soon(self, gradient: Tensor) -> None:
        """Hook of a loss in the network's output: the logits must be reached in the same backward."""
        self._others = True
        if not self.logits:
            torch.autograd.Variable._execution_engine.queue_callback(self.refuse_bypass)

    def expect_later(self, gradient: Tensor) -> None:
        """Hook of an extra loss: the logits must be reached before the next forward."""
        self._others = True

    def refuse_bypass(self) -> None:
        """Raise where something else was reached and the logits were not."""
        if self._others and not self.logits:
            self._others = False  # said once
            raise RuntimeError(
                "the backward went past the logits that the model returned, so that the method acted on nothing: the "
                "loss was computed from logits that the network kept, or inside the network from others than it "
                "returned. Compute the loss from the returned logits, and add losses of the network to it before one "
                "backward(). gradmod.adapt(net, logits=lambda out: out.logits) says where the network's logits are"
            )
