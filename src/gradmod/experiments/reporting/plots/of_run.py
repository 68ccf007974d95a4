"""Which plots a run has, by what it wrote down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gradmod.experiments.reporting.plots.attribution import contribution_bars, robustness_curves
from gradmod.experiments.reporting.plots.curves import curves
from gradmod.experiments.reporting.plots.figures import save_figure
from gradmod.experiments.reporting.plots.monitored import (
    competition_over_epochs,
    has_competition,
    has_shape,
    shape_over_epochs,
)
from gradmod.experiments.reporting.plots.steps import has_steps, step_figures
from gradmod.experiments.runs.names import METRICS
from gradmod.experiments.runs.records import Metrics, Record, read_json, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot(NamedTuple):
    """A plot that can be drawn: its name, what it shows, and what draws it."""

    name: str
    caption: str
    make: Callable[[], Figure]


def training_plots(metrics: Metrics) -> list[Plot]:
    """Of what was measured while it trained."""
    plots = [Plot("curves", "accuracy and coefficients over the epochs", partial(curves, metrics))]
    if has_shape(metrics):
        plots.append(
            Plot(
                "contributions",
                "contributions over the epochs",
                partial(shape_over_epochs, metrics),
            )
        )
    if has_competition(metrics):
        caption = "competition strength over the epochs"
        plots.append(Plot("competition", caption, partial(competition_over_epochs, metrics)))
    if has_steps(metrics):
        plots.append(Plot("steps", "single steps", partial(step_figures, metrics)))
    return plots


def diagnosis_plots(record: Record) -> list[Plot]:
    """Of a diagnosis."""
    plots = [
        Plot("contribution", "contribution of each modality", partial(contribution_bars, record))
    ]
    if record["robustness"]:
        plots.append(
            Plot("noise", "with noise in one modality", partial(robustness_curves, record))
        )
    return plots


def write_plots(folder: Path) -> Path:
    """Write every plot of the run in `folder` into its `plots/`, as SVG and PNG; return that.

    Raises:
        CheckpointError: its records cannot be read.
    """
    target = folder / "plots"
    target.mkdir(exist_ok=True)
    for plot in training_plots(read_metrics(folder / METRICS)):
        save_figure(plot.make, target / f"{plot.name}.svg")
    for path in sorted((folder / "attribution").glob("*.json")):
        for plot in diagnosis_plots(read_json(path)):
            save_figure(plot.make, target / f"{plot.name}_{path.stem}.svg")
    return target
