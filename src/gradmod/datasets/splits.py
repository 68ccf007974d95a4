"""The parts that a data set is divided into, and the two protocols that divide it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmod.datasets.samples import Indices, Split
from gradmod.errors import DataError


@dataclass(frozen=True)
class Splits:
    """A data set, divided.

    Attributes:
        train: what is trained on.
        validation: what the epoch is chosen on; in the published protocol this is also the split that is reported.
        test: scored once, at the end; None in the published protocol.
        predictor: what the predictor of the competition metric is fitted on; None where there is none.
    """

    train: Split
    validation: Split
    test: Split | None
    predictor: Split | None

    def items(self) -> Iterator[tuple[str, Split]]:
        """The splits that there are, by name."""
        for name in ("train", "validation", "test", "predictor"):
            split = getattr(self, name)
            if split is not None:
                yield name, split


def heldout(samples: int, seed: int) -> tuple[Indices, Indices, Indices]:
    """Divide a training split: 80 % train, 10 % validation, 10 % predictor, drawn at random.

    Args:
        samples: its size.
        seed: of the draw; not that of the run, so that runs with different seeds are scored on the same samples.

    Returns:
        Sorted indices of train, validation and predictor.

    Raises:
        DataError: fewer than 10 samples.
    """
    if samples < 10:
        raise DataError(f"the training split has {samples} samples; expected at least 10, to hold out 10 % twice")
    order = np.random.default_rng(seed).permutation(samples)
    tenth = samples // 10
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    return np.sort(parts[0]), np.sort(parts[1]), np.sort(parts[2])


def first_nine_tenths(samples: int) -> tuple[Indices, Indices]:
    """Divide as published for AV-MNIST and CREMA-D: the first 90 %, and the rest."""
    indices = np.arange(samples)
    cut = int(samples * 0.9)
    return indices[:cut], indices[cut:]
