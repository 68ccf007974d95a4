"""MMPareto: the gradients of the joint and of the uni-modal loss, where they conflict, joined so that both fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.base import Method, Need
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.step import Step, total
from gradmod.methods.view import Batch, View
from gradmod.protocols import Output


class MMPareto(Method):
    """MMPareto (Wei and Hu, "Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024).

    Each encoder has two gradients, g of the joint loss and g^m of its modality's own:

        k, k^m  = 1/2, 1/2                                      where g . g^m >= 0
                = the shortest vector of the segment [g, g^m]   where they conflict:
                  k = clip((g^m - g) . g^m / |g - g^m|^2, 0, 1),  k^m = 1 - k
        n       = 2 k g + 2 k^m g^m,   for every parameter by itself multiplied by  gamma * max(1, |g + g^m| / |n|)

    Heads and fusion get the plain sum of the gradients. Two backward passes, whatever the number of modalities: an
    encoder sees no other modality's own loss.

    Without conflict n is g + g^m, so that the method is uni-modal losses with gamma times the learning rate of the
    encoders: compare with gamma 1 as well. Heads: see `UniModalLosses`. Where a modality is absent from the batch, its
    encoder gets gamma times the joint gradient.

    Args:
        modalities: names of the inputs; M >= 1.
        gamma: what encoders' gradients are multiplied by, > 0; 1.5 in the published code.

    Raises:
        ValueError: gamma that is not a finite number above 0.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import MMPareto
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, MMPareto(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> model.last_step.coefficients.shape  # the weight 2 k^m of each modality's own gradient
        torch.Size([2])
    """

    needs = frozenset({Need.FEATURES, Need.HEADS, Need.MODULES})
    needs_training_step = True
    takes_gradients = True

    def __init__(self, modalities: Sequence[str], gamma: float = 1.5) -> None:
        super().__init__(modalities)
        if not (math.isfinite(gamma) and gamma > 0):
            raise ValueError(
                f"gamma is {gamma}; expected a finite number > 0 (1 leaves the encoders' learning rate)"
            )
        self.gamma = float(gamma)

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"gamma={self.gamma:g}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and each modality's loss as `uni_modal.<modality>`."""
        output, logits = view.uni_modal(batch)
        losses = uni_modal_losses(view.task, logits, batch, self.modalities)
        self.last_step = record_of_heads(
            self, view.task, logits, batch, [1.0] * len(self.modalities)
        )
        return view.with_losses(output, {f"uni_modal.{m}": loss for m, loss in losses.items()})

    def update(self, step: Step, output: Output) -> None:
        """Gradients of the joint loss and of the sum of the uni-modal ones; combined, and one optimizer step."""
        losses = step.losses(output)
        own = [losses.pop(f"uni_modal.{m}") for m in self.modalities]
        parameters = step.parameters
        joint, alone = step.gradients([total(losses.values()), total(own)], parameters)
        combined, shares = joint + alone, []
        where = _slices(parameters)
        for m in self.modalities:
            encoder = [where[id(p)] for p in self.encoder_parameters(m) if id(p) in where]
            shares.append(combine(combined, joint, alone, encoder, self.gamma))
        step.add_gradients(parameters, combined)
        if self.last_step is not None:
            self.last_step = replace(self.last_step, coefficients=torch.stack(shares))
        step.apply()


@torch.no_grad()
def combine(
    combined: Tensor, joint: Tensor, alone: Tensor, encoder: Sequence[slice], gamma: float
) -> Tensor:
    """Write an encoder's gradient, of its joint and its own one, into `combined`.

    Args:
        combined: [n] flat gradient of all parameters; changed where the encoder's are.
        joint: [n] of the joint loss.
        alone: [n] of the uni-modal losses.
        encoder: where each parameter of the encoder lies.
        gamma: what it is multiplied by.

    Returns:
        Scalar, the weight 2 k^m of the modality's own gradient.
    """
    g = torch.cat([joint[part] for part in encoder]).double()
    g_own = torch.cat([alone[part] for part in encoder]).double()
    difference = g - g_own
    shortest = (
        ((g_own - g) * g_own).sum() / difference.square().sum().clamp_min(torch.finfo(g.dtype).tiny)
    ).clamp(0, 1)
    k = torch.where((g * g_own).sum() < 0, shortest, torch.full_like(shortest, 0.5))
    for part in encoder:
        plain = joint[part] + alone[part]
        weighted = 2 * k.to(plain.dtype) * joint[part] + 2 * (1 - k).to(plain.dtype) * alone[part]
        length = weighted.norm()
        # Of gradients that are opposite nothing but rounding is left, which has no direction to be stretched in.
        noise = 16 * torch.finfo(plain.dtype).eps * (joint[part].norm() + alone[part].norm())
        stretch = torch.where(
            length > noise, plain.norm() / length, torch.ones_like(length)
        ).clamp_min(1)
        combined[part] = gamma * stretch * weighted
    return 2 * (1 - k)


def _slices(parameters: Sequence[nn.Parameter]) -> dict[int, slice]:
    """Where each parameter's entries lie in the flat vector."""
    found, start = {}, 0
    for parameter in parameters:
        found[id(parameter)] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return found
