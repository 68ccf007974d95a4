"""Coalitions by passes through the whole model, for anything callable."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import (
    CannotStackError,
    map_tensors,
    mask,
    proper_coalitions,
    stack_samples,
    with_items,
)
from gradmod.coalitions.strategy import (
    Evaluation,
    Strategy,
    responses_from_coalitions,
    split_coalitions,
)
from gradmod.protocols import logits_of


class Looped(Strategy):
    """One pass for each coalition: 2^M - 1 passes, and the least memory."""

    name = "looped"

    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
        present: Tensor | None = None,
    ) -> Evaluation:
        """See `Strategy.evaluate`."""
        output, full, before = self.full_pass(model, inputs)
        masked: Sequence[Tensor] = ()
        with torch.set_grad_enabled(masked_gradient and torch.is_grad_enabled()):
            if len(modalities) > 1:
                # One after another for the passes, which begin in the same state; in a compiled step one for all.
                all_passes = nullcontext() if before is not None else masked_passes(model, None)
                with all_passes:
                    with _one_pass(model, before):
                        hidden = {m: mask(model, m, inputs[m]) for m in modalities}
                    masked = self._masked_logits(model, before, inputs, hidden, modalities, full)
            return Evaluation(output, full, responses_from_coalitions(full, masked, present))

    def _masked_logits(
        self,
        model: nn.Module,
        before: NetworkState | None,
        inputs: Mapping[str, Any],
        hidden: Mapping[str, Any],
        modalities: Sequence[str],
        full: Tensor,
    ) -> Sequence[Tensor]:
        """Logits of each proper coalition, in their order."""
        masked = []
        for shown in proper_coalitions(modalities):
            with _one_pass(model, before):
                output = model(
                    self.given(
                        with_items(inputs, {m: hidden[m] for m in modalities if m not in shown})
                    )
                )
            masked.append(self.logits_of_pass(model, output))
        return masked

    def logits_of_pass(self, model: nn.Module, output: Any) -> Tensor:
        """Logits in what a masked pass returned."""
        return logits_of(model, output)


def _one_pass(model: nn.Module, before: NetworkState | None) -> AbstractContextManager[None]:
    return nullcontext() if before is None else masked_passes(model, before)


class Batched(Looped):
    """The masked coalitions stacked on the batch axis: one pass on all modalities, and one larger pass in eval mode.

    Right for a model that treats the samples of a batch one by one in eval mode, as every classifier should.

    Args:
        batch_axes: see `Strategy`.
        falls_back: loop over the coalitions of a batch whose inputs cannot be stacked, and say so once, in place of
            raising.
    """

    name = "batched"

    def __init__(
        self, batch_axes: Mapping[str, int] | None = None, falls_back: bool = False
    ) -> None:
        super().__init__(batch_axes)
        self._falls_back = falls_back
        self._has_said_so = False
        self._constant: set[tuple[str, int]] = set()
        self._single: set[tuple[Any, ...]] = set()

    def _masked_logits(
        self,
        model: nn.Module,
        before: NetworkState | None,
        inputs: Mapping[str, Any],
        hidden: Mapping[str, Any],
        modalities: Sequence[str],
        full: Tensor,
    ) -> Sequence[Tensor]:
        coalitions = proper_coalitions(modalities)
        axis = self.batch_axes.get("logits", 0)
        try:
            stacked = self._stack(inputs, hidden, modalities, full.shape[axis])
        except CannotStackError as reason:
            if not self._falls_back:
                raise CannotStackError(
                    f"coalitions='batched' does not go with these inputs: {reason}. Say where the samples lie with "
                    "batch_axis=, or use coalitions='looped'"
                ) from None
            self._say_once(str(reason))
            return super()._masked_logits(model, before, inputs, hidden, modalities, full)
        with _one_pass(model, before):
            output = model(with_items(inputs, stacked))
        return split_coalitions(logits_of(model, output), full, len(coalitions), axis)

    def _stack(
        self,
        inputs: Mapping[str, Any],
        hidden: Mapping[str, Any],
        modalities: Sequence[str],
        samples: int,
    ) -> dict[str, Any]:
        coalitions = proper_coalitions(modalities)
        stacked = {
            key: self._repeated(key, x, samples, len(coalitions))
            for key, x in inputs.items()
            if key not in modalities
        }
        for m in modalities:
            rows = [inputs[m] if m in shown else hidden[m] for shown in coalitions]
            stacked[m] = stack_samples(rows, samples, self.batch_axes.get(m, 0), m, self._single)
        return stacked

    def _repeated(self, key: str, x: Any, samples: int, times: int) -> Any:
        """An input that is no modality, once for each coalition where it holds samples.

        A tensor that once had another length than the batch holds none, whatever length later batches have.
        """
        axis, leaves = self.batch_axes.get(key, 0), 0

        def repeat(leaf: Tensor) -> Tensor:
            nonlocal leaves
            leaves += 1
            if leaf.dim() <= axis or leaf.shape[axis] != samples:
                self._constant.add((key, leaves))
            if (key, leaves) in self._constant:
                return leaf
            return torch.cat([leaf] * times, axis)

        return map_tensors(repeat, x)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """See `Strategy.trial`."""
        said = self._has_said_so
        try:
            yield
        finally:
            self._has_said_so = said

    def _say_once(self, reason: str) -> None:
        in_training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if self._has_said_so or not in_training:
            return
        self._has_said_so = True
        warnings.warn(
            f"the coalitions of a batch are evaluated one by one, which is right and takes longer: {reason}. Say so "
            "with coalitions='looped', or where the samples lie with batch_axis=",
            stacklevel=2,
        )
