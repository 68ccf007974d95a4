"""What the full pass left on a network's modules, kept through the masked passes.

Networks keep things on themselves: features that the loop's loss reads, what hooks captured, counters, queues, momentum
towers. Everybody else calls such a network once a step; the masked passes must not be seen.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_DEPTH = 4
"""How deep containers within containers are looked at."""
_LARGE = 1000
"""Containers with more than this, say vocabularies, are kept as a whole; what is in them is not looked at."""
_INTERNAL = frozenset(nn.Module().__dict__)
"""Attributes of every module's own: parameters, hooks, mode. Buffers are looked at apart."""
_PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, nn.Parameter))
_NOT_LOOKED_INTO = ("torch", "numpy", "transformers", "logging", "threading")


@contextmanager
def kept_state(model: nn.Module, before: NetworkState, *, strict: bool = True) -> Iterator[None]:
    """Let `model` have the state of `before` for a while; on leaving, put back what it has now.

    A pass that is to be compared with an earlier one must begin where that began: a recurrent state that has seen the
    batch already would show what is hidden.

    Args:
        model: the network.
        before: its state at some moment.
        strict: raise where a buffer, parameter without gradient or kept tensor was changed in place, of which `before`
            has no copy.

    Raises:
        RuntimeError: on leaving: see `strict`.
    """
    now = NetworkState(model)
    versions = [(tensor, tensor._version) for tensor in now.tensors if not tensor.is_inference()]
    before.put_back()
    parameters = before.give_copies(model)
    try:
        yield
    finally:
        for owner, name, parameter in parameters:
            owner._parameters[name] = parameter
        now.put_back()
    changed = [tensor for tensor, version in versions if tensor._version != version] if strict else []
    if changed:
        raise RuntimeError(
            f"a masked pass changed {_name_of(model, changed[0])} in place, and what it was before is lost. Let the "
            "network do that in training passes alone (`if self.training:`), or let ModulatedModel(..., check=True) "
            "find it in the first step"
        )


def stateful_names(model: nn.Module) -> list[str]:
    """Names of all buffers and of all parameters without gradient: what a forward may move."""
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return [*(name for name, _ in model.named_buffers()), *frozen]


