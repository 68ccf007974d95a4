"""A training method around a model: what the training loop calls in place of the model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gradmod.coalitions.choice import possible_strategies
from gradmod.coalitions.features import check_fusion, uni_modal_pass
from gradmod.coalitions.first_step import CheckedStrategy
from gradmod.coalitions.kept_state import is_uninitialized
from gradmod.coalitions.masking import check_inputs
from gradmod.coalitions.no_gradient import without_gradient
from gradmod.coalitions.presence import hide_absent, presence_table, without_missing
from gradmod.coalitions.strategy import Evaluation
from gradmod.coalitions.undisturbed import undisturbed
from gradmod.methods.backward_watch import BackwardWatch, refuse_backward
from gradmod.methods.base import Method, Need
from gradmod.methods.epoch import Epoch, read_features
from gradmod.methods.heads import UniModalHeads
from gradmod.methods.readiness import Readiness
from gradmod.methods.record import StepRecord, ValidationFigures
from gradmod.methods.step import Clip, Engine, Step
from gradmod.methods.trials import LoaderTrials
from gradmod.methods.view import Batch, View
from gradmod.protocols import (
    Output,
    declared_modules,
    declares_encoding,
    declares_own_heads,
    logits_of,
    modality_modules,
    read_output,
)
from gradmod.tasks import Classification, Task


class ModulatedModel(nn.Module):
    """A model whose training forward is a method's; in eval mode it is the model itself.

        model = ModulatedModel(net, AGM(modalities=("audio", "visual"), alpha=1.5))
        for inputs, target in loader:
            logits = model(inputs, target)
            F.cross_entropy(logits, target).backward()
            optimizer.step(); optimizer.zero_grad()

    Args:
        model: called with a dict of inputs by modality; returns logits [..., K] or `Output`. One with a signature of
            its own is adapted with `adapt`.
        method: AGM, Joint, ...
        task: what the targets are; default one class a sample (or a segment).
        coalitions: how coalitions are evaluated: `auto` (the cheapest exact way), `looped`, `batched`, `reuse`,
            `additive`, or `shared` (approximate where an encoder has batch norm or dropout).
        batch_axis: on which axis the samples of the inputs lie; or a dict by the inputs' keys, in which `logits` is the
            output. 0 where nothing is said.
        check: look at the first batch: whether each mask hides something, whether the cheap way to evaluate coalitions
            computes for this network what looping over them does (else a slower one is taken, with a warning), and what
            its forward changes. It costs a few passes, once; nothing is left changed by it.

    Raises:
        ValueError: the strategy does not go with the model, or its `encoders` do not go with the modalities.
        TypeError: `model` is wrapped for several processes already.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        *,
        task: Task | None = None,
        coalitions: str = "auto",
        batch_axis: int | Mapping[str, int] = 0,
        check: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            raise TypeError(
                f"ModulatedModel was given a model inside {type(model).__name__}; gradients of the masked passes "
                "would differ between processes. Wrap the other way round: "
                "DistributedDataParallel(ModulatedModel(net, method))"
            )
        if any(isinstance(module, ModulatedModel) for module in model.modules()):
            raise TypeError(
                "ModulatedModel was given a model with a ModulatedModel in it; one model has one method"
            )
        names = method.modalities
        self.task = task if task is not None else Classification()
        self._given = (model,)  # in a tuple, so that it is not a module twice
        model = method.prepare_network(model, self.task)
        if Need.FUSION in method.needs and not declares_encoding(self._given[0], names):
            raise ValueError(
                f"{type(method).__name__} fuses features itself, but {type(self._given[0]).__name__} does not say how "
                "it encodes each modality and fuses the features. Give it `encoders`, `encode`, `fuse` and `head`, or "
                "adapt it: gradmod.adapt(net, encoders=..., fuse=..., head=...)"
            )
        # Asked once: torch 2.6 cannot compile a look into a set of enum members.
        self._checks_fusion = check and Need.FUSION in method.needs
        self._watches_backward = Need.COALITIONS in method.needs
        self._readiness = Readiness(method)
        encoders, heads = (declared_modules(model, kind, names) for kind in ("encoders", "heads"))
        # Modalities may share their encoders, where the method does nothing to encoders.
        modules = modality_modules(encoders, names, heads, apart=Need.MODULES in method.needs)
        axes = _by_key(batch_axis, names)
        self.strategy = CheckedStrategy(possible_strategies(model, names, coalitions, axes), check)
        method.bind(modules)
        self.model = model
        self.method = method
        needs_heads = Need.HEADS in method.needs and not declares_own_heads(model, names)
        self.heads = UniModalHeads(names) if needs_heads else None
        self._in_training_step = False
        self._gathered = 0  # calls of `training_step` since the optimizer's last
        self._backward = BackwardWatch()

    def forward(
        self,
        inputs: Mapping[str, Any],
        target: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Logits of `inputs`.

        Args:
            inputs: the batch: for each modality a tensor [B, ...], or what the model takes in its place; None where no
                sample has it.
            target: [B] (or [B, T]) targets; needed in train mode, not read in eval mode or under `torch.no_grad()`.
            present: for each modality that some samples lack, [B] bool: True where the sample has it. The others'
                rows of that input are not read, whatever stands in them: the model sees what it sees of a hidden
                modality. None: every sample has every modality.

        Returns:
            What the model returns: logits [..., K], `Output`, or a type of its own (`adapt(..., logits=)`) with its
            logits modulated, and the losses in it that it computed from them; under `torch.no_grad()` in train mode its
            own answer, where the method does nothing and counts no step. A sample that lacks modalities has responses
            for the others alone; one that has none has none, and while AGM modulates teaches the model nothing.

        Raises:
            ValueError: target missing in train mode, or of the wrong shape or dtype; inputs without one of the
                modalities; a `present` that does not go with them.
            RuntimeError: in train mode, for a model with batch norm: the last forward's backward has not been run yet.
                In train mode, inside DataParallel. In the backward: the forward was in eval mode, with a target.
        """
        if self.training or present is not None:
            check_inputs(inputs, self.method.modalities)
            present = without_missing(inputs, present, self.method.modalities, target)
        table = None
        if present is not None:
            table, inputs = self._hide_absent(inputs, present)
        # Without gradient nothing is learnt: statistics alone, as swa_utils.update_bn and reentrant checkpointing want.
        if not self.training or not torch.is_grad_enabled():
            # A reentrant checkpoint makes the step itself in the backward.
            if self.training and target is not None:
                self.method.begin_step(self)
                self.method.begin_without_gradient(target)
            output = self.model(inputs)
            if target is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                refuse_backward(logits_of(self.model, output))
            return output
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "a training forward inside DataParallel, whose copies of the model are thrown away after it, and the "
                "method's statistics with them. Use DistributedDataParallel(ModulatedModel(net, method)), one process "
                "for each GPU, or one GPU"
            )
        if target is None:
            raise ValueError(
                "target is None in train mode; the method scores each modality against it: call model(inputs, target). "
                "Where something took the labels out of the batch before (label_smoothing_factor or compute_loss_func "
                "of the Hugging Face Trainer, a collator), leave them in and let the task smooth them, "
                "task=Classification(label_smoothing=0.1). A forward for statistics alone goes under torch.no_grad()"
            )
        self._readiness.expect(self.method, in_training_step=self._in_training_step)
        if self._checks_fusion and not torch.compiler.is_compiling():
            check_fusion(self._given[0], inputs, self.method.modalities)
            self._checks_fusion = False
        watches = self._watches_backward and not torch.compiler.is_compiling()
        if watches:
            self._backward.refuse_pending(self.model)
        self.method.begin_step(self)
        result = self.method(self._view(), Batch(inputs, target, table))
        if watches:
            logits = logits_of(self.model, result)
            self._backward.begin(result, logits, before=self.strategy.take_last_logits())
        return result

    def training_step(
        self,
        inputs: Mapping[str, Any],
        target: Tensor,
        optimizer: torch.optim.Optimizer,
        *,
        present: Mapping[str, Tensor] | None = None,
        through: nn.Module | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
    ) -> Tensor:
        """One step of training with any method: forward, backward, what the method does with it, optimizer's step.

            for inputs, target in loader:
                loss = model.training_step(inputs, target, optimizer, clip_norm=5.0)

        Args:
            inputs: as in `forward`.
            target: as in `forward`.
            optimizer: of `model.parameters()`, or of `model.parameter_groups()`; its gradients are gone afterwards.
            present: as in `forward`.
            through: what is called for the forward, where something is around this model: DDP.
            scaler: of the loss, for float16; the gradients are unscaled once, before they are changed and clipped.
            clip_norm: largest norm of all gradients together; None: as they are.
            accumulate: how many calls make one optimizer step; each one's loss counts 1 / `accumulate`.

        Returns:
            The batch's loss, a detached scalar: the task's, and those of the network and of the method.

        Raises:
            ValueError: in eval mode; see also `forward`.
        """
        if not self.training:
            raise ValueError("training_step in eval mode: call model.train() first")
        if accumulate < 1:
            raise ValueError(
                f"accumulate is {accumulate}; expected the number of calls for each step, 1 or more"
            )

        if accumulate > 1 and self.method.takes_turns:
            raise ValueError(
                f"accumulate is {accumulate}; {type(self.method).__name__} makes several optimizer steps in each "
                "batch, so that parts of one cannot be gathered: expected 1. Make the batch larger"
            )
        self._gathered = (self._gathered + 1) % accumulate
        step = Step(
            Engine(self if through is None else through, optimizer, scaler),
            self,
            Batch(inputs, target),
            present,
            weight=1 / accumulate,
            is_last=self._gathered == 0,
            clip=_clip_to(clip_norm),
        )
        return step.run()

    @contextmanager
    def in_training_step(self) -> Iterator[None]:
        """While entered, a forward is one of a `Step`, which sees to losses and gradients of the method's own."""
        self._in_training_step = True
        try:
            yield
        finally:
            self._in_training_step = False

    def read_output(self, output: Any) -> Output:
        """Logits and losses by name of what `forward` returned."""
        return read_output(self.model, output)

    @property
    def has_sizes(self) -> bool:
        """Whether every parameter has a size; heads of the method's get theirs by the first batch."""
        return not is_uninitialized(self)

    def give_heads_their_sizes(self, inputs: Mapping[str, Any]) -> None:
        """Size the parameters that the method added to the network, where there are any, by a batch: before DDP, say.

        The network is afterwards as it was.
        """
        if self.heads is not None and not self.heads.has_sizes:
            with undisturbed(self), torch.no_grad():
                uni_modal_pass(self.model.eval(), inputs, self.method.modalities, self.heads)
        if is_uninitialized(self.model):
            with undisturbed(self), torch.no_grad():
                self.model.eval()(inputs)
        if is_uninitialized(self.method):
            with undisturbed(self), torch.no_grad():
                self.method.take_sizes(self._view(), inputs)

    def check_network(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> str:
        """Check the network on a batch, as the first training step does; before `torch.compile`, which skips that.

        Args:
            inputs: as in `forward`.
            present: as in `forward`.

        Returns:
            How coalitions are evaluated: `looped`, `batched`, `reuse`, `additive` or `shared`.

        Raises:
            ValueError: a mask that hides nothing; a strategy asked for by name that is not right for the network.
        """
        names = self.method.modalities
        check_inputs(inputs, names)
        present = without_missing(inputs, present, names, None)
        table = None
        if present is not None:
            table, inputs = self._hide_absent(inputs, present)
        self.strategy.check(self.model, inputs, names, table)
        return self.strategy.name

    def responses(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> Evaluation:
        """Logits and mono-modal responses of `inputs` in the present mode, without a target and without gradient.

        Args:
            inputs: as in `forward`.
            present: as in `forward`.

        Returns:
            `output` as the model returned it and `responses` [M, ..., K], in the order of `method.modalities`; 0 where
            a sample lacks the modality.
        """
        modalities = self.method.modalities
        check_inputs(inputs, modalities)
        present = without_missing(inputs, present, modalities, None)
        table = None
        if present is not None:
            table, inputs = self._hide_absent(inputs, present)
        with without_gradient():
            return self.strategy.evaluate(self.model, inputs, modalities, present=table)

    def take_teachers(self, teachers: Mapping[str, nn.Module | Mapping[str, Tensor]]) -> None:
        """Give the method, before its first step, an encoder of each modality that was trained on it alone.

            model.take_teachers({"audio": torch.load("audio.pt"), "visual": torch.load("visual.pt")})

        Pretrained begins with them, UMT learns from them. A model whose state is loaded needs them no more.

        Args:
            teachers: by modality the state dict of the encoder (of what the network names as the modality's encoder,
                and not of the whole network), or the module itself.

        Raises:
            ValueError: the method has no use for them; one is missing, or is not of the network's encoder.
        """
        self.method.take_teachers(teachers)

    def before_epoch(
        self,
        number: int,
        *,
        train: Any = None,
        validation: Any = None,
        held_out: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        through: nn.Module | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
    ) -> bool:
        """Tell the method that an epoch begins.

            for number in range(1, epochs + 1):
                model.before_epoch(number)

        AGM and OGM-GE with a window of epochs need the number, Diagnosing & Re-learning and MLA the loaders as well.
        Gradient Blending trains the model on trial: it needs `train`, `held_out` and `optimizer`, and what else you
        give to `training_step`. Model, optimizer, loaders and random numbers are afterwards as they were.

        Args:
            number: of the epoch, counted from 1.
            train: gives the batches of the training split: (inputs, target) or (inputs, target, present). The method
                may go through it in eval mode, which leaves the model and the random numbers as they were; so a loader
                without augmentation is best. Its length is the number of steps in the epoch.
            validation: the same of the validation split.
            held_out: the same of a part of the training split that `train` does not give: you split it yourself, with
                `torch.utils.data.random_split`, say. Never the validation split, nor the test split.
            optimizer: as in `training_step`, and so are the rest.
            through: as in `training_step`.
            scaler: as in `training_step`.
            clip_norm: as in `training_step`.
            accumulate: as in `training_step`.

        Returns:
            Whether the model was changed by it.

        Raises:
            ValueError: `number` is below 1.
        """
        loaders = {"train": train, "validation": validation}
        readers = {
            name: functools.partial(read_features, self.model, loader, self.method.modalities)
            for name, loader in loaders.items()
            if loader is not None
        }
        steps = len(train) if isinstance(train, Sized) else None
        trials = None
        if train is not None and held_out is not None and optimizer is not None:
            trials = LoaderTrials(
                Engine(self if through is None else through, optimizer, scaler),
                self,
                {"train": train, "held_out": held_out},
                _clip_to(clip_norm),
                accumulate,
            )
        return self.method.begin_epoch(Epoch(number, steps, splits=readers, trials=trials))

    def after_backward(self) -> None:
        """Let the method change the gradients: between `backward()` and `optimizer.step()`, before any clipping.

        OGM-GE and MSES need it; for the others it does nothing.
        """
        self.method.after_backward()

    def after_epoch(self, validation: Mapping[str, ValidationFigures]) -> bool:
        """Tell the method, at the end of an epoch, how well each modality alone predicts on the validation split.

        MSLR and MSES need it; for the others it does nothing.

        Returns:
            Whether the model was changed by it.
        """
        number = self.method.epoch or 1  # a loop need not count for a method that does not ask
        return self.method.after_epoch(Epoch(number, validation=validation))

    def own_predictions(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """[M, ..., K] what each modality alone predicts: from its own head where it has one, else its response.

        Args:
            inputs: as in `forward`.
            present: as in `forward`; of a sample that lacks a modality its row means nothing.
        """
        if self.heads is None and not declares_own_heads(self.model, self.method.modalities):
            return self.responses(inputs, present).responses
        if present is not None:
            _, inputs = self._hide_absent(inputs, present)
        with without_gradient():
            return uni_modal_pass(
                self.model, inputs, self.method.modalities, self.heads, gradient=False
            ).logits

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimizer: a group for each modality, marked `modality`, and one for all others.

        Only a method that sets learning rates (MSLR) needs groups; for the others there is one, of all parameters.
        """
        if not self.method.sets_learning_rates:
            return [{"params": list(self.parameters())}]
        groups = [
            {"params": self.method.parameters_of(m), "modality": m} for m in self.method.modalities
        ]
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        return [
            {"params": [p for p in self.parameters() if id(p) not in taken], "modality": ""},
            *groups,
        ]

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Give every group of an optimizer of `parameter_groups` its learning rate: `lr` times the modality's factor.

        Call it before the first step and after every `after_epoch`.

        Raises:
            ValueError: the method sets learning rates, but the optimizer has no groups of `parameter_groups`.
        """
        factors = self.method.learning_rate_factors()
        if self.method.sets_learning_rates and not {
            g.get("modality") for g in optimizer.param_groups
        } >= set(factors):
            raise ValueError(
                f"{type(self.method).__name__} gives each modality a learning rate of its own, but the optimizer has "
                "no groups for them: make it from model.parameter_groups() in place of model.parameters()"
            )
        for group in optimizer.param_groups:
            group["lr"] = lr * factors.get(group.get("modality", ""), 1.0)
        self.method.learning_rates_are_set()

    @property
    def last_step(self) -> StepRecord | None:
        """Scores, ratios, coefficients and accuracies of the last training step."""
        return self.method.last_step

    def _view(self) -> View:
        """What the method sees of the model."""
        return View(self.model, self.strategy, self.task, self.method.modalities, self.heads)

    def _hide_absent(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """Which sample has which modality, and the inputs with what is absent hidden."""
        if self.strategy.batch_axes.get("logits", 0):
            raise ValueError(
                f"samples lack modalities and batch_axis says that the logits have their samples on axis "
                f"{self.strategy.batch_axes['logits']}; expected 0 there. Let the network, or adapt's call, move them"
            )
        table = presence_table(present, self.method.modalities)
        return table, hide_absent(self.model, inputs, present, self.strategy.batch_axes)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_backward": BackwardWatch(),
            "_in_training_step": False,
        }


def _clip_to(norm: float | None) -> Clip | None:
    """What clips gradients to a norm of all together; None: nothing."""
    if norm is None:
        return None
    return functools.partial(nn.utils.clip_grad_norm_, max_norm=norm)


def _by_key(batch_axis: int | Mapping[str, int], modalities: Sequence[str]) -> dict[str, int]:
    axes = (
        dict.fromkeys(modalities, batch_axis) if isinstance(batch_axis, int) else dict(batch_axis)
    )
    wrong = {key: axis for key, axis in axes.items() if not isinstance(axis, int) or axis < 0}
    if wrong:
        raise ValueError(
            f"batch_axis is {wrong}; expected numbers >= 0, counted from the first axis"
        )
    return axes
