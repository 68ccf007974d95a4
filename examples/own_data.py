"""AGM on a data set of your own: photographs and a table of numbers, in one .npz file.

    gradmod train --dataset examples/own_data.py:load --root my_data.npz --method agm --alpha 1

A data set is a function that returns its splits. An input is an `ArraySource`, or anything else with `shape`, `__len__`
and `read` (see gradmod.data.Source). Labels are whole numbers, texts or one-hot; other targets:
Splits(task=...). All of it: docs/datasets/own-data.md.
"""

from __future__ import annotations

import numpy as np

from gradmod.data import ArraySource, Split, Splits, heldout


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Images [N, H, W, 3] of 0..255, a table [N, F] and labels [N]; a fifth is the test split, always the same."""
    with np.load(root) as file:
        images, table, labels = file["images"].transpose(0, 3, 1, 2), file["table"], file["labels"]
    table = (table - table.mean(0)) / (table.std(0) + 1e-6)
    image = ArraySource(images, images.shape[1:], scale=255.0)
    whole = Split({"image": image, "table": ArraySource(table, table.shape[1:])}, labels)
    test, rest = np.split(np.random.default_rng(0).permutation(len(labels)), [len(labels) // 5])
    train, validation, predictor = (np.sort(rest[part]) for part in heldout(len(rest), split_seed))
    return Splits(*(whole.subset(rows) for rows in (train, validation, test, predictor)))
