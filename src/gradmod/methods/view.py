"""What a method sees of one batch and of the model, in a training forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gradmod.coalitions.alone import DisentangledPass, disentangled_pass
from gradmod.coalitions.features import (
    Change,
    FeaturesPass,
    UniModalPass,
    features_pass,
    uni_modal_pass,
)
from gradmod.coalitions.strategy import Evaluation, Strategy
from gradmod.methods.heads import UniModalHeads
from gradmod.protocols import Output, logits_of, read_output
from gradmod.tasks import Task


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: by modality, each [B, ...] or what the network takes in its place.
        target: [B, ...].
        present: [B, M] bool, which sample has which modality, where some samples lack one: those are hidden in
            `inputs` already. None: every sample has every modality.
    """

    inputs: Mapping[str, Any]
    target: Tensor
    present: Tensor | None = None


class View:
    """The model, its task and its strategy, as a method's `forward` sees them; every call is one full pass.

    Args:
        model: the network.
        strategy: how its coalitions are evaluated.
        task: what the targets are.
        modalities: their order in what is returned.
        heads: uni-modal heads that the wrapper owns; None where the network has its own, or the method needs none.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Strategy,
        task: Task,
        modalities: Sequence[str],
        heads: UniModalHeads | None = None,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.task = task
        self.modalities = tuple(modalities)
        self.heads = heads

    def output(self, batch: Batch) -> Any:
        """What the network returns on all modalities."""
        return self.model(batch.inputs)

    def features(
        self, batch: Batch, gradient: bool = True, change: Change | None = None
    ) -> FeaturesPass:
        """The network's output, and each modality's feature in that same pass.

        Args:
            batch: the batch.
            gradient: False: the features are values only.
            change: called with a modality and its feature; what it returns is what the fusion sees. None: the feature.
        """
        return features_pass(
            self.model, batch.inputs, self.modalities, gradient=gradient, change=change
        )

    def logits_of(self, output: Any) -> Tensor:
        """[B, ..., K] the logits in what the network returned."""
        return logits_of(self.model, output)

    def with_losses(self, output: Any, losses: Mapping[str, Tensor]) -> Output:
        """Logits and losses of what the network returned, and more losses by name."""
        own = read_output(self.model, output)
        return Output(own.logits, {**own.losses, **losses})

    def coalitions(self, batch: Batch, masked_gradient: bool = True) -> Evaluation:
        """The network's output and its mono-modal responses.

        Args:
            batch: the batch.
            masked_gradient: False: the responses are values only, and their passes cost no gradient.
        """
        return self.strategy.evaluate(
            self.model,
            batch.inputs,
            self.modalities,
            masked_gradient=masked_gradient,
            present=batch.present,
        )

    def disentangled(self, batch: Batch, *, zero: bool = True) -> DisentangledPass:
        """The network's output on features without gradient, and what it says of each modality alone, held fixed.

        Args:
            batch: the batch.
            zero: alone means that the features of the others are zeros; else that their inputs are masked.

        Returns:
            The output, whose loss reaches fusion and head alone; and logits [M, B, ..., K], each of whose losses
            reaches the encoder of its modality alone.
        """
        return disentangled_pass(self.model, batch.inputs, self.modalities, zero=zero)

    def uni_modal(self, batch: Batch, gradient: bool = True) -> UniModalPass:
        """The network's output, and what a head says of each modality's own feature in that same pass.

        Args:
            batch: the batch.
            gradient: False: the heads' logits are values only.

        Returns:
            The output and logits [M, B, ..., K]; from the network's own heads, else from the wrapper's.
        """
        return uni_modal_pass(
            self.model, batch.inputs, self.modalities, self.heads, gradient=gradient
        )
