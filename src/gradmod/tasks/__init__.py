"""What a target is: its loss, how a response is scored against it, its metrics, and what it must look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradmod.tasks.base import LOWER_IS_BETTER, Task
from gradmod.tasks.classification import Classification
from gradmod.tasks.multilabel import MultiLabel
from gradmod.tasks.regression import Regression

__all__ = ["LOWER_IS_BETTER", "TASKS", "Classification", "MultiLabel", "Regression", "Task", "task_of_record"]

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (Classification, MultiLabel, Regression)}
"""By their names in records."""


def task_of_record(record: Mapping[str, Any]) -> Task:
    """The task that a run was recorded with: `task`, its name, and `task_settings`, what it was made with.

    Raises:
        ValueError: a task of a user's own, of which a record holds no code.
    """
    name = record["task"]
    if name not in TASKS:
        raise ValueError(
            f"the task {name!r} is none of {', '.join(TASKS)}; a task of one's own cannot be made from a run's records"
        )
    return TASKS[name](**record.get("task_settings", {}))
