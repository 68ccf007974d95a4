"""What was measured every few epochs: each modality's contribution, and the competition strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gradmod.experiments.reporting.plots.figures import whole_ticks
from gradmod.experiments.reporting.style import MODEL_COLOUR, colours
from gradmod.experiments.runs.records import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def has_shape(metrics: Metrics) -> bool:
    """Whether SHAPE scores were measured."""
    return any("shape" in epoch for epoch in metrics.epochs)


def has_competition(metrics: Metrics) -> bool:
    """Whether competition strength was measured."""
    return any("competition" in epoch for epoch in metrics.epochs)


def shape_over_epochs(metrics: Metrics) -> Figure:
    """Figure: each modality's Shapley value and the cooperation, in the unit of the score."""
    figure, axes = _over_epochs(metrics, "shape", lambda found: found["values"])
    epochs = [epoch for epoch in metrics.epochs if "shape" in epoch]
    values = [float(epoch["shape"]["cooperation"]) for epoch in epochs]
    numbers = [epoch["epoch"] for epoch in epochs]
    axes.plot(
        numbers, values, color=MODEL_COLOUR, linewidth=1.0, linestyle="--", label="cooperation"
    )
    axes.axhline(0, color=MODEL_COLOUR, linewidth=0.8, linestyle=":")
    axes.set_ylabel("contribution (validation)")
    axes.legend(ncols=3, fontsize=8)
    return figure


def competition_over_epochs(metrics: Metrics) -> Figure:
    """Figure: each modality's competition strength."""
    figure, axes = _over_epochs(metrics, "competition", lambda found: found)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("competition strength $d^m$")
    axes.legend(ncols=3, fontsize=8)
    return figure


def _over_epochs(
    metrics: Metrics, name: str, by_modality: Callable[[dict[str, Any]], Mapping[str, Any]]
) -> tuple[Figure, Axes]:
    """A line for each modality over the epochs in which `name` was measured."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axes = figure.subplots()
    epochs = [epoch for epoch in metrics.epochs if name in epoch]
    for modality, colour in colours(metrics.modalities).items():
        values = [float(by_modality(epoch[name])[modality]) for epoch in epochs]
        marker = "o" if len(epochs) == 1 else None
        axes.plot(
            [e["epoch"] for e in epochs],
            values,
            color=colour,
            linewidth=1.4,
            label=modality,
            marker=marker,
        )
    axes.set_xlabel("epoch")
    whole_ticks(axes)
    return figure, axes
