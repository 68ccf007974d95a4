"""Methods beside each other: validation over the epochs, and the test figures with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from gradmod.experiments.reporting.comparison import BASELINE, ComparisonTable, RunRecord
from gradmod.experiments.reporting.plots.figures import save_figure, whole_ticks
from gradmod.experiments.reporting.style import (
    METRIC_TITLES,
    MODEL_COLOUR,
    PALETTE,
    colours,
    network_title,
)
from gradmod.experiments.runs.names import METRICS
from gradmod.experiments.runs.records import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_comparison(runs: Sequence[RunRecord], table: ComparisonTable, folder: Path) -> None:
    """Write curves.svg (validation over epochs) and methods.svg (test figures) with their PNGs into `folder`.

    Raises:
        CheckpointError: a run's metrics cannot be read.
    """
    save_figure(lambda: comparison_curves(runs), folder / "curves.svg")
    save_figure(lambda: comparison_bars(table), folder / "methods.svg")


def comparison_bars(table: ComparisonTable) -> Figure:
    """Figure: each row's headline metric, mean and standard deviation over seeds, and those of its responses."""
    from matplotlib.figure import Figure

    fusions = list(dict.fromkeys(row.fusion for row in table.rows))
    tallest = max(sum(row.fusion == fusion for row in table.rows) for fusion in fusions)
    figure = Figure(figsize=(4.2 * len(fusions), 0.9 + 0.3 * tallest), layout="constrained")
    panels = figure.subplots(1, len(fusions), sharex=True, squeeze=False)[0]
    metric = table.headline
    for axes, fusion in zip(panels, fusions, strict=True):
        rows = [row for row in table.rows if row.fusion == fusion]
        for place, row in enumerate(rows):
            spread = row.metrics[metric]
            off = 0.0 if spread.deviation != spread.deviation else spread.deviation
            axes.errorbar(
                spread.mean, place, xerr=off, fmt="o", color=MODEL_COLOUR, markersize=4, capsize=2.5
            )
            for modality, colour in colours(table.modalities).items():
                if modality in row.responses:
                    axes.plot(
                        row.responses[modality].mean,
                        place,
                        "|",
                        color=colour,
                        markersize=9,
                        markeredgewidth=2,
                    )
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_title(network_title(fusion), fontsize=9)
        axes.set_xlabel(METRIC_TITLES.get(metric, metric))
    handles = [
        axes.plot([], [], "o", color=MODEL_COLOUR, markersize=4, label="model (mean, std)")[0]
    ]
    handles += [
        axes.plot(
            [], [], "|", color=colour, markersize=9, markeredgewidth=2, label=f"{modality} response"
        )[0]
        for modality, colour in colours(table.modalities).items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8
    )
    return figure


def comparison_curves(runs: Sequence[RunRecord]) -> Figure:
    """Figure: a line for each method, a panel for each fusion; runs of a single modality are left out."""
    from matplotlib.figure import Figure

    runs = [run for run in runs if not run.modality]

    fusions = list(dict.fromkeys(run.fusion for run in runs))
    rows = list(dict.fromkeys(run.row for run in runs))
    figure = Figure(figsize=(4.2 * len(fusions), 3.2), layout="constrained")
    panels = figure.subplots(1, len(fusions), sharey=True, squeeze=False)[0]
    metric = "accuracy"
    for axes, fusion in zip(panels, fusions, strict=True):
        for number, row in enumerate(rows):
            logs = [
                read_metrics(run.folder / METRICS)
                for run in runs
                if (run.fusion, run.row) == (fusion, row)
            ]
            if not logs:
                continue
            metric = logs[0].headline
            # Runs that ended early have fewer epochs: beyond the shortest there is no mean over seeds.
            length = min(len(log.epochs) for log in logs)
            values = [
                [float(epoch["validation"][metric]) for epoch in log.epochs[:length]]
                for log in logs
            ]
            columns = list(zip(*values, strict=True))
            mean = [fmean(column) for column in columns]
            # Joint training is dashed and on top: a method that does not differ from it shows as both.
            style = ("-", ":", "-.")[number // len(PALETTE) % 3]
            look: dict[str, Any] = {
                "color": PALETTE[number % len(PALETTE)],
                "zorder": 2,
                "linestyle": style,
            }
            if row == BASELINE:
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
        axes.set_title(network_title(fusion), fontsize=9)
        axes.set_xlabel("epoch")
        whole_ticks(axes)
    panels[0].set_ylabel(f"validation {METRIC_TITLES.get(metric, metric)}")
    panels[-1].legend(fontsize=8)
    return figure
