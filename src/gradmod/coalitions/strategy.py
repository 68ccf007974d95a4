"""What every strategy returns, and what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import NetworkState, name_of
from gradmod.coalitions.masking import copy_containers, tensor_leaves
from gradmod.coalitions.outputs import replace_logits
from gradmod.coalitions.presence import restrict_to_present
from gradmod.functional import at_least_float32, shapley_values
from gradmod.protocols import logits_of


@dataclass(frozen=True)
class Evaluation:
    """A model's full pass, and what each modality contributes to it.

    Attributes:
        output: what the model returned on all modalities: logits, `Output`, or a kind of its own.
        logits: [B, ..., K] the logits in it, v(all).
        responses: [M, B, ..., K] mono-modal responses phi^m, at least float32; they sum to v(all).
    """

    output: Any
    logits: Tensor
    responses: Tensor

    def with_logits(self, modulated: Tensor) -> Any:
        """The model's output with other logits of the same value; losses in it that come from the logits follow."""
        return replace_logits(self.output, self.logits, modulated)


@dataclass(frozen=True)
class Habits:
    """What a network does in its forward that the masked passes must know of; `first_step` finds it out.

    Attributes:
        moves: names of buffers and parameters that a pass changes in place.
        writes_inputs: whether it changes the tensors that it is given.
        moves_more: whether it changes what is not looked at in every step: tensors that are neither, large arrays,
            what is in large containers.
    """

    moves: tuple[str, ...] = ()
    writes_inputs: bool = False
    moves_more: bool = False


class Strategy(ABC):
    """A way to evaluate a model on its coalitions.

    The full pass is the model's own call, in its own mode; then come the masked passes, in eval mode.

    Args:
        batch_axes: on which axis the samples of an input lie, by its key, and those of the output, under `logits`; 0
            where nothing is said.

    Attributes:
        habits: what is known of the network.
        noticed: what is to be said after the evaluation; empty for nothing.
    """

    name: str
    exact: bool = True

    def __init__(self, batch_axes: Mapping[str, int] | None = None) -> None:
        self.batch_axes = dict(batch_axes or {})
        self.habits = Habits()
        self.noticed = ""

    @abstractmethod
    def evaluate(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        modalities: Sequence[str],
        *,
        masked_gradient: bool = True,
        present: Tensor | None = None,
    ) -> Evaluation:
        """Evaluate `model`.

        Args:
            model: the network.
            inputs: the batch, by modality. Keys that are no modality are shown in every coalition.
            modalities: the players, in the order of the responses.
            masked_gradient: False to run the masked passes without gradient: the responses are then values only.
            present: [B, M] bool, where some samples lack a modality; in `inputs` those are hidden already. A sample's
                responses are then its shares among the modalities that it has, and 0 for the others.
        """

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Around evaluations that are a trial: what was said in them is said again."""
        yield

    def given(self, inputs: Any) -> Any:
        """`inputs` for one pass: in containers of its own, and copied where the network writes into them."""
        return copy_containers(inputs, with_tensors=self.habits.writes_inputs)

    def full_pass(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        recording: AbstractContextManager[Any] | None = None,
    ) -> tuple[Any, Tensor, NetworkState | None]:
        """What the model returns on all modalities, the logits in it, and the model's state before it.

        Args:
            model: the network.
            inputs: the batch.
            recording: entered around the model's call alone, so that it is no part of the state.

        Raises:
            RuntimeError: it wrote into the tensors of `inputs`, and that was not known.
        """
        if torch.compiler.is_compiling():
            with recording or nullcontext():
                output = model(self.given(inputs))
            return output, logits_of(model, output), None
        before = NetworkState(model, self.habits.moves, everything=self.habits.moves_more)
        versions = [
            (leaf, leaf._version) for leaf in tensor_leaves(inputs) if not leaf.is_inference()
        ]
        with recording or nullcontext():
            output = model(self.given(inputs))
        for leaf, version in versions:
            if leaf._version != version:
                raise RuntimeError(
                    f"the network's forward changed an input of shape {list(leaf.shape)} in place, so that the masked "
                    "passes would see it changed already. Leave check=True, which finds that out in the first step, or "
                    "let the network compute out of place (x = x * 2 in place of x.mul_(2))"
                )
        late = before.moved()
        if late:
            self._learn(model, late)
        return output, logits_of(model, output), before

    def _learn(self, model: nn.Module, moved: Sequence[Tensor]) -> None:
        """Keep copies, from the next step on, of what a full pass was not known to change in place."""
        names = {
            id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())
        }
        known = tuple(names[id(tensor)] for tensor in moved if id(tensor) in names)
        more = self.habits.moves_more or len(known) < len(moved)
        self.habits = replace(self.habits, moves=(*self.habits.moves, *known), moves_more=more)
        said = ", ".join(dict.fromkeys(name_of(model, tensor) for tensor in moved[:5]))
        self.noticed = (
            f"the network's forward changed {said} in place, which it did not do when it was looked at. In this step "
            "the masked passes saw the new values; from the next on they begin, as the full pass does, with the old "
            "ones. Nothing else is to be done; model.check_network(inputs) before training looks at another batch"
        )


def responses_from_coalitions(
    full: Tensor, masked: Sequence[Tensor], present: Tensor | None = None
) -> Tensor:
    """Shapley values of v(all) = `full` and the logits of the proper coalitions, v(empty) = 0.

    Args:
        full: [..., K].
        masked: logits of the proper coalitions in the order of `masking.proper_coalitions`, each like `full`.
        present: [B, M] bool, where some samples lack a modality.

    Returns:
        [M, ..., K].

    Raises:
        ValueError: the model's output changes its shape from coalition to coalition.
    """
    for logits in masked:
        _expect_shape(logits, full.shape, full)
    full = at_least_float32(full)
    values = torch.stack(
        [torch.zeros_like(full), *(logits.to(full.dtype) for logits in masked), full]
    )
    return shapley_values(values if present is None else restrict_to_present(values, present))


def split_coalitions(stacked: Tensor, full: Tensor, coalitions: int, axis: int) -> Sequence[Tensor]:
    """The logits of each of the coalitions whose samples are stacked on the batch axis.

    Raises:
        ValueError: the model's output changes its shape from coalition to coalition, or has no batch axis.
    """
    expected = list(full.shape)
    expected[axis] *= coalitions
    _expect_shape(stacked, expected, full)
    return stacked.chunk(coalitions, axis)


def _expect_shape(logits: Tensor, expected: Sequence[int], full: Tensor) -> None:
    if logits.shape != torch.Size(expected):
        raise ValueError(
            f"the model returned logits of shape {list(logits.shape)} with modalities hidden and {list(full.shape)} "
            f"on all modalities; expected {list(expected)}: the same for each sample, whatever is hidden. Where "
            "samples do not lie on the first axis, say so with batch_axis=; coalitions='looped' takes any network"
        )
