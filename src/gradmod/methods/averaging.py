"""Over which processes the scores of a step are averaged: those that average the gradients of the model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Groups = tuple["dist.ProcessGroup | None", ...]
"""None is the group of all processes."""

_NEEDED_TO_JOIN = ("_check_global_requires_backward_grad_sync", "_sync_final_model")


class _Remembers(Protocol):
    """A method, as far as is needed here."""

    def memory(self) -> dict[str, Any]: ...
    def set_memory(self, memory: Mapping[str, Any]) -> None: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def get_buffer(self, target: str) -> Tensor: ...


class Averaging:
    """Finds the process groups of a model, and sums over them.

    In DDP these are DDP's own, in a model sharded with `fully_shard` those of its mesh; a model outside both is trained
    by its process alone. Belongs to a process: it is neither saved nor copied to another one.
    """

    def __init__(self) -> None:
        self._groups: Groups = ()
        self._chosen: Groups | None = None
        self._sharded: Groups = ()
        self._ddp: weakref.ref[DistributedDataParallel] | None = None
        self._has_warned = False
        self._summed: list[Tensor] = []  # one like each that was summed in the last step

    def choose(self, group: dist.ProcessGroup | None) -> None:
        """Sum over `group` from now on, whatever the model is wrapped in; None: over nothing but this process."""
        self._chosen = () if group is None else (group,)

    def begin_step(self, model: nn.Module, method: _Remembers) -> None:
        """Find the groups at the beginning of a training forward.

        Args:
            model: the model with the method; DDP is around it.
            method: whose memory and buffers are to be the same on all processes after `DistributedDataParallel.join`.
        """
        self._groups = ()
        if not (dist.is_available() and dist.is_initialized()):
            return
        if torch.compiler.is_compiling():  # what is around the model can't be seen then
            self._groups = _more_than_one((None,) if self._chosen is None else self._chosen)
            return
        self._summed.clear()
        ddp = self._ddp_around(model)
        self._groups = self.groups_of(model, ddp)
        if ddp is not None and self._groups:
            _take_part_in_join(ddp, self, method)

    def groups_of(self, model: nn.Module, ddp: DistributedDataParallel | None) -> Groups:
        """The groups over which a model is trained, the DDP around it being `ddp`; none where a process is alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return ()
        if self._chosen is not None:
            return _more_than_one(self._chosen)
        if ddp is not None:
            return _more_than_one((ddp.process_group,))
        return _more_than_one(self._groups_outside_ddp(model))

    @property
    def is_across_processes(self) -> bool:
        """Whether `sum` is over more than this process, in the step that has begun."""
        return bool(self._groups)

    def sum(self, totals: Tensor) -> Tensor:
        """Sum of `totals` over the processes, in place; all of them must call it."""
        if self._groups and not torch.compiler.is_compiling():
            self._summed.append(torch.zeros_like(totals))
        for group in self._groups:
            dist.all_reduce(totals, group=group)
        return totals

    def go_along(self) -> None:
        """Take part in the sums of a step that the other processes make, with nothing to add."""
        for like in self._summed:
            for group in self._groups:
                dist.all_reduce(torch.zeros_like(like), group=group)

    def _ddp_around(self, model: nn.Module) -> DistributedDataParallel | None:
        """The DDP whose forward this is, if the model is in it."""
        active: DistributedDataParallel | None = getattr(
            DistributedDataParallel, "_active_ddp_module", None
        )
        if active is None or (self._ddp is not None and self._ddp() is active):
            return active
        if not any(module is model for module in active.modules()):
            return None
        self._ddp = weakref.ref(active)
        return active

    def _groups_outside_ddp(self, model: nn.Module) -> Groups:
        if not self._sharded:
            self._sharded = next(_mesh_groups(model), ())
        if self._sharded:
            return self._sharded
        if any(
            getattr(module, "_is_fsdp_managed_module", False)
            for module in (model, *model.children())
        ):
            return (None,)  # FullyShardedDataParallel
        if dist.get_world_size() > 1 and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"a training forward outside DistributedDataParallel, though {dist.get_world_size()} processes are "
                "connected: the scores that the coefficients are made of are those of this process alone. That is "
                "right where it trains alone (model.method.use_process_group(None) says so). Where gradients are "
                "averaged over processes in another way, say over which: model.method.use_process_group(group)",
                stacklevel=2,
            )
        return ()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> Averaging:
        copied = Averaging()
        copied._chosen, copied._has_warned = self._chosen, self._has_warned
        return copied


