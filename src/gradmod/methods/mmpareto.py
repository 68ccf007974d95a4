"""MMPareto: the gradients of the joint and of the uni-modal loss, where they conflict, joined so that both fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gradmod.methods.base import Method, Need
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.step import Step, total
from gradmod.methods.surroundings import where_float64_is
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
        places = {id(parameter): place for place, parameter in enumerate(parameters)}
        combined: dict[int, Tensor] = {}
        shares = []
        for m in self.modalities:
            encoder = [places[id(p)] for p in self.encoder_parameters(m) if id(p) in places]
            if not encoder:  # frozen
                device = where_float64_is(output.logits).device
                shares.append(torch.ones((), dtype=torch.float64, device=device))
                continue
            found, share = combine(
                [joint[i] for i in encoder], [alone[i] for i in encoder], self.gamma
            )
            combined |= zip(encoder, found, strict=True)
            shares.append(share)
        added = [
            combined[i] if i in combined else joint[i] + alone[i] for i in range(len(parameters))
        ]
        step.add_gradients(parameters, added)
        if self.last_step is not None:
            self.last_step = replace(self.last_step, coefficients=torch.stack(shares))
        step.apply()


@torch.no_grad()
def combine(
    joint: Sequence[Tensor], alone: Sequence[Tensor], gamma: float
) -> tuple[list[Tensor], Tensor]:
    """Join an encoder's gradients of the joint and of its own loss.

    Args:
        joint: of the joint loss, for each of the encoder's parameters.
        alone: of the uni-modal loss, for the same ones.
        gamma: what the joint one is multiplied by.

    Returns:
        The gradient of each parameter; and, a scalar, the weight 2 k^m of the modality's own gradient.
    """
    # Large gradients are read as few times as can be, and no copy of all of them is made: both take as long as a pass.
    products = torch.stack([_products(g, g_own) for g, g_own in zip(joint, alone, strict=True)])
    g_g, g_own_own, g_own = where_float64_is(products).double().sum(0)
    # Read where they conflict: there the three do not cancel.
    tiny = torch.finfo(torch.float64).tiny
    shortest = ((g_own_own - g_own) / (g_g - 2 * g_own + g_own_own).clamp_min(tiny)).clamp(0, 1)
    k = torch.where(g_own < 0, shortest, torch.full_like(shortest, 0.5))
    sizes = products[:, :2].sqrt().sum(1)
    combined = []
    for g, own, size in zip(joint, alone, sizes, strict=True):
        weighted = (g * (2 * k).to(g)).addcmul_(own, (2 * (1 - k)).to(g))
        length = weighted.norm()
        # Of gradients that are opposite nothing but rounding is left, which has no direction to be stretched in.
        is_noise = length <= 16 * torch.finfo(g.dtype).eps * size
        stretch = torch.where(is_noise, torch.ones_like(length), (g + own).norm() / length)
        combined.append(weighted.mul_(gamma * stretch.clamp_min(1)))
    return combined, 2 * (1 - k)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """[3] the first with itself, the second with itself, and one with the other."""
    first, second = one.flatten(), other.flatten()
    return torch.stack([first @ first, second @ second, first @ second])
