"""Accuracy and coefficients of a run over its epochs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradmod.experiments.reporting.plots.figures import save_figure, whole_ticks
from gradmod.experiments.reporting.style import METRIC_TITLES, MODEL_COLOUR, SHARES, colours
from gradmod.experiments.runs.names import METRICS
from gradmod.experiments.runs.records import Metrics, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curves(folder: Path) -> Path:
    """Draw the run in `folder`; write its curves.svg and curves.png and return the first.

    Raises:
        CheckpointError: the run's metrics cannot be read.
    """
    return save_figure(lambda: curves(read_metrics(folder / METRICS)), folder / "curves.svg")


def curves(metrics: Metrics) -> Figure:
    """Figure: headline metric of the model and of each response; below it the coefficients, if there are any."""
    from matplotlib.figure import Figure

    modulated = any("coefficients" in epoch for epoch in metrics.epochs)
    figure = Figure(figsize=(5.0, 4.6 if modulated else 2.6), layout="constrained")
    panels = figure.subplots(2 if modulated else 1, 1, sharex=True, squeeze=False)[:, 0]
    _headlines(panels[0], metrics)
    if modulated:
        _coefficients(panels[1], metrics)
    panels[-1].set_xlabel("epoch")
    whole_ticks(panels[-1])
    return figure


def _headlines(axes: Axes, metrics: Metrics) -> None:
    metric = metrics.headline
    epochs = [epoch["epoch"] for epoch in metrics.epochs]
    blocks: list[dict[str, Any]] = [epoch["validation"] for epoch in metrics.epochs]
    marker = "o" if len(epochs) == 1 else None
    axes.plot(
        epochs,
        [b[metric] for b in blocks],
        color=MODEL_COLOUR,
        linewidth=1.8,
        label="model",
        marker=marker,
    )
    modalities = metrics.modalities
    if len(modalities) > 1:
        for modality, colour in colours(modalities).items():
            values = [block["responses"][modality][metric] for block in blocks]
            axes.plot(
                epochs,
                values,
                color=colour,
                linewidth=1.2,
                label=f"{modality} response",
                marker=marker,
            )
    best = [epoch for epoch in metrics.epochs if epoch.get("best")]
    if best:
        axes.plot(
            best[-1]["epoch"],
            best[-1]["validation"][metric],
            "o",
            color=MODEL_COLOUR,
            markersize=4,
            label="best epoch",
        )
    axes.set_ylabel(f"validation {METRIC_TITLES.get(metric, metric)}")
    axes.set_ylim(0, 1.02 if metric in SHARES else None)
    axes.legend(ncols=2, fontsize=8, loc="lower right" if metric in SHARES else "best")


def _coefficients(axes: Axes, metrics: Metrics) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    shown = [epoch for epoch in metrics.epochs if "coefficients" in epoch]
    epochs = [epoch["epoch"] for epoch in shown]
    smallest = 1e-6  # below it a gradient is as good as stopped; keeps the axis readable

    def values(modality: str, name: str) -> list[float]:
        return [max(float(epoch["coefficients"][modality][name]), smallest) for epoch in shown]

    for modality, colour in colours(metrics.modalities).items():
        low, high = values(modality, "p05"), values(modality, "p95")
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(epochs, values(modality, "median"), color=colour, linewidth=1.4, label=modality)
    axes.axhline(1, color=MODEL_COLOUR, linewidth=0.8, linestyle=":")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("coefficient $\\kappa$\n(median, 5 to 95 % of steps)")
    axes.legend(ncols=3, fontsize=8)
