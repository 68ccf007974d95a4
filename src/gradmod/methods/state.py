"""What a method keeps: names, statistics in 64 bits, tensors of free shapes, plain values; saved, loaded and moved."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.methods.surroundings import NO_FLOAT64

_STORE = "store."
"""Before the names of `store` in a state dict."""


class MethodState(nn.Module):
    """The state of a method.

    Statistics are float64 buffers, which stay float64 when the module is cast; on a device without float64 (Apple's
    MPS) they stay on the CPU. The names of the modalities are saved in the state dict and checked on load.

    Args:
        modalities: names of the inputs, in the order in which the method reports them.

    Attributes:
        store: tensors of any shapes, by name, beside the buffers (prototypes, first weights): saved with the state,
            loaded whatever their shapes, moved with the module.
        epoch: the epoch that is being trained, counted from 1; None: it was not told.

    Raises:
        ValueError: no modality, or one named twice.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        if isinstance(modalities, str) or not modalities or len(set(modalities)) < len(modalities):
            raise ValueError(
                f"modalities is {modalities!r}; expected a sequence of different names, e.g. ('audio', 'visual')"
            )
        self.modalities = tuple(modalities)
        self.store: dict[str, Tensor] = {}
        self.epoch: int | None = None
        # In a dict, so that the network's modules do not become the method's own.
        self._modules_of: dict[str, tuple[nn.Module, ...]] = {}

    def memory(self) -> dict[str, Any]:
        """What the method remembers beside its buffers, as plain values; part of the state dict."""
        return {}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """Take back what `memory` gave."""

    def get_extra_state(self) -> Tensor:
        """Modalities and memory, as the bytes of JSON in a uint8 tensor, which any tensor format can hold."""
        state = {"modalities": self.modalities, "epoch": self.epoch, "memory": self.memory()}
        return torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back the memory; check that the state dict was saved for the same modalities.

        Raises:
            ValueError: it was not.
        """
        content = json.loads(bytes(state.tolist()))
        saved = tuple(content["modalities"])
        if saved != self.modalities:
            raise ValueError(
                f"the state was saved for the modalities {list(saved)}, in this order; this method has "
                f"{list(self.modalities)}. Make it with the same names in the same order"
            )
        self.epoch = content["epoch"]
        self.set_memory(content["memory"])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.store.items():
            destination[f"{prefix}{_STORE}{name}"] = tensor if keep_vars else tensor.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        own = f"{prefix}{_STORE}"
        saved = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(own)}
        device = self._home()
        self.store = {
            key[len(own) :]: tensor.detach().to(device, copy=True) for key, tensor in saved.items()
        }
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _home(self) -> torch.device | None:
        """Where the method's tensors are; None: it has none, or its modules are nowhere yet."""
        tensors = itertools.chain(
            self.store.values(),
            self.buffers(),
            (p for modules in self._modules_of.values() for m in modules for p in m.parameters()),
        )
        return next((tensor.device for tensor in tensors if not tensor.is_meta), None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MethodState:
        """Move with the model, but keep float64 statistics float64: `model.half()` must not round them."""
        kept = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.dtype == torch.float64
        ]
        for module, name, _ in kept:
            module._buffers[name] = None
        moved = [buffer for _, _, buffer in kept]
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            moved = [_moved_like(fn(buffer.float()), buffer) for buffer in moved]
            self.store = {
                name: _moved_like(fn(tensor.float()), tensor)
                if tensor.dtype == torch.float64
                else fn(tensor)
                for name, tensor in self.store.items()
            }
        finally:
            for (module, name, _), buffer in zip(kept, moved, strict=True):
                module._buffers[name] = buffer
        return self


def _moved_like(moved: Tensor, statistic: Tensor) -> Tensor:
    """A statistic where `moved`, its copy in float32, was moved to."""
    device = torch.device("cpu") if moved.device.type in NO_FLOAT64 else moved.device
    if statistic.is_meta and device.type != "meta":
        # Nothing is known of it there; statistics begin at 0.
        return torch.zeros_like(statistic, device=device)
    if device.type == "cpu" and moved.is_shared():  # type: ignore[no-untyped-call]
        statistic.share_memory_()  # type: ignore[no-untyped-call]
    return statistic.to(device)
