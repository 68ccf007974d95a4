"""One training step of any method: forwards, backward passes, gradients of single losses, and the optimizer's step."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradmod.methods.view import Batch
from gradmod.protocols import Output

if TYPE_CHECKING:
    from gradmod.wrapper import ModulatedModel

Clip = Callable[[list[nn.Parameter]], Tensor]
"""Called with the parameters that step, their gradients ready; returns their norm."""


class Engine:
    """How a training loop calls the model and steps its optimizer: here with PyTorch alone.

    Args:
        call: what is called for a training forward: the `ModulatedModel`, or DDP around it.
        optimizer: of the parameters.
        scaler: of the loss, for training in float16.
    """

    def __init__(
        self,
        call: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.call = call
        self.optimizer = optimizer
        self.scaler = scaler if scaler is not None and scaler.is_enabled() else None

    @property
    def ddp(self) -> DistributedDataParallel | None:
        """The DDP that averages the gradients; None: there is none."""
        return self.call if isinstance(self.call, DistributedDataParallel) else None

    def without_averaging(self) -> AbstractContextManager[Any]:
        """While entered, a forward and its backward average no gradients over processes."""
        return nullcontext() if self.ddp is None else self.ddp.no_sync()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, multiplied by the scaler's scale."""
        self._scaled(loss).backward()  # type: ignore[no-untyped-call]

    def gradients(
        self, loss: Tensor, parameters: Sequence[Tensor], keep_graph: bool
    ) -> tuple[Tensor | None, ...]:
        """Gradients of a loss, multiplied by the scaler's scale, of this process; nothing is added to `.grad`."""
        return torch.autograd.grad(
            self._scaled(loss), parameters, retain_graph=keep_graph, allow_unused=True
        )

    def unscale(self) -> None:
        """Divide the gradients by the scaler's scale."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)

    def step(self) -> None:
        """Step the optimizer, unless the scaler found gradients that are not finite."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    @property
    def scale(self) -> float:
        """What the scaler multiplies losses by."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)


class Step:
    """One batch, for a method's `update`; made by `ModulatedModel.training_step` and by the trainer alike.

    Args:
        engine: how the loop calls and steps.
        model: the modulated model itself.
        batch: the batch, as it was given.
        present: by modality, where samples lack some.
        weight: what every loss is multiplied by: the share of this process, one part of several that add up.
        is_last: whether the optimizer steps after it; False: gradients are gathered.
        clip: see `Clip`; None: gradients as they are.

    Attributes:
        loss: the batch's loss, detached, `weight` not in it; None before the first backward.
        norm: norm of the gradients before clipping; None: nothing was clipped.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModulatedModel,
        batch: Batch,
        present: Any = None,
        *,
        weight: float = 1.0,
        is_last: bool = True,
        clip: Clip | None = None,
    ) -> None:
        self.engine = engine
        self.model = model
        self.batch = batch
        self.weight = weight
        self.is_last = is_last
        self.loss: Tensor | None = None
        self.norm: Tensor | None = None
        self._present = present
        self._clip = clip

    def run(self) -> Tensor:
        """Forward, and the method's `update`; returns the loss, detached.

        Raises:
            RuntimeError: the method made no backward pass.
        """
        self.model.method.update(self, self.forward())
        if self.loss is None:
            raise RuntimeError(
                f"{type(self.model.method).__name__}.update made no backward pass of the step's losses"
            )
        return self.loss

    def forward(self) -> Output:
        """A training forward of the batch: the logits, and the losses of the network and of the method by name."""
        engine = self.engine
        own_sums = self.model.method.takes_gradients or not self.is_last
        with (
            engine.without_averaging() if own_sums else nullcontext(),
            self.model.in_training_step(),
        ):
            more = () if self._present is None else (self._present,)
            return self.model.read_output(engine.call(self.batch.inputs, self.batch.target, *more))

    def losses(self, output: Output) -> dict[str, Tensor]:
        """The task's loss of the logits, as `task`, and the others by their names; all scalars.

        A method that says `replaces_task_loss` has the others alone.

        Raises:
            ValueError: the logits and the target do not go together.
        """
        task = self.model.task
        task.check(output.logits, self.batch.target)
        named = dict(output.losses)
        if not self.model.method.replaces_task_loss:
            named["task"] = task.loss(output.logits, self.batch.target)
        self.count(named.values())
        return named

    def count(self, losses: Iterable[Tensor]) -> Tensor:
        """The sum of scalar losses, which counts as part of the batch's loss."""
        added = total(losses)
        self.loss = added.detach() if self.loss is None else self.loss + added.detach()
        return added

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer trains."""
        groups = self.engine.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss: averaged over processes by DDP, scaled by the scaler."""
        self.engine.backward(self._weighted(loss))

    def gradients(
        self, losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]
    ) -> list[list[Tensor]]:
        """The gradient of each loss by parameter: averaged over processes, the scaler's scale taken out.

        Nothing is added to `.grad`. The method says `takes_gradients = True`.

        Args:
            losses: scalars of one forward.
            parameters: of which; one that a loss does not depend on has gradient 0 there.

        Returns:
            For each loss a tensor for each parameter, of its shape, in float32 or wider. Two of them may be one and the
            same tensor: do not write into them.

        Raises:
            RuntimeError: the parameters are sharded over processes; the method does not say that it takes gradients.
        """
        name = type(self.model.method).__name__
        if not self.model.method.takes_gradients:
            raise RuntimeError(
                f"{name} asks for gradients of single losses; expected takes_gradients = True in it"
            )
        if any(hasattr(parameter, "device_mesh") for parameter in parameters):
            raise RuntimeError(
                f"{name} compares whole gradients, but the parameters are sharded over processes (fully_shard): train "
                "it under DistributedDataParallel, or on one device"
            )
        found = []
        for number, loss in enumerate(losses, 1):
            single = self.engine.gradients(
                self._weighted(loss), parameters, keep_graph=number < len(losses)
            )
            found.append([_entire(g, p) for g, p in zip(single, parameters, strict=True)])
        if self.engine.ddp is not None:
            found = _averaged(found, self.engine.ddp.process_group)
        scale = self.engine.scale
        return found if scale == 1 else [[g / scale for g in single] for single in found]

    def add_gradients(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]
    ) -> None:
        """Add to each parameter's gradient one of those that `gradients` gives for a loss."""
        scale = self.engine.scale
        for parameter, gradient in zip(parameters, gradients, strict=True):
            own = (gradient if scale == 1 else gradient * scale).to(parameter.dtype)
            parameter.grad = own.clone() if parameter.grad is None else parameter.grad + own

    def apply(self, only: Iterable[nn.Parameter] | None = None) -> None:
        """Let the method change the gradients, clip them, step the optimizer and take the gradients away.

        Args:
            only: parameters that step; the others, their momentum included, stay as they are. None: all.
        """
        if not self.is_last:
            return
        self.engine.unscale()
        self.model.method.after_backward()
        with _only(self.engine.optimizer, only) as stepping:
            if self._clip is not None:
                self.norm = self._clip(stepping)
            self.engine.step()
        self.engine.optimizer.zero_grad(set_to_none=True)

    def _weighted(self, loss: Tensor) -> Tensor:
        return loss if self.weight == 1 else loss * self.weight


