"""What every training method is."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gradmod.methods.averaging import Averaging
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import StepRecord
from gradmod.methods.scores import sums_and_counts
from gradmod.methods.state import MethodState
from gradmod.methods.step import Step, total
from gradmod.methods.surroundings import in_backward, refuse_transforms, where_float64_is
from gradmod.protocols import Output
from gradmod.tasks import Task

if TYPE_CHECKING:
    from gradmod.methods.view import Batch, View


class Need(enum.Enum):
    """What a method cannot do without."""

    COALITIONS = "coalitions"
    """It evaluates coalitions with gradient."""
    FEATURES = "features"
    """It reads each modality's feature: the network says which modules encode."""
    FUSION = "fusion"
    """It fuses features itself: the network says how it encodes and fuses (`gradmod.protocols.Encodes`)."""
    HEADS = "heads"
    """It reads uni-modal heads: the network's own, else linear ones that the wrapper owns."""
    MODULES = "modules"
    """It acts on the modules of single modalities."""
    VALIDATION = "validation"
    """After an epoch it looks at how well each modality alone predicts on the validation split."""
    SPLITS = "splits"
    """Before an epoch it looks at the features of the training and of the validation split."""
    TEACHERS = "teachers"
    """Before the first step it is given encoders that were trained on one modality alone."""
    TRIALS = "trials"
    """Before an epoch it trains the model on trial, without a held-out part of the training split."""