def _more_than_one(groups: Groups) -> Groups:
    return tuple(group for group in groups if dist.get_world_size(group) > 1)


def _mesh_groups(model: nn.Module) -> Iterator[Groups]:
    """The data-parallel groups of each part of `model` that `fully_shard` was applied to."""
    for module in model.modules():
        get_state = getattr(module, "_get_fsdp_state", None)
        if get_state is None:
            continue
        state = get_state()
        found = getattr(state, "_fsdp_param_groups", None) or [
            getattr(state, "_fsdp_param_group", None)
        ]
        for parameters in found:
            mesh = getattr(parameters, "mesh_info", None)
            groups = [
                getattr(mesh, f"{kind}_process_group", None) for kind in ("shard", "replicate")
            ]
            if any(group is not None for group in groups):
                yield tuple(group for group in groups if group is not None)


class _JoinPart:
    """What lets a process that has run out of batches inside `ddp.join()` go along with the others' sums.

    Inside `join` such a process repeats what DDP communicates in a step; our sums stand between what DDP sends before
    the forward and what it sends in the backward. At the end one process' model goes to all, and what the methods
    remember with it. A process must have made a step before its batches run out.
    """

    def __init__(self, ddp: DistributedDataParallel) -> None:
        self._ddp = weakref.ref(ddp)  # DDP must not be kept alive by a cycle
        self.members: list[tuple[Averaging, _Remembers]] = []

    def check(self, is_joined_rank: bool) -> Any:
        """In place of DDP's `_check_global_requires_backward_grad_sync`, the last it sends before the forward."""
        ddp: Any = self._ddp()
        result = type(ddp)._check_global_requires_backward_grad_sync(ddp, is_joined_rank)
        if is_joined_rank:
            for averaging, _ in self.members:
                averaging.go_along()
        return result

    def sync(self, is_last_joiner: bool) -> None:
        """In place of DDP's `_sync_final_model`."""
        ddp: Any = self._ddp()
        type(ddp)._sync_final_model(ddp, is_last_joiner)
        group = ddp.process_group
        held = [[(method.memory(), _buffers(method)) for _, method in self.members]]
        source = dist.get_global_rank(group, ddp._authoritative_rank)
        dist.broadcast_object_list(held, src=source, group=group, device=ddp.join_device)
        for (_, method), (memory, buffers) in zip(self.members, held[0], strict=True):
            method.set_memory(memory)
            for name, value in buffers.items():
                method.get_buffer(name).copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        return {"_ddp": self._ddp(), "members": self.members}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._ddp, self.members = weakref.ref(state["_ddp"]), state["members"]


def _take_part_in_join(
    ddp: DistributedDataParallel, averaging: Averaging, method: _Remembers
) -> None:
    part: _JoinPart | None = getattr(ddp, "_gradmod_join_part", None)
    if part is None:
        if not all(hasattr(DistributedDataParallel, name) for name in _NEEDED_TO_JOIN):
            if getattr(getattr(ddp, "_join_config", None), "enable", False):
                raise RuntimeError(
                    f"inside DistributedDataParallel.join, which torch {torch.__version__} does in a way that is not "
                    "known here: give every process equally many batches, as DistributedSampler does"
                )
            return
        part = _JoinPart(ddp)
        of_ddp = {
            "_gradmod_join_part": part,
            _NEEDED_TO_JOIN[0]: part.check,
            _NEEDED_TO_JOIN[1]: part.sync,
        }
        for name, value in of_ddp.items():
            setattr(ddp, name, value)
    if not any(one is averaging for one, _ in part.members):
        part.members.append((averaging, method))


def _buffers(method: _Remembers) -> dict[str, Tensor]:
    return {name: buffer.detach().cpu() for name, buffer in method.named_buffers()}
