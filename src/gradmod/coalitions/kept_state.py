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
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.snapshots import GeneratorSnapshot, Snapshot, snapshots_of

_DEPTH = 5
"""How deep containers within containers are looked at."""
_LARGE = 1000
"""Containers with more than this, say vocabularies, are kept as a whole; what is in them is not looked at."""
_MOST = 20_000
"""Items of containers that are looked at in all; and where everything is, a hundred times as many."""
_LARGEST_TENSOR = 1 << 28
"""Numbers in a tensor, that is no buffer, of which a copy is kept."""
_INTERNAL = frozenset(nn.Module().__dict__)
"""Attributes of every module's own: parameters, hooks, mode. Buffers are looked at apart."""
_PLAIN = frozenset(
    (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, nn.Parameter)
)
_NOT_LOOKED_INTO = frozenset(
    (
        *(
            "torch",
            "numpy",
            "random",
            "array",
            "logging",
            "threading",
            "queue",
            "multiprocessing",
            "concurrent",
        ),
        *(
            "asyncio",
            "tensorboard",
            "wandb",
            "mlflow",
            "lightning",
            "pytorch_lightning",
            "lightning_fabric",
        ),
        *("accelerate", "deepspeed"),
    )
)
_KEEPS_BOOKS: dict[type, bool] = {}
"""By type, whether a module keeps books of its own: sharded and distributed wrappers, and scripts."""
_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


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
    now = NetworkState(model, everything=before.everything)
    versions = [(tensor, tensor._version) for tensor in now.tensors if not tensor.is_inference()]
    before.put_back()
    replaced = before.give_copies(model)
    try:
        yield
    finally:
        for holder, key, value in replaced:
            holder[key] = value
        now.put_back()
    changed = (
        [tensor for tensor, version in versions if tensor._version != version] if strict else []
    )
    if changed:
        raise RuntimeError(
            f"a masked pass changed {name_of(model, changed[0])} in place, and what it was before is lost. Let the "
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


def _tensor_at(model: nn.Module, path: str) -> Tensor | None:
    try:
        owner, name = _owner_of(model, path)
    except AttributeError:
        return None
    tensor = getattr(owner, name, None)
    return tensor if isinstance(tensor, Tensor) else None


def name_of(model: nn.Module, tensor: Tensor) -> str:
    """What a tensor is called in `model`, in quotes; a description of one that is deeper in what it keeps."""
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
    """What a network has on its modules at one moment, and what its hooks can write into.

    Attributes, containers, objects with attributes or slots, small arrays, generators of random numbers. Tensors are
    not copied, but for those in `moves`.

    Args:
        model: the network.
        moves: names of buffers and parameters which a pass changes in place.
        everything: look into large containers too, and copy large arrays and the tensors that are no buffers.
    """

    def __init__(
        self, model: nn.Module, moves: Sequence[str] = (), *, everything: bool = False
    ) -> None:
        self.everything = everything
        self.tensors: list[Tensor] = []
        """Tensors which a pass must leave as they are."""
        self.norm_tensors: list[Tensor] = []
        """Statistics of batch norms, which a training pass moves."""
        self._attributes: list[tuple[dict[str, Any], int, dict[str, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        self._others: list[Snapshot] = []
        self._seen: set[int] = set()
        self._large, self._left = (_MOST * 100, _MOST * 100) if everything else (_LARGE, _MOST)
        self._outside: list[nn.Module] = []
        self._statistics: list[tuple[dict[str, Any], dict[str, Any]]] | None = None
        for module in model.modules():
            self._add_module(module)
        if self._outside:
            self._add_outside(model)
        # The modules may have changed since.
        named = {name: _tensor_at(model, name) for name in moves}
        found = {id(tensor): tensor for tensor in named.values() if tensor is not None}
        if everything:
            found |= {id(tensor): tensor for tensor in self.tensors if _is_kept_apart(tensor)}
        self._copies = {key: (tensor, tensor.detach().clone()) for key, tensor in found.items()}
        self._versions = [
            (tensor, tensor._version) for tensor in self.tensors if not tensor.is_inference()
        ]

    def give_copies(self, model: nn.Module) -> list[tuple[Any, Any, Any]]:
        """Put copies in the place of what moves; return which container held what under which key."""
        if not self._copies:
            return []
        given = {key: _substitute(tensor, kept) for key, (tensor, kept) in self._copies.items()}
        modules = [*model.modules(), *self._outside]
        holders: list[Any] = [own for own, _, _ in self._attributes]
        holders += [
            container
            for container, _ in self._contents
            if isinstance(container, (dict, list, deque))
        ]
        replaced: list[tuple[Any, Any, Any]] = []
        for holder in (*(module._parameters for module in modules), *holders):
            items = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
            for key, value in items:
                if id(value) in given:
                    replaced.append((holder, key, value))
                    holder[key] = given[id(value)]
        return replaced

    def moved(self) -> list[Tensor]:
        """Tensors that were changed in place since, of which there is no copy; running statistics do not count."""
        return [
            tensor
            for tensor, was in self._versions
            if tensor._version != was and id(tensor) not in self._copies
        ]

    def has_drawn(self) -> bool:
        """Whether a generator of random numbers that the network keeps was drawn from since."""
        return any(
            isinstance(snapshot, GeneratorSnapshot) and snapshot.has_changed()
            for snapshot in self._others
        )

    def moved_copies(self) -> list[Tensor]:
        """Tensors of which there is a copy that is otherwise now."""
        return [
            tensor
            for tensor, kept in self._copies.values()
            if not torch.equal(tensor.detach(), kept)
        ]

    def has_changed(self) -> bool:
        """Whether anything but buffers and parameters is otherwise than it was."""
        return (
            any(
                own.get(name, own) is not value
                for own, _, attributes in self._attributes
                for name, value in attributes.items()
            )
            or any(not _is_same(container, contents) for container, contents in self._contents)
            or any(snapshot.has_changed() for snapshot in self._others)
        )

    def statistics_of(
        self, norms: Sequence[nn.Module]
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """For each of these batch norms its buffers, and copies of its running statistics; the same at each call."""
        if self._statistics is None:
            self._statistics = [
                (
                    norm._buffers,
                    {
                        name: tensor.clone()
                        for name in ("running_mean", "running_var")
                        if (tensor := norm._buffers.get(name)) is not None
                    },
                )
                for norm in norms
            ]
        return self._statistics

    def _add_outside(self, model: nn.Module) -> None:
        """Modules that are kept in a list, say, and are not registered."""
        known, outside = set(map(id, model.modules())), []
        for holder in self._outside:  # which grows meanwhile
            for module in holder.modules():
                if id(module) not in known:
                    known.add(id(module))
                    outside.append(module)
                    self._add_module(module)
        self._outside = outside

    def _add_module(self, module: nn.Module) -> None:
        """Keep a module's attributes, and what its hooks can write into."""
        kind = type(module)
        if kind not in _KEEPS_BOOKS:
            is_sharded = kind.__module__.startswith("torch.distributed")
            _KEEPS_BOOKS[kind] = is_sharded or isinstance(module, torch.jit.ScriptModule)
        if _KEEPS_BOOKS[kind]:
            return
        own = module.__dict__
        attributes = {name: value for name, value in own.items() if name not in _INTERNAL}
        self._attributes.append((own, len(own), attributes))
        for value in attributes.values():
            if type(value) not in _PLAIN:
                self._add(value, _DEPTH)
        if module._buffers:
            self._contents.append((module._buffers, module._buffers.copy()))
            tensors = self.norm_tensors if isinstance(module, _BATCH_NORMS) else self.tensors
            tensors += [buffer for buffer in module._buffers.values() if buffer is not None]
        if module._parameters:
            self.tensors += [
                p for p in module._parameters.values() if p is not None and not p.requires_grad
            ]
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for hook in hooks.values() if hooks else ():
                for reached in _reached_by(hook):
                    self._add(reached, _DEPTH)

    def put_back(self) -> None:
        """Let attributes and containers hold what they did."""
        for own, count, attributes in self._attributes:
            for name, value in attributes.items():
                if own.get(name, own) is not value:
                    own[name] = value
            if len(own) != count:
                for name in [
                    name for name in own if name not in _INTERNAL and name not in attributes
                ]:
                    del own[name]
        for container, contents in self._contents:
            if not _is_same(container, contents):
                _fill(container, contents)
        for snapshot in self._others:
            snapshot.put_back()

    def _add(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter):
                self.tensors.append(value)
            return
        if isinstance(value, tuple) and depth and len(value) <= self._large:
            self._add_items(value, depth)
            return
        if (
            depth == 0
            or id(value) in self._seen
            or isinstance(value, (type, ModuleType))
            or inspect.isroutine(value)
        ):
            return
        if isinstance(value, nn.Module):
            self._outside.append(value)
            return
        if not isinstance(value, (dict, list, set, deque)):
            self._seen.add(id(value))
            for snapshot in snapshots_of(value, self.everything):
                self._others.append(snapshot)
                self._add_items(getattr(snapshot, "contents", {}).values(), depth)
        container = _container(value)
        if container is None or id(container) in self._seen:
            return
        self._seen.add(id(container))
        self._contents.append((container, container.copy()))
        if len(container) <= self._large and not isinstance(container, set):
            self._add_items(container.values() if isinstance(container, dict) else container, depth)

    def _add_items(self, items: Any, depth: int) -> None:
        self._left -= len(items)
        if self._left < 0:
            return
        for item in items:
            if type(item) not in _PLAIN:
                self._add(item, depth - 1)


def _container(value: Any) -> Any:
    """The dict, list, set or deque behind a value that can be written into; None where there is none to keep."""
    if isinstance(value, (dict, list, set, deque)):
        return value
    is_of_a_library = type(value).__module__.partition(".")[0] in _NOT_LOOKED_INTO
    return None if is_of_a_library else getattr(value, "__dict__", None)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has values that can be copied and compared like any other's."""
    return not tensor.is_nested and tensor.layout == torch.strided and not tensor.is_meta


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers with running statistics."""
    return isinstance(module, _BATCH_NORMS)


def _is_kept_apart(tensor: Tensor) -> bool:
    return is_plain(tensor) and not tensor.requires_grad and tensor.numel() <= _LARGEST_TENSOR


class _Carried(torch.autograd.Function):
    """Another value for a parameter, through which gradients reach it."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _substitute(tensor: Tensor, kept: Tensor) -> Tensor:
    if tensor.requires_grad and tensor.is_leaf:
        carried: Tensor = _Carried.apply(tensor, kept)  # type: ignore[no-untyped-call]
        return carried
    return nn.Parameter(kept.clone(), False) if isinstance(tensor, nn.Parameter) else kept.clone()


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
    yield from (getattr(plain, "__kwdefaults__", None) or {}).values()
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
