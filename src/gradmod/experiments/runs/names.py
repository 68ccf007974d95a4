"""What the files of a run's folder are called; nobody else spells them."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.toml"
"""All settings of the run, to be run again as they are."""
METRICS = "metrics.jsonl"
"""The log: a line of JSON for the start, each logged step, each epoch and the end."""
RESULT = "result.json"
"""The figures at the best epoch; there when the run has finished."""
DATA = "data.json"
"""What the run was trained on: sizes, class counts, a fingerprint."""
CHECKPOINTS = "checkpoints"
"""Folder of `last.pt`, `previous.pt` and `best.pt`."""
_PREDICTIONS = "predictions"


def predictions_path(folder: Path, split: str) -> Path:
    """Logits, responses and targets of a split, as NumPy arrays."""
    return folder / _PREDICTIONS / f"{split}.npz"