def _owner_of(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    prefix, _, name = path.rpartition(".")
    return model.get_submodule(prefix), name


def _tensor_at(model: nn.Module, path: str) -> Tensor:
    owner, name = _owner_of(model, path)
    tensor: Tensor = getattr(owner, name)
    return tensor


def _name_of(model: nn.Module, tensor: Tensor) -> str:
    named = (*model.named_buffers(), *model.named_parameters())
    names = [name for name, other in named if other is tensor]
    if names:
        return repr(names[0])
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if value is tensor:
                return repr(f"{path}.{name}".lstrip("."))
    return f"a tensor of shape {list(tensor.shape)} that the network keeps"


class NetworkState:
    """What a network has on its modules at one moment: attributes, containers in them, what its hooks captured.

    Tensors are not copied, but for those in `moves`.

    Args:
        model: the network.
        moves: names of buffers and parameters which a pass changes in place.
    """

    def __init__(self, model: nn.Module, moves: Sequence[str] = ()) -> None:
        self.tensors: list[Tensor] = []
        """Tensors which a pass must leave as they are."""
        self._attributes: list[tuple[dict[str, Any], int, dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        self._copies = {name: _tensor_at(model, name).detach().clone() for name in moves}
        for module in model.modules():
            self._add_module(module)

    def give_copies(self, model: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
        """Put copies in the place of what moves; return the parameters to be put back (buffers are put back with all
        else)."""
        parameters = []
        for path, kept in self._copies.items():
            owner, name = _owner_of(model, path)
            parameter = owner._parameters.get(name)
            if parameter is not None:
                parameters.append((owner, name, parameter))
                owner._parameters[name] = nn.Parameter(kept.clone(), parameter.requires_grad)
            else:
                owner._buffers[name] = kept.clone()
        return parameters

    def _add_module(self, module: nn.Module) -> None:
        """Keep a module's attributes, and what its hooks can write into."""
        if type(module).__module__.startswith("torch.distributed"):
            return  # sharded and distributed wrappers keep books of their own
        own = module.__dict__
        attributes = {name: value for name, value in own.items() if name not in _INTERNAL}
        self._attributes.append((own, len(own), attributes))
        for value in attributes.values():
            if type(value) not in _PLAIN:
                self._add(value, _DEPTH)
        if module._buffers:
            self._contents.append((module._buffers, module._buffers.copy()))
            self.tensors += [buffer for buffer in module._buffers.values() if buffer is not None]
        self.tensors += [p for p in module._parameters.values() if p is not None and not p.requires_grad]
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for hook in hooks.values():
                for reached in _reached_by(hook):
                    self._add(reached, _DEPTH)

    def put_back(self) -> None:
        """Let attributes and containers hold what they did."""
        for own, count, attributes in self._attributes:
            for name, value in attributes.items():
                if own.get(name, own) is not value:
                    own[name] = value
            if len(own) != count:
                for name in [name for name in own if name not in _INTERNAL and name not in attributes]:
                    del own[name]
        for container, contents in self._contents:
            if not _is_same(container, contents):
                _fill(container, contents)

    def _add(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter):
                self.tensors.append(value)
            return
        container = _container(value)
        if container is None or depth == 0 or id(container) in self._seen:
            return
        self._seen.add(id(container))
        self._contents.append((container, container.copy()))
        if len(container) <= _LARGE and not isinstance(container, set):
            for item in container.values() if isinstance(container, dict) else container:
                if type(item) not in _PLAIN:
                    self._add(item, depth - 1)


def _container(value: Any) -> Any:
    """The dict, list, set or deque behind a value that can be written into; None where there is none to keep."""
    if isinstance(value, (dict, list, set, deque)):
        return value
    if isinstance(value, (type, nn.Module)) or callable(value):
        return None
    is_of_a_library = type(value).__module__.partition(".")[0] in _NOT_LOOKED_INTO
    return None if is_of_a_library else getattr(value, "__dict__", None)


def _is_same(container: Any, contents: Any) -> bool:
    if len(container) != len(contents):
        return False
    if len(contents) > _LARGE:
        try:
            return bool(container == contents)  # looks at identity first, and is fast
        except (RuntimeError, ValueError):  # tensors and arrays do not compare
            return False
    if isinstance(container, dict):
        return all(key in container and container[key] is value for key, value in contents.items())
    if isinstance(container, set):
        return bool(container == contents)
    return all(one is other for one, other in zip(container, contents, strict=True))


def _fill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(contents)
    else:
        container.update(contents)


def _reached_by(function: Callable[..., Any], depth: int = 2) -> Iterator[Any]:
    """What a function can write into: its closure, its object, its arguments, the globals that it names."""
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, nn.Module):
        yield owner
        yield getattr(owner, "__dict__", None)
    plain = inspect.unwrap(getattr(function, "__func__", function))
    code = getattr(plain, "__code__", None)
    if code is None:
        yield getattr(plain, "__dict__", None)
        return
    yield from getattr(plain, "__defaults__", None) or ()
    values = [cell.cell_contents for cell in plain.__closure__ or () if not _is_empty(cell)]
    values += [plain.__globals__[name] for name in code.co_names if name in plain.__globals__]
    for value in values:
        if isinstance(value, (dict, list, set, deque)):
            yield value
        elif not isinstance(value, (nn.Module, type)) and hasattr(value, "__dict__"):
            if inspect.isfunction(value):
                if depth:
                    yield from _reached_by(value, depth - 1)
            elif not inspect.ismodule(value):
                yield value.__dict__


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def is_uninitialized(model: nn.Module) -> bool:
    """Whether a lazy module has yet to see its first input."""
    tensors = (*model.parameters(), *model.buffers())
    return any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors)
