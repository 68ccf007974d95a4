"""Six modalities: UCI's Multiple Features, handwritten digits in six views (CC BY 4.0, R. Duin).

gradmod train --dataset examples/mfeat.py:load --root mfeat.npz --alpha 0.3 --lr 0.01
"""

from __future__ import annotations

import numpy as np

from gradmod.data import ArraySource, Split, Splits, heldout

VIEWS = ("pix", "fou", "fac", "zer", "kar", "mor")


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Views of 6 to 240 numbers, each standardised with the mean and deviation of the training samples."""
    sources = {}
    with np.load(root) as file:
        labels = np.concatenate([file["y_train"], file["y_test"]]).astype(np.int64)
        count = len(file["y_train"])
        for view in VIEWS:
            train = file[f"{view}_train"].astype(np.float32)
            values = np.concatenate([train, file[f"{view}_test"].astype(np.float32)])
            sources[view] = ArraySource(
                (values - train.mean(0)) / (train.std(0) + 1e-6), train.shape[1:]
            )
    whole = Split(sources, labels)
    train_rows, validation, predictor = heldout(count, split_seed)
    test = np.arange(count, len(labels))
    return Splits(*(whole.subset(rows) for rows in (train_rows, validation, test, predictor)))
