"""A training method around a model: what the training loop calls in place of the model."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from gradmod.coalitions.choice import choose_strategy
from gradmod.coalitions.masking import check_inputs
from gradmod.coalitions.modes import has_training_batch_norm
from gradmod.coalitions.no_gradient import without_gradient
from gradmod.coalitions.presence import hide_absent, presence_table
from gradmod.coalitions.protocols import HasOwnHeads, Output, split_output
from gradmod.coalitions.strategy import Evaluation
from gradmod.groups import modality_modules
from gradmod.methods.base import Method, StepRecord, ValidationFigures
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

    Raises:
        ValueError: the strategy does not go with the model, or its `encoders` do not go with the modalities.
        TypeError: `model` is wrapped for several processes already.
    """

    def __init__(self, model: nn.Module, method: Method, *, task: Task | None = None, coalitions: str = "auto") -> None:
        super().__init__()
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            raise TypeError(
                f"ModulatedModel was given a model inside {type(model).__name__}; gradients of the masked passes "
                "would differ between processes. Wrap the other way round: "
                "DistributedDataParallel(ModulatedModel(net, method))"
            )
        if any(isinstance(module, ModulatedModel) for module in model.modules()):
            raise TypeError("ModulatedModel was given a model with a ModulatedModel in it; one model has one method")
        modules = modality_modules(getattr(model, "encoders", None), method.modalities, getattr(model, "heads", None))
        self.strategy = choose_strategy(model, method.modalities, coalitions)
        method.bind(modules)
        self.model = model
        self.method = method
        self.task = task if task is not None else Classification()
        self._last_forward: weakref.ref[_BackwardSeen] | None = None

    def forward(
        self,
        inputs: Mapping[str, Any],
        target: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> Tensor | Output:
        """Logits of `inputs`.

        Args:
            inputs: the batch: for each modality a tensor [B, ...], or what the model takes in its place.
            target: [B] (or [B, T]) targets; needed in train mode, not read in eval mode.
            present: for each modality that some samples lack, [B] bool: True where the sample has it. The others'
                rows of that input are not read, whatever stands in them: the model sees what it sees of a hidden
                modality. None: every sample has every modality.

        Returns:
            What the model returns: logits [..., K], or `Output` with the extra loss as it is. A sample that lacks
            modalities has responses for the others alone; one that has none has none, and while AGM modulates teaches
            the model nothing.

        Raises:
            ValueError: target missing in train mode, or of the wrong shape or dtype; inputs without one of the
                modalities; a `present` that does not go with them.
            RuntimeError: in train mode, for a model with batch norm: the last forward's backward has not been run yet.
                In train mode, inside DataParallel. In the backward: the forward was in eval mode, with a target.
        """
        if self.training or present is not None:
            check_inputs(inputs, self.method.modalities)
        table = None
        if present is not None:
            table = presence_table(present, self.method.modalities)
            inputs = hide_absent(self.model, inputs, present)
        if not self.training:
            output: Tensor | Output = self.model(inputs)
            if target is not None and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                _refuse_backward(output)
            return output
        if getattr(self, "_is_replica", False):
            raise RuntimeError(
                "a training forward inside DataParallel, whose copies of the model are thrown away after it, and the "
                "method's statistics with them. Use DistributedDataParallel(ModulatedModel(net, method)), one process "
                "for each GPU, or one GPU"
            )
        if target is None:
            raise ValueError(
                "target is None in train mode; the method scores each modality against it: call model(inputs, target)"
            )
        watches = self.method.needs_coalitions and not torch.compiler.is_compiling()
        if watches:
            self._refuse_pending_backward()
        self.method.begin_step(self)
        result: Tensor | Output = self.method(self.model, self.strategy, inputs, target, self.task, table)
        logits, _ = split_output(result)
        if watches and logits.requires_grad:
            seen = _BackwardSeen()
            logits.register_hook(seen)  # type: ignore[no-untyped-call]
            self._last_forward = weakref.ref(seen)
        return result

    def responses(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None = None) -> Evaluation:
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
        with without_gradient():
            if present is None:
                return self.strategy.evaluate(self.model, inputs, modalities)
            table = presence_table(present, modalities)
            return self.strategy.evaluate(
                self.model, hide_absent(self.model, inputs, present), modalities, present=table
            )

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch is being trained, counted from 1; see `Method.set_epoch`."""
        self.method.set_epoch(epoch)

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
        return self.method.after_epoch(validation)

    def own_predictions(self, inputs: Mapping[str, Any]) -> Tensor:
        """[M, ..., K] what each modality alone predicts: from its own head where it has one, else its response."""
        if not isinstance(self.model, HasOwnHeads):
            return self.responses(inputs).responses
        with without_gradient():
            return self.model.mono_logits({m: self.model.encode(m, inputs[m]) for m in self.method.modalities})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for an optimizer: a group for each modality, marked `modality`, and one for all others.

        Only a method that sets learning rates (MSLR) needs groups; for the others there is one, of all parameters.
        """
        if not self.method.sets_learning_rates:
            return [{"params": list(self.parameters())}]
        groups = [{"params": self.method.parameters_of(m), "modality": m} for m in self.method.modalities]
        taken = {id(parameter) for group in groups for parameter in group["params"]}
        return [{"params": [p for p in self.parameters() if id(p) not in taken], "modality": ""}, *groups]

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Give every group of an optimizer of `parameter_groups` its learning rate: `lr` times the modality's factor.

        Call it before the first step and after every `after_epoch`.

        Raises:
            ValueError: the method sets learning rates, but the optimizer has no groups of `parameter_groups`.
        """
        factors = self.method.learning_rate_factors()
        if self.method.sets_learning_rates and not {g.get("modality") for g in optimizer.param_groups} >= set(factors):
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

    def _refuse_pending_backward(self) -> None:
        last = self._last_forward() if self._last_forward is not None else None
        if last is not None and not last.done and has_training_batch_norm(self.model):
            raise RuntimeError(
                "a second training forward before the backward of the first: batch norm would change the running "
                "statistics under the first one's masked passes and its gradients would be silently wrong. Call "
                "backward() after each forward (gradients add up), or drop the first output"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last_forward": None}


def _refuse_backward(output: Tensor | Output) -> None:
    """Make the backward of a forward in eval mode raise: it would be joint training, and in silence."""
    logits, _ = split_output(output)

    def refuse(gradient: Tensor) -> None:
        raise RuntimeError(
            "backward through a forward that was made in eval mode with a target: the method did nothing in it. Call "
            "model.train() before training; for gradients of a model in eval mode leave the target out"
        )

    if logits.requires_grad:
        logits.register_hook(refuse)  # type: ignore[no-untyped-call]


class _BackwardSeen:
    """Gradient hook that remembers that it was called; it lives as long as the graph it hangs on."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, gradient: Tensor) -> None:
        self.done = True
