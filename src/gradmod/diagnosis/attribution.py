"""SHAPE scores of a trained model, with intervals, from what it says on every coalition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.diagnosis.predictions import CoalitionPredictions as CoalitionPredictions
from gradmod.diagnosis.predictions import coalition_name
from gradmod.diagnosis.predictions import predict_coalitions as predict_coalitions
from gradmod.diagnosis.scores import Metric, score_of
from gradmod.functional import shapley_values
from gradmod.metrics.shape import ShapeScores, cooperation, pair_interaction, shape_scores
from gradmod.tasks import Task

Interval = tuple[float, float]


@dataclass(frozen=True)
class Attribution:
    """SHAPE scores of a model on a split.

    Attributes:
        modalities: the players.
        metric: the score.
        samples: size of the split.
        game: by coalition (its modalities joined by +, "nothing" for none) its score; that of nothing is the best
            constant answer's.
        scores: SHAPE scores.
        contribution_intervals: 95 % bootstrap interval over samples of each modality's share of the score.
        value_intervals: that of its Shapley value.
        cooperation_interval: that of the cooperation.
        pair_intervals: that of the interaction of each pair.
    """

    modalities: tuple[str, ...]
    metric: str
    samples: int
    game: dict[str, float]
    scores: ShapeScores
    contribution_intervals: dict[str, Interval] = field(default_factory=dict)
    value_intervals: dict[str, Interval] = field(default_factory=dict)
    cooperation_interval: Interval | None = None
    pair_intervals: dict[tuple[str, str], Interval] = field(default_factory=dict)

    def score(self, shown: Sequence[str]) -> float:
        """Score of the model when it is shown these modalities, and no other."""
        return self.game[coalition_name(shown)]

    @property
    def whole(self) -> float:
        """Score of the model when it is shown all modalities."""
        return self.score(self.modalities)

    def as_record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "metric": self.metric,
            "samples": self.samples,
            "game": self.game,
            "values": self.scores.values,
            "contributions": self.scores.contributions,
            "cooperation": self.scores.cooperation,
            "pairs": {"+".join(pair): value for pair, value in self.scores.pairs.items()},
            "intervals": {
                "contributions": self.contribution_intervals,
                "values": self.value_intervals,
                "cooperation": self.cooperation_interval,
                "pairs": {
                    "+".join(pair): interval for pair, interval in self.pair_intervals.items()
                },
            },
        }


def attribute(
    predictions: CoalitionPredictions,
    task: Task,
    metric: str | Metric | None = None,
    *,
    lower_is_better: bool | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Attribution:
    """SHAPE scores of a model, with bootstrap intervals over samples.

    Args:
        predictions: what it says on every coalition.
        task: what the targets are.
        metric: the score: one of the metrics that the task reports, `auroc` (for classes and labels), or a function
            (logits [N, ..., K], target [N, ...]) that gives a number over all samples; None: the task's metric that is
            a mean over samples (accuracy; for numbers mae).
        lower_is_better: whether the score is the metric's negative. None: known of a metric by name; of a function
            what its attribute `higher_is_better` says (torchmetrics), else False.
        replicates: of the bootstrap; 0: no intervals.
        seed: of its draws.

    Raises:
        ValueError: the task has no such metric, or it is not finite; logits that are not finite; a target that does not
            go with them; replicates below 0.
        TypeError: a metric that is neither a name nor a function, or gives no number.
    """
    if replicates < 0:
        raise ValueError(f"replicates is {replicates}; expected a number >= 0 (0: no intervals)")
    score = score_of(task, metric, lower_is_better)
    names = predictions.modalities
    if not len(predictions.target):
        raise ValueError("there is no sample to score: every batch was empty")
    predictions.check(task)
    game = predictions.game(task, score)
    found = Attribution(
        names,
        score.name,
        len(predictions.target),
        {
            coalition_name([m for bit, m in enumerate(names) if code >> bit & 1]): float(value)
            for code, value in enumerate(game)
        },
        shape_scores(game, names),
    )
    bad = [coalition for coalition, value in found.game.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"{score.name} is {found.game[bad[0]]} over the {found.samples} samples when the model is shown {bad[0]}; "
            "expected a finite number: take another metric, or more samples"
        )
    if not replicates:
        return found
    games = predictions.resampled_games(task, score, replicates, seed)
    games = games[:, games.isfinite().all(0)]  # a draw of samples of one class, say, has no AUROC
    values = shapley_values(games)
    shares = values / games[-1].where(games[-1] > 0, torch.nan)
    positions = {m: number for number, m in enumerate(names)}
    return replace(
        found,
        contribution_intervals={m: _interval(shares[number]) for m, number in positions.items()},
        value_intervals={m: _interval(values[number]) for m, number in positions.items()},
        cooperation_interval=_interval(cooperation(games)),
        pair_intervals={
            (a, b): _interval(pair_interaction(games, positions[a], positions[b]))
            for a, b in found.scores.pairs
        },
    )


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; then every module's own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _interval(draws: Tensor) -> Interval:
    if not draws.numel():
        return math.nan, math.nan
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high
