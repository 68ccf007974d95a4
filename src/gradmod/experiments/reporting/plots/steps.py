"""What a method saw and did in single steps: scores, ratios, coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradmod.experiments.reporting.style import MODEL_COLOUR, colours
from gradmod.experiments.runs.records import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "scores": "score $s^m$",
    "ratios": "ratio $r^m$",
    "coefficients": "coefficient $\\kappa^m$",
}


def has_steps(metrics: Metrics) -> bool:
    """Whether there is anything to draw."""
    return any(name in step for name in PANELS for step in metrics.steps)


def step_figures(metrics: Metrics) -> Figure:
    """Figure: a panel each for the scores, the ratios and the coefficients of the logged steps, as far as there are."""
    from matplotlib.figure import Figure

    shown = [name for name in PANELS if any(name in step for step in metrics.steps)]
    figure = Figure(figsize=(5.0, 0.6 + 1.5 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, shown, strict=True):
        steps = [step for step in metrics.steps if name in step]
        for modality, colour in colours(metrics.modalities).items():
            values = [float(step[name][modality]) for step in steps]
            axes.plot(
                [step["step"] for step in steps],
                values,
                color=colour,
                linewidth=1.0,
                label=modality,
            )
        if name != "scores":  # in balance a ratio is 1, and a coefficient of 1 changes nothing
            axes.axhline(1, color=MODEL_COLOUR, linewidth=0.8, linestyle=":")
        axes.set_ylabel(PANELS[name])
    panels[0].legend(ncols=3, fontsize=8)
    panels[-1].set_xlabel("step")
    return figure
