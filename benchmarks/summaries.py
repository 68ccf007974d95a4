"""Several seeds as one line of a table: what the scripts beside this one share."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradmod.tasks import Classification


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds."""
    tests = [run["splits"]["test"] for run in runs]
    figures = {name: spread([test[name] for test in tests]) for name in ("accuracy", "macro_f1")}
    responses = {
        m: spread([test["responses"][m]["accuracy"] for test in tests])
        for m in tests[0]["responses"]
        if len(tests[0]["responses"]) > 1
    }
    coefficients = [run["coefficients"] for run in runs if "coefficients" in run]
    return figures | {
        "responses": responses,
        "best_epochs": [run["best_epoch"] for run in runs],
        "train_seconds": statistics.median(run["train_seconds"] for run in runs),
        "coefficients": {
            m: [min(c[m]["min"] for c in coefficients), max(c[m]["max"] for c in coefficients)]
            for m in responses
        }
        if coefficients
        else {},
    }


def ensemble(first: list[Path], second: list[Path]) -> dict[str, Any]:
    """Mean of the softmax of two models, seed by seed, on the test split."""
    metrics = []
    for pair in zip(first, second, strict=True):
        loaded = []
        for folder in pair:
            with np.load(folder / "predictions" / "test.npz") as file:
                loaded.append((torch.from_numpy(file["logits"]), torch.from_numpy(file["target"])))
        probabilities = torch.stack([logits.softmax(1) for logits, _ in loaded]).mean(0)
        metrics.append(Classification().metrics(probabilities.log(), loaded[0][1]))
    return {
        name: spread([float(m[name]) for m in metrics]) for name in ("accuracy", "macro_f1")
    } | {"responses": {}}


def spread(values: list[float]) -> list[float]:
    """Mean and standard deviation."""
    return [statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0]


def cell(figures: list[float] | None) -> str:
    """Mean and standard deviation, for a table; nothing where there are none."""
    return "" if figures is None else f"{figures[0]:.3f} ± {figures[1]:.3f}"
