"""Training on trial: the model trains for a while, what came of it is measured, and all is put back as it was."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmod.coalitions.features import uni_modal_pass
from gradmod.coalitions.presence import hide_absent, presence_table, without_missing
from gradmod.coalitions.undisturbed import same_random_numbers, undisturbed
from gradmod.methods.draws import process_number, seed_generators
from gradmod.methods.epoch import moved_batches
from gradmod.methods.head_losses import uni_modal_losses
from gradmod.methods.step import Clip, Engine, Step
from gradmod.methods.view import Batch
from gradmod.protocols import logits_of
from gradmod.tasks import Task

if TYPE_CHECKING:
    from gradmod.wrapper import ModulatedModel

JOINT = "joint"
"""The name of the loss of the network's logits, beside those of the modalities."""
PARTS = ("train", "held_out")
"""What a loss can be measured on: the samples that trials train on, and those that they never see."""


class Trials(ABC):
    """Trains the model on trial; how is up to the training loop.

    The model itself is trained, not a copy: a copy shares the functions that a network keeps, and through them the
    parameters of the original; and DDP, sharding and compiled code stay what they are.

    Args:
        engine: how the loop calls the model and steps its optimizer.
        model: the modulated model itself.
    """

    def __init__(self, engine: Engine, model: ModulatedModel) -> None:
        self.engine = engine
        self.model = model
        self.key: tuple[int, ...] = ()

    @abstractmethod
    def train(self, epochs: int) -> None:
        """Train for so many epochs without the held-out part, as the loop trains, at the learning rate of now."""

    @abstractmethod
    def losses(self, part: str) -> dict[str, float]:
        """The task's loss of the network, `joint`, and of each modality's head, a mean over the samples, in eval mode.

        Args:
            part: one of `PARTS`.
        """

    @contextmanager
    def begin(self, key: tuple[int, ...]) -> Iterator[Trials]:
        """A trial; on leaving, also by an exception, everything is as it was.

        Args:
            key: whole numbers >= 0 that its random numbers are seeded by.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        was_training = self.model.training
        with ExitStack() as kept:
            kept.enter_context(undisturbed(self.model))
            kept.enter_context(_kept_optimizer(self.engine.optimizer))
            kept.enter_context(_kept_gradients(self.model))
            if self.engine.scaler is not None:
                kept.enter_context(_kept_scaler(self.engine.scaler))
            kept.enter_context(self._kept_draws())
            if was_training:  # with the layers that the user keeps in eval mode
                for module, training in modes:
                    module.training = training
            else:
                self.model.train()
            self.key = key
            seed_generators(np.random.SeedSequence((*key, process_number())))
            yield self

    def seed(self) -> int:
        """A seed for whatever the trial draws; that of every trial with the same key."""
        return int(np.random.SeedSequence(self.key).generate_state(1)[0])

    @contextmanager
    def _kept_draws(self) -> Iterator[None]:
        """Keep what the loop draws its batches from, beside the random numbers that everybody shares."""
        yield


class LoaderTrials(Trials):
    """Trials of a training loop of the user's own, from what `ModulatedModel.before_epoch` is given.

    Args:
        engine: with the optimizer and the scaler.
        model: the modulated model itself.
        loaders: by part (see `PARTS`), what gives its batches.
        clip: as in `Step`.
        accumulate: how many batches make one optimizer step.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModulatedModel,
        loaders: Mapping[str, Iterable[Sequence[Any]]],
        clip: Clip | None = None,
        accumulate: int = 1,
    ) -> None:
        super().__init__(engine, model)
        self.loaders, self.clip, self.accumulate = loaders, clip, accumulate

    @contextmanager
    def begin(self, key: tuple[int, ...]) -> Iterator[Trials]:
        """See `Trials.begin`; heads of the method's get their sizes before, which they keep."""
        if not self.model.has_sizes:
            with same_random_numbers(), self._kept_draws():
                first = next(moved_batches(self.model, self.loaders["train"]), None)
            if first is None:
                raise ValueError(_no_batch("train"))
            self.model.give_heads_their_sizes(first[0])
        with super().begin(key) as trial:
            yield trial

    def train(self, epochs: int) -> None:
        """See `Trials.train`; every epoch goes through the loader once."""
        for _ in range(epochs):
            batches = 0
            for inputs, target, present in moved_batches(self.model, self.loaders["train"]):
                batches += 1
                Step(
                    self.engine,
                    self.model,
                    Batch(inputs, target),
                    present,
                    weight=1 / self.accumulate,
                    is_last=batches % self.accumulate == 0,
                    clip=self.clip,
                ).run()
            if not batches:
                raise ValueError(_no_batch("train"))

    def losses(self, part: str) -> dict[str, float]:
        """See `Trials.losses`; under DDP the mean over the samples of all processes."""
        model, names = self.model, self.model.method.modalities
        found: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        with torch.no_grad():
            for inputs, target, present in moved_batches(model, self.loaders[part]):
                absent = without_missing(inputs, present, names, target)
                hidden = hide_absent(model.model, inputs, absent) if absent else inputs
                output, own = uni_modal_pass(
                    model.model, hidden, names, model.heads, gradient=False
                )
                table = presence_table(absent, names) if absent else None
                found.append((logits_of(model.model, output), own, target, table))
        for module, training in modes:
            module.training = training
        if not found:
            raise ValueError(_no_batch(part))
        joint, own, target = (
            torch.cat([batch[0] for batch in found]),
            torch.cat([batch[1] for batch in found], 1),
            torch.cat([batch[2] for batch in found]),
        )
        every = torch.ones(1, len(names), dtype=torch.bool, device=target.device)
        tables = [
            every.expand(len(batch[2]), -1) if batch[3] is None else batch[3] for batch in found
        ]
        present_table = torch.cat(tables)
        means = losses_by_name(model.task, joint, own, target, present_table, names)
        counts = [*present_table.sum(0).tolist(), len(target)]
        return self._over_processes(means, dict(zip((*names, JOINT), counts, strict=True)))

    def _over_processes(
        self, means: dict[str, float], counts: Mapping[str, int]
    ) -> dict[str, float]:
        """Means over all processes' samples, each of which has measured its own."""
        groups = self.model.method._averaging.groups_of(self.model, self.engine.ddp)
        if not groups:
            return means
        rows = [[means[name] * counts[name], counts[name]] for name in means]
        device = next(self.model.parameters()).device
        sums = torch.tensor(rows, dtype=torch.float64, device=device)
        for group in groups:
            dist.all_reduce(sums, group=group)
        values = (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()
        return dict(zip(means, values, strict=True))

    @contextmanager
    def _kept_draws(self) -> Iterator[None]:
        """Generators that the loaders and their samplers keep."""
        holders: list[Any] = []
        for loader in self.loaders.values():
            batches = getattr(loader, "batch_sampler", None)
            holders += [loader, getattr(loader, "sampler", None), batches]
            holders.append(getattr(batches, "sampler", None))
        generators = [getattr(holder, "generator", None) for holder in holders]
        states = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


def losses_by_name(
    task: Task,
    joint: Tensor,
    own: Tensor,
    target: Tensor,
    present: Tensor | None,
    modalities: Sequence[str],
) -> dict[str, float]:
    """The losses of a whole split; one of a modality is over the samples that have it, 0 where none has.

    Args:
        task: what the targets are.
        joint: [N, ..., K] logits of the network.
        own: [M, N, ..., K] those of each modality's head.
        target: [N, ...].
        present: [N, M] bool, which sample has which modality; None: all have all.
        modalities: their names.
    """
    own = own.to(torch.promote_types(own.dtype, torch.float32))
    joint = joint.to(torch.promote_types(joint.dtype, torch.float32))
    losses = uni_modal_losses(task, own, Batch({}, target, present), modalities)
    losses[JOINT] = task.loss(joint, target)
    return {name: float(loss) for name, loss in losses.items()}


@contextmanager
def _kept_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While entered, the optimizer works on copies of its state; the tensors themselves are not touched."""
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # of Fabric's
    attributes = dict(inner.__dict__)
    groups = [(group, dict(group)) for group in inner.param_groups]
    parameters = {id(p): p for group in inner.param_groups for p in group["params"]}
    inner.state = copy.deepcopy(inner.state, dict(parameters))
    for group, given in groups:
        group.update({key: copy.deepcopy(value) for key, value in given.items() if key != "params"})
    try:
        yield
    finally:
        for group, given in groups:
            group.clear()
            group.update(given)
        inner.__dict__.clear()
        inner.__dict__.update(attributes)


@contextmanager
def _kept_scaler(scaler: torch.amp.GradScaler) -> Iterator[None]:
    """While entered, the scaler works on copies of what it keeps."""
    attributes = dict(scaler.__dict__)
    scaler.__dict__.update(copy.deepcopy(attributes))
    try:
        yield
    finally:
        scaler.__dict__.clear()
        scaler.__dict__.update(attributes)


@contextmanager
def _kept_gradients(model: nn.Module) -> Iterator[None]:
    """While entered, the parameters begin without gradients."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _no_batch(part: str) -> str:
    return (
        f"the loader {part}= gave no batch; expected (inputs, target) pairs, as often as it is gone through: a "
        "DataLoader or a list, not an iterator that is used up"
    )
