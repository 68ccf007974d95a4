"""AGM without any trick: a copy of the network for each coalition, autograd, and the equations as they stand."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Call = Callable[[nn.Module, Mapping[str, Any]], Tensor]


def fresh(tree: Any) -> Any:
    """Inputs of a pass's own."""
    if isinstance(tree, Tensor):
        return tree.detach().clone().requires_grad_(tree.requires_grad)
    if isinstance(tree, dict):
        return {key: fresh(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [fresh(value) for value in tree]
    return tree


def brute_force_step(
    net: nn.Module,
    call: Call,
    inputs: Mapping[str, Any],
    target: Tensor,
    modalities: Sequence[str],
    alpha: float,
    hide: Callable[[str, Any], Any],
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of the first step of AGM (cap 2) on a copy of `net`, and the coefficients."""
    net, template = copy.deepcopy(net), copy.deepcopy(net)
    full = call(net, fresh(dict(inputs)))
    count = len(modalities)
    weights = torch.zeros(count, 2**count, dtype=torch.float64)
    for m, others in enumerate(range(count)):
        rest = [j for j in range(count) if j != others]
        for size in range(count):
            for shown in itertools.combinations(rest, size):
                weight = (
                    math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                )
                code = sum(1 << j for j in shown)
                weights[m, code | 1 << m] += weight
                weights[m, code] -= weight
    games: list[tuple[Tensor, nn.Module]] = []
    for code in range(1, 2**count - 1):
        twin = copy.deepcopy(template).eval()
        for name, module in twin.named_modules():
            # The one state that is that after the full pass.
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.load_state_dict(net.get_submodule(name).state_dict())
        shown = {
            m: inputs[m] if code >> i & 1 else hide(m, inputs[m]) for i, m in enumerate(modalities)
        }
        games.append((call(twin, fresh({**inputs, **shown})), twin))
    values = [torch.zeros_like(full), *(logits for logits, _ in games), full]
    responses = torch.stack(
        [sum(w * v.detach() for w, v in zip(row, values, strict=True)) for row in weights]
    )
    flat = responses.flatten(1, -2)
    scores = torch.stack([F.cross_entropy(phi.double(), target.flatten()) for phi in flat])
    relative = torch.stack(
        [sum(scores[j] - scores[m] for j in range(count)) / (count - 1) for m in range(count)]
    )
    coefficients = (alpha * (1 - relative.exp()).clamp(max=2.0)).exp()
    (gradient,) = torch.autograd.grad(
        F.cross_entropy(full.flatten(0, -2), target.flatten()), full, retain_graph=True
    )
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for code, (value, module) in enumerate([*games, (full, net)], start=1):
        share = (coefficients @ weights[:, code]).to(gradient.dtype)
        module.zero_grad()
        value.backward(gradient * share)
        for name, p in module.named_parameters():
            if p.grad is not None:
                total[name] += p.grad
    return total, coefficients
