"""How every plot looks: colours that colour-blind readers tell apart, the same for a modality everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradmod.experiments.models import FUSIONS

# Okabe and Ito's palette; black is the whole model.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MODEL_COLOUR = "#222222"
OTHER_COLOUR = "#999999"
GRID_COLOUR = "#dddddd"
_FIXED = {"audio": PALETTE[0], "visual": PALETTE[1], "text": PALETTE[2]}

METRIC_TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "mae": "MAE",
    "correlation": "correlation",
    "sign_accuracy": "sign accuracy",
    "auroc": "AUROC",
    "score": "score",
}
"""Metrics that tables and plots show, in this order."""
SHARES = {"accuracy", "macro_f1", "auroc"}
"""Metrics from 0 to 1."""

RC: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID_COLOUR,
    "text.color": MODEL_COLOUR,
    "axes.edgecolor": MODEL_COLOUR,
    "axes.labelcolor": MODEL_COLOUR,
    "xtick.color": MODEL_COLOUR,
    "ytick.color": MODEL_COLOUR,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "gradmod",
    "svg.fonttype": "path",
}


def colours(modalities: Sequence[str]) -> dict[str, str]:
    """A colour for each modality: audio, visual and text have their own, others take what is left, in order."""
    free = [colour for colour in PALETTE if colour not in {_FIXED.get(m) for m in modalities}]
    chosen: dict[str, str] = {}
    for modality in modalities:
        chosen[modality] = _FIXED.get(modality) or free[len(set(chosen) - set(_FIXED)) % len(free)]
    return chosen


def network_title(fusion: str) -> str:
    """What a network is called in a title: by its fusion, or by the function of the user's that makes it."""
    return f"{fusion} fusion" if fusion in FUSIONS else f"network {fusion}"
