"""What a trained model says on every coalition of a split, and SHAPE scores with intervals from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import map_tensors
from gradmod.coalitions.table import coalition_logits
from gradmod.functional import shapley_values
from gradmod.metrics.shape import ShapeScores, cooperation, pair_interaction, shape_scores
from gradmod.tasks import LOWER_IS_BETTER, Task

Interval = tuple[float, float]


@dataclass(frozen=True)
class CoalitionPredictions:
    """Logits of every coalition on a split.

    Attributes:
        modalities: the players.
        logits: [2^M, N, ..., K]; row i shows the modalities whose bits are set in i, row 0 none.
        target: [N, ...].
    """

    modalities: tuple[str, ...]
    logits: Tensor
    target: Tensor

    def game(self, task: Task, metric: str, rows: Tensor | None = None) -> Tensor:
        """[2^M] float64 score of every coalition; row 0 is that of the best constant answer.

        Args:
            task: what the targets are.
            metric: one of those that the task reports. Where lower is better (loss, mae) the score is its negative.
            rows: samples to take, with repetitions; None: all of them once.

        Raises:
            ValueError: the task has no such metric.
        """
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        target = self.target if rows is None else self.target[rows]
        scores = []
        for logits in self._with_constant(task):
            metrics = task.figures(logits if rows is None else logits[rows], target)
            if metric not in metrics:
                raise ValueError(f"metric is {metric!r}; expected one of {', '.join(metrics)}")
            scores.append(sign * float(metrics[metric]))
        return torch.tensor(scores, dtype=torch.float64)

    def resampled_games(self, task: Task, metric: str, replicates: int, seed: int) -> Tensor:
        """[2^M, replicates] the same for samples drawn with replacement."""
        generator = torch.Generator().manual_seed(seed)
        count = len(self.target)
        draws = (torch.randint(count, (count,), generator=generator) for _ in range(replicates))
        if metric != task.sample_metric:
            return torch.stack([self.game(task, metric, rows) for rows in draws], 1)
        # A mean over samples: their terms, weighted by how often each was drawn.
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        terms = torch.stack([task.per_sample(logits, self.target) for logits in self._with_constant(task)])
        return torch.stack([sign * terms @ rows.bincount(minlength=count).double() / count for rows in draws], 1)

    def _with_constant(self, task: Task) -> list[Tensor]:
        return [task.constant_logits(self.logits[0], self.target), *self.logits[1:]]


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
                "pairs": {"+".join(pair): interval for pair, interval in self.pair_intervals.items()},
            },
        }


def predict_coalitions(
    model: nn.Module, loader: Iterable[tuple[Mapping[str, Any], Tensor]], modalities: Sequence[str], device: Any = None
) -> CoalitionPredictions:
    """A trained model on every coalition of every sample, in one pass over the data, in eval mode.

    Args:
        model: the network, called with a dict of inputs.
        loader: batches (inputs by modality, target).
        modalities: the players.
        device: where the batches are moved to; None: they stay where they are.

    Raises:
        ValueError: no batch; inputs without one of the modalities.
    """
    logits, targets = [], []
    with in_eval_mode(model):
        for inputs, target in loader:
            shown = inputs if device is None else map_tensors(lambda leaf: leaf.to(device), inputs)
            logits.append(coalition_logits(model, shown, modalities).float().cpu())
            targets.append(target.cpu())
    if not targets:
        raise ValueError("the loader gave no batch; expected (inputs, target) pairs")
    return CoalitionPredictions(tuple(modalities), torch.cat(logits, 1), torch.cat(targets))


def attribute(
    predictions: CoalitionPredictions, task: Task, metric: str | None = None, *, replicates: int = 1000, seed: int = 0
) -> Attribution:
    """SHAPE scores of a model, with bootstrap intervals over samples.

    Args:
        predictions: what it says on every coalition.
        task: what the targets are.
        metric: the score; None: the task's metric that is a mean over samples (accuracy; for numbers mae).
        replicates: of the bootstrap; 0: no intervals.
        seed: of its draws.

    Raises:
        ValueError: the task has no such metric.
    """
    metric = task.sample_metric if metric is None else metric
    names = predictions.modalities
    game = predictions.game(task, metric)
    found = Attribution(
        names,
        metric,
        len(predictions.target),
        {
            coalition_name([m for bit, m in enumerate(names) if code >> bit & 1]): float(value)
            for code, value in enumerate(game)
        },
        shape_scores(game, names),
    )
    if not replicates:
        return found
    games = predictions.resampled_games(task, metric, replicates, seed)
    values = shapley_values(games)
    shares = values / games[-1].where(games[-1] > 0, torch.nan)
    positions = {m: number for number, m in enumerate(names)}
    return Attribution(
        found.modalities,
        found.metric,
        found.samples,
        found.game,
        found.scores,
        {m: _interval(shares[number]) for m, number in positions.items()},
        {m: _interval(values[number]) for m, number in positions.items()},
        _interval(cooperation(games)),
        {(a, b): _interval(pair_interaction(games, positions[a], positions[b])) for a, b in found.scores.pairs},
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


def coalition_name(shown: Sequence[str]) -> str:
    """Name of a coalition by its members, which stand in the order of the modalities."""
    return "+".join(shown) or "nothing"


def _interval(draws: Tensor) -> Interval:
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return low, high
