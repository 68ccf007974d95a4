"""What every strategy returns, and what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.presence import restrict_to_present
from gradmod.coalitions.protocols import Output
from gradmod.functional import at_least_float32, shapley_values


@dataclass(frozen=True)
class Evaluation:
    """A model's full pass, and what each modality contributes to it.

    Attributes:
        output: what the model returned on all modalities, v(all).
        responses: [M, ..., K] mono-modal responses phi^m, at least float32; they sum to v(all).
    """

    output: Tensor | Output
    responses: Tensor


class Strategy(ABC):
    """A way to evaluate a model on its coalitions. The full pass comes first, in the model's own mode; then the masked
    passes, in eval mode."""

    name: str
    exact: bool = True

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


def responses_from_coalitions(full: Tensor, masked: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
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
    values = torch.stack([torch.zeros_like(full), *(logits.to(full.dtype) for logits in masked), full])
    return shapley_values(values if present is None else restrict_to_present(values, present))


def chunks_of_coalitions(stacked: Tensor, full: Tensor, coalitions: int) -> Sequence[Tensor]:
    """The logits of each of the coalitions whose samples are stacked on the batch axis.

    Raises:
        ValueError: the model's output changes its shape from coalition to coalition, or has no batch axis.
    """
    _expect_shape(stacked, (coalitions * len(full), *full.shape[1:]), full)
    return stacked.chunk(coalitions)


def _expect_shape(logits: Tensor, expected: Sequence[int], full: Tensor) -> None:
    if logits.shape != torch.Size(expected):
        raise ValueError(
            f"the model returned logits of shape {list(logits.shape)} with modalities hidden and {list(full.shape)} "
            f"on all modalities; expected {list(expected)}: the same for each sample, whatever is hidden"
        )
