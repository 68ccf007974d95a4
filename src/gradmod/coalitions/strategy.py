"""What every strategy returns, and what it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    ) -> Evaluation:
        """Evaluate `model`.

        Args:
            model: the network.
            inputs: the batch, by modality. Keys that are no modality are shown in every coalition.
            modalities: the players, in the order of the responses.
            masked_gradient: False to run the masked passes without gradient: the responses are then values only.
        """


def responses_from_coalitions(full: Tensor, masked: Sequence[Tensor]) -> Tensor:
    """Shapley values of v(all) = `full` and the logits of the proper coalitions, v(empty) = 0.

    Args:
        full: [..., K].
        masked: logits of the proper coalitions in the order of `masking.proper_coalitions`, each like `full`.

    Returns:
        [M, ..., K].

    Raises:
        ValueError: the model's output changes its shape from coalition to coalition.
    """
    for logits in masked:
        if logits.shape != full.shape:
            raise ValueError(
                f"the model returned logits of shape {list(logits.shape)} on a coalition and {list(full.shape)} on "
                "all modalities; expected the same shape on each"
            )
    full = at_least_float32(full)
    return shapley_values(torch.stack([torch.zeros_like(full), *(logits.to(full.dtype) for logits in masked), full]))
