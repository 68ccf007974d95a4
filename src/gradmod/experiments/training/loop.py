"""The training loop: epochs of steps, what is written down after which, and when to stop."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import CheckpointError, InterruptedRunError
from gradmod.experiments.runs.checkpoints import FORMAT, Checkpoints
from gradmod.experiments.runs.recorder import Recorder
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.engine import FabricEngine
from gradmod.experiments.training.evaluation import (
    Predictions,
    measure,
    predict,
    split_features,
    validation_figures,
)
from gradmod.experiments.training.history import EpochHistory
from gradmod.experiments.training.interrupts import Interrupts
from gradmod.experiments.training.loading import Batch, Request, batches, of_modalities
from gradmod.experiments.training.monitors import Monitor
from gradmod.experiments.training.non_finite import explain_non_finite
from gradmod.experiments.training.optimization import clip_gradients, learning_rate
from gradmod.experiments.training.position import Position
from gradmod.experiments.training.processes import share_buffers
from gradmod.experiments.training.progress import RunProgress
from gradmod.experiments.training.randomness import Stream, seed_all
from gradmod.experiments.training.sampling import Shard, TrainingBatches
from gradmod.experiments.training.trials import RunTrials, divide
from gradmod.methods.base import Need
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import ValidationFigures
from gradmod.methods.step import Step
from gradmod.methods.view import Batch as StepBatch
from gradmod.tasks import Task
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Loop:
    """Trains one model on one process of a run.

    Attributes:
        config: the run's settings.
        folder: the run's folder.
        fabric: devices and precision.
        model: the modulated model itself; `wrapped` is what Fabric made of it.
        optimizer: Fabric's optimizer.
        data: the splits.
        task: what the targets are.
        recorder: the log.
        workers: processes that read ahead.
        position: where to start.
        monitors: what else is measured at the end of an epoch.

    Raises:
        CheckpointError: there is no such position.
    """

    config: Config
    folder: Path
    fabric: Fabric
    model: ModulatedModel
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    data: Splits
    task: Task
    recorder: Recorder
    workers: int
    position: Position
    monitors: Sequence[Monitor] = ()

    def __post_init__(self) -> None:
        train = self.config.train
        # Synchronised batch norm takes the variance over all processes: one sample each is enough.
        at_least = 1 if train.sync_batch_norm else 2
        self.shard = Shard(self.fabric.global_rank, self.fabric.world_size, at_least)
        self.divided = divide(
            self.data.train, self.model.method, train.seed, self.fabric.world_size
        )
        self.train_split = (
            self.data.train
            if self.divided is None or self.model.method.trains_on_held_out
            else self.divided.trained
        )
        self.order = TrainingBatches(len(self.train_split), train.batch_size, train.seed)
        self.steps = self.order.steps
        self.engine = FabricEngine(self.fabric, self.wrapped, self.optimizer)
        self.checkpoints = Checkpoints(self.folder)
        if self.position.step_in_epoch > self.steps:
            raise CheckpointError(
                f"the checkpoint of {self.folder} is after step {self.position.step_in_epoch} of an epoch of "
                f"{self.steps}: it is damaged, or the data set is another one"
            )

    def run(self) -> None:
        """Train to the last epoch.

        Raises:
            InterruptedRunError: Ctrl-C; the step was finished and saved.
            TrainingError: the loss or a parameter is not finite.
        """
        here = self.position
        epochs = self.config.train.epochs
        if here.step == 0:
            self._save()
        stream = batches(self.fabric, self.train_split, self._requests(), self.workers)
        with (
            Interrupts() as interrupts,
            RunProgress(epochs, self.steps, here.step, self.fabric.is_global_zero) as progress,
        ):
            while here.epoch <= epochs and not self.model.method.has_finished:
                self._train_epoch(stream, interrupts, progress)
                progress.epoch(self._finish_epoch(), self.task.headline)
                if here.epoch <= epochs and not self.model.method.has_finished:
                    self._stop_if_asked(interrupts, at_a_meeting_point=True)

    def _requests(self) -> Iterator[Request]:
        """Every batch that is still to be trained on, epoch after epoch."""
        seed, start = self.config.train.seed, self.position.step_in_epoch
        for epoch in range(self.position.epoch, self.config.train.epochs + 1):
            for step, indices in enumerate(self.order.epoch(epoch, self.shard, start=start), start):
                yield Request(indices, (seed, Stream.TRANSFORMS, epoch, step, self.shard.rank))
            start = 0

    def _train_epoch(
        self, stream: Iterator[Batch], interrupts: Interrupts, progress: RunProgress
    ) -> None:
        here, train = self.position, self.config.train
        self.model.set_learning_rate(
            self.optimizer, learning_rate(self.config.optimizer, here.epoch, train.epochs)
        )
        started = time.perf_counter()
        self.model.train()
        self.model.method.begin_epoch(self._epoch(trials=self._trials(interrupts)))
        self.model.train()
        for batch in itertools.islice(stream, self.steps - here.step_in_epoch):
            loss, norm = self._step(batch)
            here.history.add(loss, self.model.last_step)
            here.step += 1
            here.step_in_epoch += 1
            progress.step(here.epoch)
            logs = here.step % train.log_every == 0
            saves = (
                train.save_every > 0
                and here.step % train.save_every == 0
                and here.step_in_epoch < self.steps
            )
            if logs or saves:
                self._check_finite()
            if logs:
                lr = self.optimizer.param_groups[0]["lr"]
                loss = self._across(loss)
                self.recorder.step(
                    here.step, here.epoch, float(loss), lr, float(norm), self.model.last_step
                )
            if saves:
                here.seconds += time.perf_counter() - started
                self._save()
                started = time.perf_counter()
            if here.step_in_epoch < self.steps:
                self._stop_if_asked(interrupts, at_a_meeting_point=logs)
        here.seconds += time.perf_counter() - started

    def _trials(self, interrupts: Interrupts) -> RunTrials | None:
        """What the method trains on trial with; None: it does not."""
        if self.divided is None:
            return None
        return RunTrials(
            self.engine,
            self.model,
            self.fabric,
            self.divided,
            self._train_on,
            lambda ended: self._stop_if_asked(interrupts, at_a_meeting_point=ended),
            self.shard,
            self.config.train.batch_size,
            self.workers,
        )

    def _epoch(
        self,
        figures: Mapping[str, ValidationFigures] | None = None,
        trials: RunTrials | None = None,
    ) -> Epoch:
        """The present epoch, as the method sees it."""
        reading = {"batch_size": self.config.train.batch_size, "workers": self.workers}
        splits = {"train": self.data.train, "validation": self.data.validation}
        readers = {
            name: functools.partial(split_features, self.fabric, self.model, split, **reading)
            for name, split in splits.items()
        }
        return Epoch(self.position.epoch, self.steps, figures or {}, readers, trials)

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimizer step; this process' share of the loss and the norm of the gradients, unread."""
        here = self.position
        seed_all(self.config.train.seed, Stream.STEP, here.step, self.shard.rank)
        # DDP averages gradients over processes; weighted by their samples, that is the mean over the whole batch.
        share = self.shard.weight(self.order.size(here.step_in_epoch))
        step = self._train_on(batch, share)
        loss = cast(Tensor, step.loss)
        norm = torch.full_like(loss, torch.nan) if step.norm is None else step.norm
        return loss if share == 1 else loss * share, norm

    def _train_on(self, batch: Batch, share: float) -> Step:
        """One optimizer step on a batch, of which this process has a part that counts `share`."""
        self.model.method.counts_batch = share > 0
        inputs, target, present = batch
        step = Step(
            self.engine,
            self.model,
            StepBatch(inputs, target),
            of_modalities(present, self.model.method.modalities),
            weight=share,
            clip=self._clip,
        )
        step.run()
        return step

    def _clip(self, parameters: list[nn.Parameter]) -> Tensor:
        optimizer = self.config.optimizer
        trigger = head_weight(self.model.model) if optimizer.clip_when == "head" else None
        return clip_gradients(parameters, optimizer.clip_norm, trigger)

    def _across(self, shares: Tensor) -> Tensor:
        """Mean over the processes, all of which must call it."""
        return (
            shares
            if self.shard.world == 1
            else cast(Tensor, self.fabric.all_reduce(shares, reduce_op="mean"))
        )

    def _finish_epoch(self) -> dict[str, Any]:
        """Evaluate, record and save the epoch that was trained; go to the next. Returns the validation figures."""
        here = self.position
        self._check_finite()
        # What is measured is what the first process saves.
        share_buffers(self.model, self.shard.world)
        method, modalities = self.model.method, self.model.method.modalities
        predictions = self._predict_validation()
        figures = (
            validation_figures(predictions, self.task, modalities)
            if Need.VALIDATION in method.needs
            else {}
        )
        if figures and method.after_epoch(self._epoch(figures)):
            predictions = self._predict_validation()
        validation = measure(predictions, self.task, modalities)
        best = self.task.improves(validation[self.task.headline], here.best_value)
        if best:
            here.best_epoch, here.best_value = here.epoch, validation[self.task.headline]
        self.recorder.epoch(
            here.epoch,
            here.step,
            float(self._across(here.history.mean_loss())),
            here.seconds,
            validation,
            here.history.coefficient_quantiles(modalities),
            best,
            {
                monitor.name: monitor.measure(self.model)
                for monitor in self.monitors
                if here.epoch % monitor.every == 0
            },
            {**here.history.unused(method), **method.epoch_record()},
        )
        here.epoch += 1
        here.step_in_epoch = 0
        here.history = EpochHistory()
        self._save(best=best)
        return validation

    def _predict_validation(self) -> Predictions:
        return predict(
            self.fabric,
            self.model,
            self.data.validation,
            batch_size=self.config.train.batch_size,
            workers=self.workers,
            with_own=Need.VALIDATION in self.model.method.needs,
        )

    def _check_finite(self) -> None:
        """Stop the run if a loss since the last look, or a parameter, is not finite."""
        here = self.position
        self.model.method.look()
        first_unseen = here.step - here.step_in_epoch
        found = here.history.look()
        finite = torch.stack(
            [parameter.isfinite().all() for parameter in self.model.parameters()]
        ).all()
        if found is None and bool(finite):
            return
        raise explain_non_finite(
            found,
            step_before_epoch=first_unseen,
            epoch=here.epoch,
            model=self.model,
            data=self.train_split,
            samples_of=lambda step: next(self.order.epoch(here.epoch, Shard(), start=step)),
        )

    def _save(self, *, best: bool = False) -> None:
        """Write a checkpoint of the present position; the first process does, the others wait."""
        here = self.position
        position = here.state(self._across)
        if self.fabric.is_global_zero:
            state = {
                "format": FORMAT,
                **position,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),
                "log_bytes": self.recorder.sync(),
            }
            self.checkpoints.save(state, best=best)
        self.fabric.barrier()

    def _stop_if_asked(self, interrupts: Interrupts, *, at_a_meeting_point: bool) -> None:
        """Save and stop after Ctrl-C. Several processes must agree, which they do where all meet: at log steps."""
        asked = interrupts.requested
        if self.shard.world > 1:
            if not at_a_meeting_point:
                return
            flag = torch.tensor(float(asked), device=self.fabric.device)
            asked = bool(cast(Tensor, self.fabric.all_reduce(flag, reduce_op="sum")) > 0)
        if asked:
            if self.position.step_in_epoch:
                self._check_finite()
                self._save()
            raise InterruptedRunError(
                f"interrupted after step {self.position.step}; saved. Go on with: gradmod resume {self.folder}"
            )


def head_weight(model: nn.Module) -> Tensor | None:
    """Weight of the linear head: that of the last linear layer of `model.head`; None where there is none."""
    head = getattr(model, "head", None)
    linear = (
        [module for module in head.modules() if isinstance(module, nn.Linear)]
        if isinstance(head, nn.Module)
        else []
    )
    return linear[-1].weight if linear else None
