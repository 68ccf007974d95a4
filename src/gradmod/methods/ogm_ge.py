"""OGM-GE, On-the-fly Gradient Modulation with Generalization Enhancement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.centre import TargetCentre
from gradmod.methods.changes_gradients import ChangesGradients
from gradmod.methods.draws import generator_of
from gradmod.methods.sureness import compare_sureness
from gradmod.methods.surroundings import ForwardsMadeAgain, in_backward
from gradmod.methods.view import Batch, View
from gradmod.methods.window import Window, WindowedMethod
from gradmod.protocols import declares_own_heads
from gradmod.tasks import Task

FILTERS = ("all", "published")


class OGMGE(ChangesGradients, WindowedMethod):
    """On-the-fly Gradient Modulation with Generalization Enhancement (Peng et al., CVPR 2022, arXiv 2203.15332).

    Each step compares how sure each modality alone is of the target,

        rho^m = c^m / mean of the c^j of the others,      c^m = mean over the batch of softmax(prediction of m)[target]

    and, for every modality that is ahead (rho^m > 1), multiplies the gradients of its parameters by 1 - tanh(alpha
    rho^m). With `noise`, Gaussian noise with the standard deviation of each gradient, as it was, is added to it.

    The prediction of a modality is that of its own head where it has one, else its Shapley response; no gradient flows
    through either. For targets other than classes c is exp(-score), which for classes is the same thing; where they
    are numbers, the score in the unit and around the constant that `Regression` says. Where samples lack a modality,
    its c is a mean over those that have it.

    Args:
        modalities: names of the inputs; M >= 2.
        alpha: strength, > 0; without noise 0 too, which is joint training, to the last bit.
        noise: True: OGM-GE; False: OGM.
        filter: which of a modality's parameters are changed: `all` of its encoder and own head, or `published`: the
            convolutions' (those with four axes) alone.
        epochs: window, see `WindowedMethod`.
        seed: of the noise, which is the same on all processes.

    Raises:
        ValueError: one modality, alpha not above 0, an unknown filter; on `bind`, a filter that leaves nothing.
    """

    averages_scores = True

    def __init__(
        self,
        modalities: Sequence[str],
        alpha: float = 1.0,
        noise: bool = True,
        filter: str = "all",
        epochs: Window | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities, epochs)
        if len(self.modalities) < 2:
            raise ValueError(
                f"OGM-GE compares modalities, but there is one, {self.modalities[0]!r}; train it jointly"
            )
        if not (math.isfinite(alpha) and alpha >= 0) or (noise and alpha == 0):
            raise ValueError(
                f"alpha is {alpha}; expected a finite number > 0, or without noise 0, which is joint training"
            )
        if filter not in FILTERS:
            raise ValueError(f"filter is {filter!r}; expected one of {', '.join(FILTERS)}")
        self.alpha, self.noise, self.filter, self.seed = float(alpha), noise, filter, seed
        self.centre = TargetCentre()
        self._of_forward = ForwardsMadeAgain()
        self._steps = 0

    def bind(self, modules: Mapping[str, tuple[nn.Module, ...]]) -> None:
        """See `Method.bind`."""
        parameters = {
            m: [p for module in found for p in module.parameters()] for m, found in modules.items()
        }
        without = [m for m, found in parameters.items() if not any(map(self._is_changed, found))]
        if without:
            raise ValueError(
                f"OGM-GE would change no parameter of {', '.join(map(repr, without))}: none has four axes, which is "
                "what filter='published' asks for. Use filter='all'"
            )
        super().bind(modules)

    def forward(self, view: View, batch: Batch) -> Any:
        """The model's own forward; each modality's prediction is looked at."""
        target, present = batch.target, batch.present
        has_own_heads = declares_own_heads(view.model, self.modalities)
        if has_own_heads:
            output, predictions = view.uni_modal(batch, gradient=False)
        else:
            evaluation = view.coalitions(batch, masked_gradient=False)
            output, predictions = evaluation.output, evaluation.responses.detach()
        if not in_backward() or self._of_forward.recall(target) is None:
            with torch.no_grad():
                self.centre.observe(target, view.task, self.sum_over_processes)
                if not has_own_heads:
                    predictions = self.centre.own_predictions(predictions, view.task, present)
                self._observe(predictions, target, view.task, present)
        self._expect_backward(view.logits_of(output))
        return output

    def change_gradients(self) -> None:
        """Scale the gradients of the modalities that are ahead; add the noise."""
        if self.last_step is None or not self.is_active():
            return
        self._steps += 1
        generators: dict[torch.device, torch.Generator] = {}
        for coefficient, modality in zip(self.last_step.coefficients, self.modalities, strict=True):
            for parameter in self.parameters_of(modality):
                gradient = parameter.grad
                if gradient is None or not self._is_changed(parameter):
                    continue
                noise = (
                    self._noise_like(gradient, generators)
                    if self.noise and gradient.numel() > 1
                    else None
                )
                gradient.mul_(coefficient.to(gradient.dtype))
                if noise is not None:
                    gradient.add_(noise)

    def begin_without_gradient(self, target: Tensor) -> None:
        """See `Method.begin_without_gradient`: the step, if one comes, is the forward in the backward."""
        self._of_forward.forget(target)

    def memory(self) -> dict[str, Any]:
        """Steps so far, which seed the noise."""
        return {"steps": self._steps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._steps = int(memory["steps"])

    def _is_changed(self, parameter: nn.Parameter) -> bool:
        return self.filter == "all" or parameter.dim() == 4

    def _observe(
        self, predictions: Tensor, target: Tensor, task: Task, present: Tensor | None
    ) -> None:
        """Work out the coefficients from each modality's predictions [M, ..., K]; record the step."""
        seen = compare_sureness(self, self.centre, task, predictions, target, present)
        ahead = (seen.ratios > 1) & self.is_active() & seen.comparable
        coefficients = torch.where(ahead, 1 - torch.tanh(self.alpha * seen.ratios), 1.0)
        self._of_forward.keep(target, coefficients)
        self.last_step = seen.record(self, coefficients, task, predictions, target, present)

    def _noise_like(
        self, gradient: Tensor, generators: dict[torch.device, torch.Generator]
    ) -> Tensor:
        device = gradient.device
        if device not in generators:
            # Seeded by the run and the step: the same on all processes, and after resuming.
            generators[device] = generator_of(self.seed, self._steps, device=device)
        unit = torch.empty_like(gradient, memory_format=torch.contiguous_format).normal_(
            generator=generators[device]
        )
        return unit * gradient.std()


class OGM(OGMGE):
    """On-the-fly Gradient Modulation: `OGMGE` without its noise.

    Args:
        modalities: names of the inputs; M >= 2.
        alpha: strength, > 0; without noise 0 too, which is joint training, to the last bit.
        filter: see `OGMGE`.
        epochs: see `OGMGE`.

    Raises:
        ValueError: see `OGMGE`.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        alpha: float = 1.0,
        filter: str = "all",
        epochs: Window | None = None,
    ) -> None:
        super().__init__(modalities, alpha, noise=False, filter=filter, epochs=epochs)
