"""Mean and spread of the targets that a run has seen: what responses to numbers are scored around, and in what unit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradmod import functional
from gradmod.methods.surroundings import where_float64_is
from gradmod.tasks import Task

_NAMES = ("count", "mean", "moment")
_RESOLUTION = 1e-10
"""A spread below this part of the mean is rounding."""


class TargetCentre(nn.Module):
    """Running mean and variance of the numbers that a task's targets are; empty for a task whose targets are none.

    The same on all processes, and part of the state dict once it has seen a batch.

    Attributes:
        count: [K] float64 buffer, how many targets each output has had; None before the first batch.
        mean: [K] float64 buffer, their mean.
        moment: [K] float64 buffer, sum of their squared distances from it.
    """

    count: Tensor | None
    mean: Tensor | None
    moment: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        for name in _NAMES:
            self.register_buffer(name, None)

    def observe(
        self, target: Tensor, task: Task, over_processes: Callable[[Tensor], Tensor]
    ) -> None:
        """Take in the targets of a batch; one that is not finite is left out.

        Args:
            target: of this process' share of the batch.
            task: what it is.
            over_processes: sums a tensor over the processes that train the model.

        Raises:
            ValueError: the number of outputs changed.
        """
        numbers = task.numbers(target)
        if numbers is None:
            return
        numbers = where_float64_is(numbers.detach()).double().flatten(0, -2)
        if self.count is None or self.mean is None or self.moment is None:
            self.count, self.mean, self.moment = (
                numbers.new_zeros(numbers.shape[-1]) for _ in _NAMES
            )
        if len(self.mean) != numbers.shape[-1]:
            raise ValueError(
                f"targets of {numbers.shape[-1]} outputs after targets of {len(self.mean)}; each output has a mean of "
                "its own. Where they lie on another axis than the last: Regression(output_axis=...)"
            )
        # A state that was loaded before the first batch lies where it was saved.
        for name in _NAMES:
            setattr(self, name, getattr(self, name).to(numbers.device))
        seen = numbers.isfinite()
        distance = torch.where(seen, numbers - self.mean, 0.0)
        added, shift = over_processes(torch.stack([seen.double().sum(0), distance.sum(0)]))
        step = shift / (self.count + added).clamp(min=1)
        # Around the new mean, so that the squares of large numbers do not swallow their spread.
        around = over_processes(torch.where(seen, distance - step, 0.0).square().sum(0))
        self.moment.add_(self.count * step.square() + around)
        self.mean.add_(step)
        self.count.add_(added)

    def own_predictions(self, responses: Tensor, task: Task, present: Tensor | None) -> Tensor:
        """[M, B, ...] what each modality alone predicts; see `gradmod.functional.own_predictions`."""
        if self.mean is None:
            return responses
        shape = [1] * (responses.dim() - 1)
        shape[task.output_axis] = -1
        return functional.own_predictions(
            responses, self.mean.to(responses).reshape(shape), present
        )

    def unit(self, task: Task) -> Tensor | None:
        """Scalar float64, what scores are compared in; infinite while the targets do not differ. None: as they are."""
        if self.count is None or self.mean is None or self.moment is None:
            return None
        variance = self.moment.sum() / self.count.sum().clamp(min=1)
        smallest = (_RESOLUTION * self.mean.abs().max()) ** 2
        return torch.where(variance > smallest, task.unit(variance), torch.inf)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any
    ) -> None:
        for name in _NAMES:
            saved = state_dict.get(prefix + name)
            setattr(self, name, None if saved is None else saved.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *arguments)
