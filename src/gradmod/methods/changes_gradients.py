"""Methods that change the gradients after the backward pass, and the check that they were let to."""

from __future__ import annotations

import functools
import weakref
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradmod.methods.base import Method, Need
from gradmod.methods.surroundings import in_backward, refuse_transforms


class ChangesGradients(Method):
    """A method whose `after_backward` does the work; the next forward raises if it was left out."""

    needs = frozenset({Need.MODULES})

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._pending = _Pending()

    def begin_step(self, model: nn.Module) -> None:
        """See `Method.begin_step`.

        Raises:
            RuntimeError: the parameters were changed after the last backward, but `after_backward` was not called; or
                they are not the model's own.
        """
        super().begin_step(model)
        refuse_transforms(type(self).__name__)
        if torch.compiler.is_compiling() or in_backward():
            return
        parameters = self._all_parameters()
        if not all(isinstance(parameter, nn.Parameter) for parameter in parameters):
            raise RuntimeError(
                f"{type(self).__name__} changes the gradients of the model's own parameters, but the forward is called "
                "with others (torch.func.functional_call): their gradients would be those of joint training"
            )
        if self._pending.was_stepped():
            raise RuntimeError(
                f"{type(self).__name__} changes gradients, but an optimizer step was made without it: call "
                "model.after_backward() between loss.backward() and optimizer.step() (before clipping). If weights "
                "were only loaded since the last backward, load them into this model and not into the network in it"
            )
        self._pending.expect(parameters)

    def after_backward(self) -> None:
        """See `Method.after_backward`. With several backward passes for one step, call it once, before the step.

        Raises:
            RuntimeError: no parameter of any modality has a gradient, though a backward pass was run.
        """
        parameters = self._all_parameters()
        if self._pending.has_backward and all(parameter.grad is None for parameter in parameters):
            raise RuntimeError(
                f"{type(self).__name__} changes gradients, but no parameter of {', '.join(map(repr, self.modalities))} "
                "has any: call model.after_backward() between loss.backward() and optimizer.step(), before "
                "zero_grad(). Gradients that are not in `parameter.grad` (of torch.autograd.grad, functional_call, or "
                "DeepSpeed) it cannot change"
            )
        self._pending = _Pending()
        self.change_gradients()

    @abstractmethod
    def change_gradients(self) -> None:
        """Change the gradients of the parameters."""

    def _expect_backward(self, logits: Tensor) -> None:
        """Take notice of the backward pass through the logits of a training forward."""
        if logits.requires_grad and not torch.compiler.is_compiling() and not in_backward():
            logits.register_hook(self._pending.see)  # type: ignore[no-untyped-call]

    def _all_parameters(self) -> list[nn.Parameter]:
        return [parameter for m in self.modalities for parameter in self.parameters_of(m)]

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._pending = _Pending()  # the weights are others now, and not by an optimizer's step


_EXPECTING: weakref.WeakSet[_Pending] = weakref.WeakSet()


@functools.cache
def _watch_optimizers() -> None:
    """Be told of every optimizer's step from now on: a fused one changes parameters without a new version of them."""

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for pending in list(_EXPECTING):
            pending.see_step(optimizer)

    register_optimizer_step_post_hook(note)


class _Pending:
    """Parameters whose gradients are on their way and were not changed yet; a copy of it, or a pickle, is empty."""

    def __init__(self) -> None:
        self.has_backward = False
        self._has_step = False
        self._versions: list[tuple[Tensor, int]] = []

    def expect(self, parameters: list[nn.Parameter]) -> None:
        self._versions = [(parameter, parameter._version) for parameter in parameters]
        _watch_optimizers()
        _EXPECTING.add(self)

    def see(self, gradient: Tensor) -> None:
        self.has_backward = True

    def see_step(self, optimizer: torch.optim.Optimizer) -> None:
        own = {id(parameter) for parameter, _ in self._versions}
        if self.has_backward and any(
            id(p) in own for group in optimizer.param_groups for p in group["params"]
        ):
            self._has_step = True

    def was_stepped(self) -> bool:
        return self.has_backward and (
            self._has_step
            or any(parameter._version != version for parameter, version in self._versions)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pending:
        return _Pending()

    def __reduce__(self) -> tuple[type[_Pending], tuple[()]]:
        return _Pending, ()
