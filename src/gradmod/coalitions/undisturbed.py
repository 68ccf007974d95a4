"""Looking at a model without changing it: its modes, its state and the random numbers are afterwards as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import NetworkState, is_uninitialized


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; on leaving, also by an exception, the model and the random numbers are as they were.

    A forward may move buffers (counters, queues, running means), parameters (momentum encoders, weights that are
    normalised) and plain attributes of modules (features kept for later); all of them are put back. Copies of the
    model's tensors are held on the CPU meanwhile. The attributes of a model with lazy modules that have not seen a
    batch yet are left as the batch makes them; scripts (TorchScript) keep theirs where Python does not see them.
    """
    modes = [(module, module.training) for module in model.modules()]
    scripts = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    state = None if scripts or is_uninitialized(model) else NetworkState(model)
    tensors = _copies(
        [*model.parameters(), *model.buffers(), *(state.tensors if state is not None else ())]
    )
    generators = [(generator, generator.get_state()) for generator in _generators(model)]
    model.eval()
    try:
        with same_random_numbers():
            yield
    finally:
        if state is not None:
            state.put_back()
        _put_back(tensors)
        for generator, drawn in generators:
            generator.set_state(drawn)
        for module, training in modes:
            module.training = training


def _generators(model: nn.Module) -> list[torch.Generator]:
    """Generators of random numbers that modules keep."""
    kept: Iterator[Any] = (
        value for module in model.modules() for value in module.__dict__.values()
    )
    return [value for value in kept if isinstance(value, torch.Generator)]


@torch.no_grad()
def _copies(tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each tensor, once, with a copy on the CPU; of one that is spread over several processes, this one's shard."""
    found = {
        id(tensor): tensor.to_local() if hasattr(tensor, "to_local") else tensor
        for tensor in tensors
    }
    return [
        (tensor, tensor.detach().cpu().clone())
        for tensor in found.values()
        if _can_be_copied(tensor)
    ]


def _can_be_copied(tensor: Tensor) -> bool:
    lazy = torch.nn.parameter.is_lazy(tensor)
    return (
        not lazy
        and not tensor.is_meta
        and tensor.layout is torch.strided
        and not tensor.is_quantized
    )


@torch.no_grad()
def _put_back(tensors: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, kept in tensors:
        # Only what has moved is written, and through `.data`: a backward that is still to come is not spoilt.
        if tensor.shape != kept.shape:
            tensor.data = kept.to(tensor.device)
        elif not torch.equal(tensor.detach().cpu(), kept):
            tensor.data.copy_(kept)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """On leaving, the random numbers of Python, NumPy and torch go on as if nothing had been drawn meanwhile."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    on_mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_cuda is not None:
            torch.cuda.set_rng_state_all(on_cuda)
        if on_mps is not None:
            torch.mps.set_rng_state(on_mps)
