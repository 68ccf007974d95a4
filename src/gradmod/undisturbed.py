"""Looking at a model without changing it: its modes, its state and the random numbers are afterwards as they were."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradmod.coalitions.randomness import kept_random_state

_LEFT_ALONE = frozenset(vars(nn.Module())) - {"training", "_buffers"}
"""What PyTorch itself keeps on a module (parameters, submodules, hooks): no forward of a user's replaces it."""
_OTHERS_MACHINERY = ("torch.distributed", "torch._dynamo", "torch.fx", "torch.nn.parallel")
"""Wrappers that set themselves up in their first forward; their attributes are no state of the model."""
_COPIED = (list, dict, OrderedDict, defaultdict, set, deque)
_Kept = list[tuple[Tensor, Tensor]]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; on leaving, also by an exception, the model and the random numbers are as they were.

    A forward may move buffers (counters, queues, running means), parameters (momentum encoders, weights that are
    normalised) and plain attributes of modules (features kept for later); all of them are put back. Copies of the
    model's state are held on the CPU meanwhile. A lazy module that has not seen a batch yet is left to see one.
    """
    modules = [module for module in model.modules() if not _is_lazy(module)]
    modes = [(module, module.training) for module in model.modules()]
    attributes = [(module, _attributes(module)) for module in modules]
    contents = [(value, _copy(value)) for _, kept in attributes for value in kept.values() if type(value) in _COPIED]
    tensors = _tensors(model, attributes)
    generators = [
        (value, value.get_state())
        for _, kept in attributes
        for value in kept.values()
        if isinstance(value, torch.Generator)
    ]
    model.eval()
    try:
        with kept_random_state(model):
            yield
    finally:
        for module, kept in attributes:
            _restore_attributes(module, kept)
        for value, content in contents:
            _restore_content(value, content)
        _restore_tensors(tensors)
        for generator, state in generators:
            generator.set_state(state)
        for module, training in modes:
            module.training = training


def _is_lazy(module: nn.Module) -> bool:
    own = (*module._parameters.values(), *module._buffers.values())
    return any(is_lazy(tensor) for tensor in own if tensor is not None)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return (
        {}
        if _is_machinery(module)
        else {name: value for name, value in vars(module).items() if name not in _LEFT_ALONE}
    )


def _is_machinery(module: nn.Module) -> bool:
    # A script keeps its attributes elsewhere.
    return isinstance(module, torch.jit.ScriptModule) or type(module).__module__.startswith(_OTHERS_MACHINERY)


def _restore_attributes(module: nn.Module, kept: dict[str, Any]) -> None:
    if _is_machinery(module):
        return
    own = vars(module)
    for name in [name for name in own if name not in _LEFT_ALONE and name not in kept]:
        del own[name]
    own.update(kept)


def _copy(value: Any) -> Any:
    return list(value.items()) if isinstance(value, dict) else list(value)


def _restore_content(value: Any, content: list[Any]) -> None:
    """Of a list, dict, set or deque, in place; nothing where it holds the same things."""
    now = _copy(value)
    if len(now) == len(content) and all(map(_is_same, now, content)):
        return
    value.clear()
    if isinstance(value, (dict, set)):
        value.update(content)
    else:
        value.extend(content)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two entries, of a dict pairs of key and value, are the same objects."""
    pairs = isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other) == 2
    return one is other or (pairs and one[0] is other[0] and one[1] is other[1])


@torch.no_grad()
def _tensors(model: nn.Module, attributes: list[tuple[nn.Module, dict[str, Any]]]) -> _Kept:
    """The model's parameters, buffers and plain tensors, each with a copy on the CPU."""
    plain = (value for _, kept in attributes for value in kept.values() if isinstance(value, Tensor))
    found = {id(tensor): _local(tensor) for tensor in (*model.parameters(), *model.buffers(), *plain)}
    return [(tensor, tensor.detach().cpu().clone()) for tensor in found.values() if _is_copied(tensor)]


def _is_copied(tensor: Tensor) -> bool:
    lazy: bool = is_lazy(tensor)
    return not lazy and not tensor.is_meta and tensor.layout is torch.strided and not tensor.is_quantized


def _local(tensor: Tensor) -> Tensor:
    """The shard of this process of a parameter that is spread over several."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


@torch.no_grad()
def _restore_tensors(tensors: _Kept) -> None:
    for tensor, kept in tensors:
        # Only what has moved is written: a write would spoil a backward that is still to come.
        if tensor.shape != kept.shape or not torch.equal(tensor.detach().cpu(), kept):
            if tensor.shape == kept.shape:
                tensor.data.copy_(kept)
            else:
                tensor.data = kept.to(tensor.device)
