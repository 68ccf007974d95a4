"""Plots of a run and of several, from their records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from gradmod.reporting.comparison import RunRecord
from gradmod.reporting.records import Metrics, read_metrics
from gradmod.reporting.style import METRIC_TITLES, MODEL_COLOUR, PALETTE, RC, SHARES, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curves(folder: Path) -> Path:
    """Draw headline metric and coefficients over the epochs of the run in `folder`; write and return its curves.svg.

    Raises:
        CheckpointError: the run's metrics cannot be read.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        figure = curves(read_metrics(folder / "metrics.jsonl"))
        path = folder / "curves.svg"
        figure.savefig(path, metadata={"Date": None})
    return path


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
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def _headlines(axes: Axes, metrics: Metrics) -> None:
    metric = metrics.headline
    epochs = [epoch["epoch"] for epoch in metrics.epochs]
    blocks: list[dict[str, Any]] = [epoch["validation"] for epoch in metrics.epochs]
    marker = "o" if len(epochs) == 1 else None
    axes.plot(epochs, [b[metric] for b in blocks], color=MODEL_COLOUR, linewidth=1.8, label="model", marker=marker)
    modalities = metrics.modalities
    if len(modalities) > 1:
        for modality, colour in colours(modalities).items():
            values = [block["responses"][modality][metric] for block in blocks]
            axes.plot(epochs, values, color=colour, linewidth=1.2, label=f"{modality} response", marker=marker)
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


def plot_comparison(runs: Sequence[RunRecord], path: Path) -> None:
    """Draw the validation headline over the epochs, a line for each method and a panel for each fusion.

    Args:
        runs: finished runs; those of a single modality are left out.
        path: the SVG to write.

    Raises:
        CheckpointError: a run's metrics cannot be read.
    """
    import matplotlib

    with matplotlib.rc_context(RC):
        _comparison([run for run in runs if not run.modality]).savefig(path, metadata={"Date": None})


def _comparison(runs: Sequence[RunRecord]) -> Figure:
    from matplotlib.figure import Figure

    fusions = list(dict.fromkeys(run.fusion for run in runs))
    rows = list(dict.fromkeys(run.row for run in runs))
    figure = Figure(figsize=(4.2 * len(fusions), 3.2), layout="constrained")
    panels = figure.subplots(1, len(fusions), sharey=True, squeeze=False)[0]
    metric = "accuracy"
    for axes, fusion in zip(panels, fusions, strict=True):
        for number, row in enumerate(rows):
            logs = [
                read_metrics(run.folder / "metrics.jsonl") for run in runs if (run.fusion, run.row) == (fusion, row)
            ]
            if not logs:
                continue
            metric = logs[0].headline
            # Runs that ended early have fewer epochs: beyond the shortest there is no mean over seeds.
            length = min(len(log.epochs) for log in logs)
            values = [[float(epoch["validation"][metric]) for epoch in log.epochs[:length]] for log in logs]
            columns = list(zip(*values, strict=True))
            mean = [fmean(column) for column in columns]
            # Joint training is dashed and on top: a method that does not differ from it shows as both.
            style = ("-", ":", "-.")[number // len(PALETTE) % 3]
            look: dict[str, Any] = {"color": PALETTE[number % len(PALETTE)], "zorder": 2, "linestyle": style}
            if row == "joint":
                look = {"color": MODEL_COLOUR, "zorder": 3, "linestyle": (0, (4, 2))}
            epochs = range(1, length + 1)
            axes.plot(epochs, mean, linewidth=1.4, label=row, **look)
            if len(logs) > 1:
                off = [stdev(column) for column in columns]
                low, high = (
                    [m - d for m, d in zip(mean, off, strict=True)],
                    [m + d for m, d in zip(mean, off, strict=True)],
                )
                axes.fill_between(epochs, low, high, color=look["color"], alpha=0.12, linewidth=0)
        axes.set_title(f"{fusion} fusion", fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(f"validation {METRIC_TITLES.get(metric, metric)}")
    panels[-1].legend(fontsize=8)
    return figure
