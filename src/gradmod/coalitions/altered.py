"""A network and a batch on which nothing is hidden by a coincidence: what is zero, silent or rounded shows nothing.

A gate or a head that starts at zero, a batch that is silent and figures of 16 bits make different computations look
alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import is_plain
from gradmod.coalitions.masking import map_tensors, tensor_leaves, with_items

_SMALL = 1e-3
"""Parameters below this in size are moved: they may be gates that have yet to open."""
_MOST_PARAMETERS = 300_000_000
"""Networks of 16 bits with more than this are compared as they are: a copy in float32 might not fit."""
_HALVES = (torch.float16, torch.bfloat16)


def can_be_altered(
    model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str], axes: Mapping[str, int]
) -> bool:
    """Whether `altered` would change anything."""
    silent = (
        _is_silent(leaf, axes.get(m, 0)) for m in modalities for leaf in tensor_leaves(inputs[m])
    )
    return any(silent) or any(_is_coincidence(parameter) for parameter in model.parameters())


@torch.no_grad()
def open_gates(model: nn.Module) -> None:
    """Move parameters that are all (nearly) zero, or all the same, in place.

    Values stay near those that they have, so that what the network computes stays within its range.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not _is_coincidence(parameter):
            continue
        draw = torch.rand(parameter.shape, generator=generator).to(
            parameter.device, parameter.dtype
        )
        if _is_small(parameter):
            sign = torch.where(draw < 0.5, -1.0, 1.0).to(parameter.dtype)
            parameter.data.copy_(sign * (0.05 + 0.1 * draw))
        else:
            parameter.data.mul_(0.9 + 0.2 * draw)


def sounding(
    inputs: Mapping[str, Any], modalities: Sequence[str], axes: Mapping[str, int]
) -> Mapping[str, Any]:
    """The batch, with something between 0 and 0.5 added where the input is the same for every sample.

    So little that numbers which stand for classes stay what they are when they are cut to integers.
    """
    generator = torch.Generator().manual_seed(1)

    def sound(leaf: Tensor, axis: int) -> Tensor:
        if not _is_silent(leaf, axis):
            return leaf
        noise = torch.rand(leaf.shape, generator=generator) / 2
        return leaf + noise.to(leaf.device, leaf.dtype)

    changed = {m: map_tensors(partial(sound, axis=axes.get(m, 0)), inputs[m]) for m in modalities}
    return with_items(inputs, changed)


def is_rounded(model: nn.Module) -> bool:
    """Whether the network computes in 16 bits: by its parameters, or by autocast."""
    parameters = list(model.parameters())
    if sum(parameter.numel() for parameter in parameters) > _MOST_PARAMETERS:
        return False
    devices = {parameter.device.type for parameter in parameters} or {"cpu"}
    return any(p.dtype in _HALVES for p in parameters) or any(
        map(torch.is_autocast_enabled, devices)
    )


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Without autocast, and with parameters and buffers of 16 bits in float32; who enters it puts them back."""
    with ExitStack() as stack:
        for device in {parameter.device.type for parameter in model.parameters()} or {"cpu"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dtype in _HALVES:
                tensor.data = tensor.data.float()
        yield


def as_float32(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch with its tensors of 16 bits in float32."""
    wide: Mapping[str, Any] = map_tensors(
        lambda leaf: leaf.float() if leaf.dtype in _HALVES else leaf, inputs
    )
    return wide


def _is_small(parameter: Tensor) -> bool:
    return bool((parameter.detach().abs() < _SMALL).all())


def _is_coincidence(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or not is_plain(parameter) or not parameter.numel():
        return False
    values = parameter.detach()
    return _is_small(values) or bool((values == values.flatten()[0]).all())


def _is_silent(leaf: Tensor, axis: int) -> bool:
    if (
        not leaf.is_floating_point()
        or not is_plain(leaf)
        or leaf.dim() <= axis
        or leaf.shape[axis] < 2
    ):
        return False
    return bool((leaf == leaf.narrow(axis, 0, 1)).all())
