"""How the trainer calls the model and steps the optimizer: through Fabric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradmod.methods.step import Engine

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class FabricEngine(Engine):
    """Precision, several processes and the scaler of the loss are Fabric's.

    Args:
        fabric: launched.
        call: the model as `fabric.setup` made it.
        optimizer: as `fabric.setup` made it.
    """

    def __init__(self, fabric: Fabric, call: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._fabric = fabric
        self._precision = fabric.strategy.precision
        super().__init__(call, optimizer, getattr(self._precision, "scaler", None))

    @property
    def ddp(self) -> DistributedDataParallel | None:
        """See `Engine.ddp`."""
        inner = getattr(self.call, "_forward_module", None)
        return inner if isinstance(inner, DistributedDataParallel) else None

    def without_averaging(self) -> AbstractContextManager[Any]:
        """See `Engine.without_averaging`."""
        call: Any = self.call
        return self._fabric.no_backward_sync(call, enabled=self.ddp is not None)

    def backward(self, loss: Tensor) -> None:
        """See `Engine.backward`."""
        self._fabric.backward(loss)

    def gradients(
        self, loss: Tensor, parameters: Sequence[Tensor], keep_graph: bool
    ) -> tuple[Tensor | None, ...]:
        """See `Engine.gradients`."""
        with _as_fabrics_own_backward():
            return super().gradients(loss, parameters, keep_graph)

    def unscale(self) -> None:
        """See `Engine.unscale`."""
        self._precision.unscale_gradients(getattr(self.optimizer, "optimizer", self.optimizer))

    def step(self) -> None:
        """See `Engine.step`."""
        self.optimizer.step()  # with the scaler, where there is one


@contextmanager
def _as_fabrics_own_backward() -> Iterator[None]:
    """Fabric refuses backward passes that are not its own, since it would not have scaled the loss; here it was."""
    from lightning_fabric import wrappers

    before = getattr(wrappers, "_in_fabric_backward", None)
    if before is not None:
        wrappers._in_fabric_backward = True
    try:
        yield
    finally:
        if before is not None:
            wrappers._in_fabric_backward = before