class Method(MethodState):
    """A way to train a multi-modal model; this base is plain joint training.

    What it keeps from step to step is a float64 buffer, a tensor in `store` or a plain value in `memory`: all three are
    saved and loaded with the model. See `MethodState`.

    Args:
        modalities: names of the inputs, in the order in which the method reports them.

    Raises:
        ValueError: no modality, or one named twice.
    """

    last_step: StepRecord | None = None
    """Record of the last training step; None before the first, and for methods that have none."""
    needs: frozenset[Need] = frozenset()
    """What it cannot do without."""
    needs_training_step = False
    """Whether it has losses, gradients or optimizer steps of its own, which the loop `loss(model(...)).backward()` does
    not see: then `model.training_step` is the only way to train with it."""
    takes_gradients = False
    """Whether `update` takes gradients of single losses (`Step.gradients`) in place of one backward."""
    averages_scores = False
    """Whether a step needs scores averaged over all processes that train the model."""
    counts_batch: bool
    """Whether the samples of the next batch count; no on a process that has none in a step, and goes along with those
    of another one."""
    replaces_task_loss = False
    """Whether its own losses stand in place of the task's loss of the logits."""
    takes_turns = False
    """Whether a batch makes several optimizer steps, one modality after the other: then the order of the modalities
    counts, and a batch cannot be gathered in parts."""
    has_teachers = False
    """Whether it was given encoders that were trained on one modality alone: see `TaughtMethod`."""
    held_out = 0.1
    """Share of the training split that the trainer holds out from trials; for a method that needs them."""
    trains_on_held_out = True
    """Whether the training proper sees the samples that are held out from trials."""
    sets_learning_rates = False
    """Whether modalities have learning rates of their own, so that the optimizer needs parameter groups."""

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        self.counts_batch = True
        self._averaging = Averaging()
        self._is_bound = False

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """The network that is trained and that predicts: the user's own, or one that is made of its parts.

        Args:
            network: the user's own.
            task: what the targets are.

        Raises:
            ValueError: the method does not go with the network, or with the task.
        """
        return network

    def take_sizes(self, view: View, inputs: Mapping[str, Any]) -> None:
        """Give those of the method's own parameters their sizes that have none, by a batch.

        Called without gradient, in eval mode, before the method's first forward or in its place: before DDP, say. A
        method with such parameters does the same in a first forward that comes without.

        Args:
            view: the model, its task and how its coalitions are evaluated.
            inputs: the batch, by modality.
        """

    def forward(self, view: View, batch: Batch) -> Any:
        """The training forward: what the network returns on the batch, its backward as the method wants it.

        Args:
            view: the model, its task and how its coalitions are evaluated.
            batch: inputs, targets, and which samples have which modality.

        Returns:
            The network's own output; or `Output` with losses of the method's.
        """
        return view.output(batch)

    def update(self, step: Step, output: Output) -> None:
        """What follows a training forward, up to and with the optimizer's step.

        Args:
            step: the batch; offers backward passes, gradients of single losses and the optimizer's step.
            output: of the forward.
        """
        step.backward(total(step.losses(output).values()))
        step.apply()

    def use_process_group(self, group: dist.ProcessGroup | None) -> None:
        """Average scores over the processes of `group` from now on; None: those of this process alone.

        Without it they are averaged over the processes of the DDP that the model is in, or over which it is sharded.
        """
        self._averaging.choose(group)

    def begin_step(self, model: nn.Module) -> None:
        """Be told that a training forward of `model` begins, which holds this method.

        Raises:
            RuntimeError: it is called in a way that the method cannot be right in.
        """
        if not self.averages_scores:
            return
        refuse_transforms(type(self).__name__)
        if not in_backward():
            self._averaging.begin_step(model, self)

    def begin_without_gradient(self, target: Tensor) -> None:
        """Be told that a forward in train mode begins in which the method does nothing."""

    def sum_over_processes(self, totals: Tensor) -> Tensor:
        """Sum of `totals` over the processes that train the model; all of them must call it."""
        return self._averaging.sum(totals if self.counts_batch else torch.zeros_like(totals))

    def mean_scores(
        self, scores: Tensor, present: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Mean score of each modality over the samples of all processes that have it.

        Args:
            scores: [M, B, ...] by modality and sample (and segment).
            present: [B, M] bool, which sample has which modality; None: all have all.
            weights: [B, ...] weight of each score, 0 where there is none; None: all alike. See `Task.weights`.

        Returns:
            [M] float64; NaN where no sample has the modality and a score.
        """
        totals = self.sum_over_processes(sums_and_counts(scores, present, weights))
        return totals[0] / totals[1]

    def headlines(
        self, task: Task, predictions: Tensor, target: Tensor, present: Tensor | None
    ) -> Tensor | None:
        """[M] the task's headline metric of each modality's predictions; None where samples lack modalities."""
        if present is not None:
            return None
        return task.headlines(where_float64_is(predictions), where_float64_is(target))

    def bind(self, modules: Mapping[str, tuple[nn.Module, ...]]) -> None:
        """Take the modules of each modality; `ModulatedModel` calls it once.

        Raises:
            ValueError: the method needs them and there are none, or it is another model's already.
        """
        if self._is_bound:
            raise ValueError(
                f"this {type(self).__name__} belongs to another model already, and keeps its statistics: make a new one"
            )
        if self.needs & {Need.MODULES, Need.FEATURES, Need.FUSION} and not modules:
            raise ValueError(
                f"{type(self).__name__} acts on each modality's own modules, but the model does not say which they "
                "are: give it `encoders` (a module for each modality), or pass encoders=... to gradmod.adapt"
            )
        self._modules_of = dict(modules)
        self._is_bound = True

    def take_teachers(self, teachers: Mapping[str, nn.Module | Mapping[str, Tensor]]) -> None:
        """Take an encoder of each modality that was trained on it alone: the module, or its state dict.

        Raises:
            ValueError: the method has no use for them; one is missing, or is not of the network's encoder.
        """
        raise ValueError(
            f"{type(self).__name__} has no use for teachers; expected a method like Pretrained or UMT"
        )

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters of the encoder of a modality, and of its own head where it has one."""
        return [
            parameter for module in self._modules_of[modality] for parameter in module.parameters()
        ]

    def encoder_parameters(self, modality: str) -> list[nn.Parameter]:
        """Parameters of the encoder of a modality alone."""
        return list(self._modules_of[modality][0].parameters())

    def after_backward(self) -> None:
        """Change the gradients: between `backward()` and the optimizer's step, after unscaling, before clipping."""

    def begin_epoch(self, epoch: Epoch) -> bool:
        """Be told that an epoch begins; a run that was resumed in the middle of one tells it again.

        Returns:
            Whether the model was changed.

        Raises:
            ValueError: its number is below 1.
        """
        if epoch.number < 1:
            raise ValueError(
                f"epoch is {epoch.number}; expected a number from 1 on: the first epoch is 1"
            )
        before, self.epoch = self.epoch, epoch.number
        if before == epoch.number:
            return False
        try:
            return self.before_epoch(epoch)
        except BaseException:  # what was broken off is done again when it is told again
            self.epoch = before
            raise

    def before_epoch(self, epoch: Epoch) -> bool:
        """Do what there is to do before an epoch; not called again where a run is resumed in the middle of it.

        Returns:
            Whether the model was changed.
        """
        return False

    def after_epoch(self, epoch: Epoch) -> bool:
        """Do what there is to do after an epoch: `epoch.validation` is measured.

        Returns:
            Whether the model was changed, so that what was measured of it no longer holds.
        """
        return False

    def epoch_record(self) -> dict[str, Any]:
        """What the log of the epoch says of the method, as plain values; empty: nothing."""
        return {}

    def learning_rate_factors(self) -> dict[str, float]:
        """What the common learning rate is multiplied by for the parameters of each modality."""
        return dict.fromkeys(self.modalities, 1.0)

    def learning_rates_are_set(self) -> None:
        """Be told that the optimizer has the factors."""

    @property
    def has_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return False

    def look(self) -> None:
        """Warn of what went wrong in the steps so far, once for each kind; waits for the device."""

    def at_bounds(self, coefficients: Tensor) -> Tensor:
        """[..., M] bool, which of the coefficients [..., M] are as small or as large as the method lets them be."""
        return torch.zeros_like(coefficients, dtype=torch.bool)
