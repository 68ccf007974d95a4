"""A data set whose samples lack modalities, as a user writes one down; named on the command line."""

from __future__ import annotations

import numpy as np

from gradmod.data import Split, Splits


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """`root` says what stands where a sample lacks a modality: nan, a number, or `all`: none lacks any."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 3, 240)
    inputs = {
        "audio": np.eye(3)[labels] * 2 + draws.normal(size=(240, 3)),
        "visual": np.eye(3)[labels] + draws.normal(size=(240, 3)),
    }
    has = {"audio": draws.random(240) > 0.4, "visual": draws.random(240) > 0.1}
    if root != "all":
        for m, there in has.items():
            inputs[m][~there] = float(root)
    whole = Split(inputs, labels, present=None if root == "all" else has)
    parts = np.split(np.arange(240), [150, 190])
    return Splits(*(whole.subset(rows) for rows in parts), None)
