"""What a network changes in its forward, seen by calling it on copies while everything is put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from gradmod.coalitions.kept_state import (
    NetworkState,
    is_batch_norm,
    is_plain,
    kept_state,
    stateful_names,
)
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import copy_containers, mask, tensor_leaves, with_items
from gradmod.coalitions.randomness import kept_random_state
from gradmod.coalitions.strategy import Habits


@contextmanager
def everything_put_back(model: nn.Module) -> Iterator[None]:
    """Whatever is done to `model` meanwhile is undone: parameters too, and what they share their memory with."""
    state = NetworkState(model, stateful_names(model), everything=True)
    # What is no buffer may be moved as well: a temperature by its data, a plain tensor of a module.
    tensors = [*state.tensors, *state.norm_tensors, *model.parameters()]
    kept = [
        (tensor, tensor.data, tensor.detach().clone()) for tensor in tensors if is_plain(tensor)
    ]
    try:
        with kept_random_state(model), kept_state(model, state, strict=False):
            yield
    finally:
        for tensor, memory, was in kept:
            if tensor.dtype != was.dtype or (
                tensor.shape == was.shape and _lies_elsewhere(tensor, memory)
            ):
                tensor.data = memory
            if tensor.shape == was.shape and not is_equal(tensor.detach(), was):
                tensor.data.copy_(was)


def observe_habits(model: nn.Module, inputs: Mapping[str, Any], hidden: str) -> Habits:
    """Call the network in its mode and in eval mode, on copies, and see what it changed.

    Args:
        model: the network.
        inputs: a batch.
        hidden: the modality that is hidden in the call in eval mode.
    """
    with everything_put_back(model):
        _perturb_frozen(model)
        watch = _Watch(model)
        given = copy_containers(inputs, with_tensors=True)
        before = [(leaf, leaf._version) for leaf in tensor_leaves(given)]
        model(copy_containers(given))
        writes = _was_written(before, inputs)
        moves, moves_more = watch.seen(_norm_statistics(model) if model.training else ())
    names = dict.fromkeys([*stateful_names(model), *moves])
    with (
        everything_put_back(model),
        masked_passes(model, NetworkState(model, list(names), everything=True)),
    ):
        _perturb_frozen(model)
        watch = _Watch(model)
        given = copy_containers(
            with_items(inputs, {hidden: mask(model, hidden, inputs[hidden])}), with_tensors=True
        )
        before = [(leaf, leaf._version) for leaf in tensor_leaves(given)]
        model(copy_containers(given))
        writes = writes or any(leaf._version != version for leaf, version in before)
        moves_masked, moves_more_masked = watch.seen()
    return Habits(
        tuple(dict.fromkeys([*moves, *moves_masked])), writes, moves_more or moves_more_masked
    )


class _Watch:
    """What a network changes from now on."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        named = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        self._named = [
            (name, tensor, tensor._version, tensor.detach().clone())
            for name, tensor in named.items()
        ]
        self._all = NetworkState(model, everything=True)
        self._usual = NetworkState(model)

    def seen(self, leave_out: Sequence[str] = ()) -> tuple[tuple[str, ...], bool]:
        """Names of the buffers and parameters that were changed in place, and whether anything else was that is not
        kept in every step."""
        self._usual.put_back()
        moved = tuple(
            name
            for name, tensor, version, was in self._named
            if name not in leave_out and (tensor._version != version or not is_equal(tensor, was))
        )
        named = {id(tensor) for _, tensor, _, _ in self._named}
        others = self._all.moved_copies()
        return moved, self._all.has_changed() or any(id(tensor) not in named for tensor in others)


def _norm_statistics(model: nn.Module) -> list[str]:
    """Names of the running statistics, which masked passes read as the full pass left them."""
    paths = [path for path, module in model.named_modules() if is_batch_norm(module)]
    names = ("running_mean", "running_var", "num_batches_tracked")
    return [f"{path}.{name}".lstrip(".") for path in paths for name in names]


def _was_written(before: Sequence[tuple[Tensor, int]], inputs: Any) -> bool:
    originals = list(tensor_leaves(inputs))
    return any(
        leaf._version != version or (is_plain(leaf) and not is_equal(leaf, original))
        for (leaf, version), original in zip(before, originals, strict=True)
    )


def _perturb_frozen(model: nn.Module) -> None:
    """Move parameters without gradient a little: a momentum tower that still equals its model would not be seen."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.is_floating_point() and is_plain(parameter):
            parameter.data.mul_(1.01).add_(1e-3)


def _lies_elsewhere(tensor: Tensor, memory: Tensor) -> bool:
    own = type(tensor) in (Tensor, nn.Parameter)
    return own and tensor.data_ptr() != memory.data_ptr()


def is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same; NaN is equal to NaN. Those of unusual layouts must be one and the same."""
    if not (is_plain(one) and is_plain(other)):
        return one is other
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
