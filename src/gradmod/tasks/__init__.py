"""What a target is: its loss, how a response is scored against it, its metrics, and what it must look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradmod.tasks.base import LOWER_IS_BETTER, Task
from gradmod.tasks.classification import Classification
from gradmod.tasks.multilabel import MultiLabel
from gradmod.tasks.regression import Regression

__all__ = [
    "LOWER_IS_BETTER",
    "TASKS",
    "Classification",
    "MultiLabel",
    "RecordedTask",
    "Regression",
    "Task",
    "task_of_record",
]

TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Classification, MultiLabel, Regression)
}
"""By their names in records."""


class RecordedTask(Task):
    """A task of a user's own as a record knows it: what its headline is, but not its code."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Raise NotImplementedError: a record holds no code."""
        raise NotImplementedError(
            f"the task {self.name!r} is code of its user's own; a run's record does not hold it"
        )

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """Raise NotImplementedError, as `loss` does."""
        return self.loss(responses, target)


def task_of_record(record: Mapping[str, Any]) -> Task:
    """The task that a run was recorded with: `task`, its name, and `task_settings`, what it was made with.

    Returns:
        That task, made anew; for one of a user's own a `RecordedTask`.
    """
    name = str(record["task"])
    if name in TASKS:
        return TASKS[name](**record.get("task_settings", {}))
    task = RecordedTask()
    task.name, task.headline = name, str(record["headline"])
    task.lower_is_better = bool(record.get("lower_is_better", task.headline in LOWER_IS_BETTER))
    task.sample_metric = str(record.get("sample_metric", task.headline))
    return task
