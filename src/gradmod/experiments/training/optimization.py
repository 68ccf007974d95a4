"""Optimizer, learning rate and gradient clipping of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.experiments.settings.config import OptimizerConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """SGD with momentum, Adam or AdamW."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    optimizer = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return optimizer(parameters, lr=config.lr, weight_decay=config.weight_decay)


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Take back what an optimizer has gathered for each parameter; its settings stay those of the configuration.

    Args:
        optimizer: made for the same parameters.
        saved: its state dict in a checkpoint.

    Raises:
        ValueError: a tensor has another shape than its parameter, or a number is none.
    """
    optimizer.load_state_dict({**optimizer.state_dict(), "state": saved["state"]})
    for parameter, gathered in optimizer.state.items():
        for name, value in gathered.items():
            fits = value is None or (
                isinstance(value, Tensor) and value.shape in ((), parameter.shape)
            )
            if not fits or (isinstance(value, Tensor) and not value.is_floating_point()):
                raise ValueError(
                    f"the optimizer's {name} is {value if not isinstance(value, Tensor) else list(value.shape)} for a "
                    f"parameter of shape {list(parameter.shape)}"
                )


def learning_rate(config: OptimizerConfig, epoch: int, epochs: int) -> float:
    """Learning rate of an epoch, counted from 1, out of `epochs`.

    `step` multiplies by `decay_factor` every `decay_every` epochs; `cosine` falls from lr in the first epoch towards
    0 after the last; `warmup-cosine` first rises in equal steps over `warmup_epochs`.
    """
    done = epoch - 1
    if config.schedule == "step":
        return config.lr * float(config.decay_factor ** (done // config.decay_every))
    if config.schedule == "constant":
        return config.lr
    warmup = config.warmup_epochs if config.schedule == "warmup-cosine" else 0
    if done < warmup:
        return config.lr * (done + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(epochs - warmup, 1)))


def clip_gradients(
    parameters: Iterable[nn.Parameter], clip_norm: float | None, trigger: Tensor | None = None
) -> Tensor:
    """Scale all gradients down so that their total norm is at most `clip_norm`; reads nothing from the device.

    Args:
        parameters: whose gradients are clipped together.
        clip_norm: largest total 2-norm; None only measures.
        trigger: the head's weight, for the published rule: clip only when an entry of its gradient exceeds `clip_norm`
            in size.

    Returns:
        The total norm before clipping, a scalar tensor.
    """
    listed = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(
        [parameter.grad for parameter in listed if parameter.grad is not None]
    )
    if clip_norm is not None:
        effective = norm
        if trigger is not None and trigger.grad is not None:
            effective = torch.where(
                trigger.grad.abs().max() > clip_norm, norm, torch.zeros_like(norm)
            )
        nn.utils.clip_grads_with_norm_(listed, clip_norm, effective)
    return norm