def total(losses: Iterable[Tensor]) -> Tensor:
    """The sum of scalar losses, a scalar of the widest of their types."""
    return functools.reduce(operator.add, (loss.reshape(()) for loss in losses))


def _entire(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=dtype) if gradient is None else gradient.to(dtype)


def _averaged(
    gradients: Sequence[Sequence[Tensor]], group: dist.ProcessGroup | None
) -> list[list[Tensor]]:
    """The mean over processes, of all gradients in one go."""
    every = [gradient for single in gradients for gradient in single]
    flat = torch.cat([gradient.flatten() for gradient in every])
    dist.all_reduce(flat, group=group)
    flat /= dist.get_world_size(group)
    pieces = torch.split(flat, [gradient.numel() for gradient in every])
    shaped = iter([piece.view(g.shape) for piece, g in zip(pieces, every, strict=True)])
    return [[next(shaped) for _ in single] for single in gradients]


@contextmanager
def _only(
    optimizer: torch.optim.Optimizer, only: Iterable[nn.Parameter] | None
) -> Iterator[list[nn.Parameter]]:
    """While entered, the optimizer's other parameters have no gradient, so that an optimizer leaves them alone."""
    every: list[nn.Parameter] = [
        parameter for group in optimizer.param_groups for parameter in group["params"]
    ]
    if only is None:
        yield every
        return
    stepping = {id(parameter) for parameter in only}
    kept = [(parameter, parameter.grad) for parameter in every if id(parameter) not in stepping]
    for parameter, _ in kept:
        parameter.grad = None
    try:
        yield [parameter for parameter in every if id(parameter) in stepping]
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
