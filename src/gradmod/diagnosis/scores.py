"""Any metric as a score of a whole split: higher is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradmod.metrics.auroc import auroc
from gradmod.tasks import LOWER_IS_BETTER, Task

Metric = Callable[[Tensor, Tensor], Any]
"""(logits [N, ..., K], target [N, ...]) -> a number over all samples."""


@dataclass(frozen=True)
class Score:
    """A metric, its sign turned where lower is better.

    Attributes:
        name: in records.
        measure: gives the metric itself.
        lower_is_better: whether the score is its negative.
        by_name: whether it is the task's own metric of that name, and not a function of the user's.
    """

    name: str
    measure: Metric
    lower_is_better: bool = False
    by_name: bool = False

    def __call__(self, logits: Tensor, target: Tensor) -> float:
        """Score of logits [N, ..., K] against target [N, ...].

        Raises:
            TypeError: a metric of the user's own gave something that is not one number.
        """
        return self.signed(self._number(logits, target))

    def signed(self, value: float) -> float:
        """A value of the metric, as a score."""
        return 0.0 - value if self.lower_is_better else value

    def _number(self, logits: Tensor, target: Tensor) -> float:
        value = self.measure(logits, target)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = f" of shape {list(value.shape)}" if isinstance(value, Tensor) else ""
            raise TypeError(
                f"metric {self.name!r} gave {type(value).__name__}{shape}; expected one number over all samples"
            ) from None


def score_of(
    task: Task, metric: str | Metric | None = None, lower_is_better: bool | None = None
) -> Score:
    """The score that a metric stands for.

    Args:
        task: what the targets are.
        metric: one of those that the task reports, or `auroc` (for classes and labels); or a function (logits, target)
            that gives a number; None: the task's metric that is a mean over samples.
        lower_is_better: of the metric; None: of one by name known, of a function what its attribute
            `higher_is_better` (torchmetrics) says, else False.

    Raises:
        TypeError: a metric that is neither a name nor a function.
    """
    metric = task.sample_metric if metric is None else metric
    if isinstance(metric, str):
        name = metric
        lower = name in LOWER_IS_BETTER or (name == task.headline and task.lower_is_better)

        def measure(logits: Tensor, target: Tensor) -> Any:
            return _by_name(task, name, logits, target)

    elif callable(metric):
        name, own = _name_of(metric), metric
        lower = getattr(metric, "higher_is_better", None) is False

        def measure(logits: Tensor, target: Tensor) -> Any:
            # Copies: what a function writes into them must not reach the next one.
            return own(logits.clone(), target.clone())

    else:
        raise TypeError(
            f"metric is {metric!r}; expected a name, or a function (logits, target) that gives a number"
        )
    return Score(
        name,
        measure,
        lower if lower_is_better is None else lower_is_better,
        isinstance(metric, str),
    )


def _by_name(task: Task, name: str, logits: Tensor, target: Tensor) -> Any:
    if name == "auroc":
        ranking = task.ranking(logits, target)
        if ranking is not None:
            return auroc(*ranking)
    figures = task.figures(logits, target)
    if name not in figures:
        known = [*figures, *([] if task.ranking(logits, target) is None else ["auroc"])]
        raise ValueError(
            f"metric is {name!r}; expected one of {', '.join(known)}, or a function (logits, target) that gives a "
            "number"
        )
    return figures[name]


def _name_of(metric: Any) -> str:
    inner = getattr(metric, "func", metric)  # of functools.partial
    name = str(getattr(inner, "__name__", type(inner).__name__))
    return "metric" if name == "<lambda>" else name
