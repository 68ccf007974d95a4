"""A diagnosis as plots: what each modality contributes, and what noise in it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradmod.experiments.reporting.style import (
    METRIC_TITLES,
    MODEL_COLOUR,
    OTHER_COLOUR,
    SHARES,
    colours,
)
from gradmod.experiments.runs.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contribution_bars(record: Record) -> Figure:
    """Figure: each modality's Shapley value and the cooperation, with their intervals."""
    from matplotlib.figure import Figure

    names = list(record["values"])
    chosen = {**colours(names), "cooperation": OTHER_COLOUR}
    rows = (
        [*record["values"].items(), ("cooperation", record["cooperation"])]
        if len(names) > 1
        else [*record["values"].items()]
    )
    intervals: dict[str, Any] = {
        **record["intervals"]["values"],
        "cooperation": record["intervals"]["cooperation"],
    }
    figure = Figure(figsize=(5.0, 0.8 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (name, value) in enumerate(rows):
        axes.barh(place, value, height=0.62, color=chosen[name], alpha=0.85)
        interval = intervals.get(name)
        if interval is not None:
            axes.plot(
                interval,
                [place, place],
                color=MODEL_COLOUR,
                linewidth=1.2,
                marker="|",
                markersize=6,
            )
    axes.axvline(0, color=MODEL_COLOUR, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    metric = record["metric"]
    axes.set_xlabel(
        f"contribution to the {METRIC_TITLES.get(metric, metric)} ({record['split']}, 95 % interval)"
    )
    return figure


def robustness_curves(record: Record) -> Figure:
    """Figure: the score against the noise in one modality, a line for each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 2.6), layout="constrained")
    axes = figure.subplots()
    chosen = colours(list(record["values"]))
    for modality, values in record["robustness"].items():
        axes.plot(
            record["noise_levels"],
            values,
            color=chosen[modality],
            marker="o",
            markersize=3,
            label=modality,
        )
    axes.axhline(
        record["game"]["nothing"],
        color=MODEL_COLOUR,
        linewidth=0.8,
        linestyle=":",
        label="constant answer",
    )
    metric = record["metric"]
    if metric in SHARES:
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("noise, standard deviations of the input")
    axes.set_ylabel(f"{record['split']} {METRIC_TITLES.get(metric, metric)}")
    axes.legend(fontsize=8)
    return figure
