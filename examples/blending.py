"""A method of one's own: G-Blending with constant weights, and the weights from runs of each modality alone.

CONTRIBUTING.md walks through how it becomes `gradmod train --method blending`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gradmod.experiments.runs.records import read_metrics
from gradmod.methods import Batch, Method, Need, StepRecord, View


class Blending(Method):
    """Gradient blending with constant weights (Wang, Tran and Feiszli, CVPR 2020).

    The loss is that of the logits, plus each modality's own loss (of its response) times its weight.

    Args:
        modalities: names of the inputs.
        weights: by modality, >= 0; those left out have 1 / M.

    Raises:
        ValueError: a weight below 0, or of no modality.
    """

    needs = frozenset({Need.COALITIONS})
    needs_training_step = True

    def __init__(
        self, modalities: Sequence[str], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(modalities)
        given = dict(weights or {})
        if not set(given) <= set(self.modalities) or not all(
            weight >= 0 for weight in given.values()
        ):
            raise ValueError(
                f"weights is {given}; expected numbers >= 0 of modalities {self.modalities}"
            )
        values = [given.get(m, 1 / len(self.modalities)) for m in self.modalities]
        self.register_buffer("weights", torch.tensor(values, dtype=torch.float64))

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's output, with the modalities' weighted losses."""
        evaluation = view.coalitions(batch)
        losses = torch.stack(
            [view.task.loss(response, batch.target) for response in evaluation.responses]
        )
        self.last_step = StepRecord(self.weights, scores=losses.detach())
        blended = (self.weights.to(losses.dtype) * losses).sum()
        return view.with_losses(evaluation.output, {"blended": blended})


def offline_weights(runs: Mapping[str, Path]) -> dict[str, float]:
    """Weights from a finished run of each modality alone: G / O^2, scaled to the sum 1 (section 3 of the paper).

    G is how much the validation loss fell over the run, O how much further it is from the training loss than it was.
    """
    raw = {}
    for modality, folder in runs.items():
        epochs = read_metrics(Path(folder) / "metrics.jsonl").epochs
        gaps = [epoch["validation"]["loss"] - epoch["train_loss"] for epoch in epochs]
        generalised = epochs[0]["validation"]["loss"] - epochs[-1]["validation"]["loss"]
        raw[modality] = max(generalised, 0.0) / max(gaps[-1] - gaps[0], 1e-6) ** 2
    total = sum(raw.values())
    return {
        modality: value / total if total > 0 else 1 / len(raw) for modality, value in raw.items()
    }
