"""The parts that a data set is divided into, and the two protocols that divide it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.contents import content_hash
from gradmod.experiments.datasets.split import Indices, Split
from gradmod.experiments.errors import DataError
from gradmod.tasks import Classification, Task


@dataclass(frozen=True)
class Splits:
    """A data set, divided.

    Attributes:
        train: what is trained on.
        validation: what the epoch is chosen on; in the published protocol this is also the split that is reported.
        test: scored once, at the end; None in the published protocol.
        predictor: what the predictor of the competition metric is fitted on; None where there is none.
        notes: what was seen while reading that the user should know, a line each.
        modalities: those that were read; None: all that the data set has.
        task: what the targets are.
        outputs: numbers that the network returns for each sample or segment; None: one for each class of the data set.
        classes: names of the classes, in the order of their numbers; empty: as the targets tell.
        network: arguments of the data set's own network that only the data tell.
    """

    train: Split
    validation: Split
    test: Split | None
    predictor: Split | None
    notes: tuple[str, ...] = ()
    modalities: tuple[str, ...] | None = None
    task: Task = field(default_factory=Classification)
    outputs: int | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @cached_property
    def content_hash(self) -> str:
        """Hash of all that it holds; see `gradmod.experiments.datasets.contents.content_hash`."""
        return content_hash(self)

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
        raise DataError(
            f"the training split has {samples} samples; expected at least 10, to hold out 10 % twice"
        )
    order = np.random.default_rng(seed).permutation(samples)
    tenth = samples // 10
    parts = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    return np.sort(parts[0]), np.sort(parts[1]), np.sort(parts[2])


def nine_tenths_of_both(train: int, test: int) -> tuple[Indices, Indices, Indices]:
    """Divide as published for AV-MNIST and CREMA-D, where the samples of train stand before those of test.

    Args:
        train: samples of train.
        test: samples of test.

    Returns:
        Indices of the first 90 % of train; of the first 90 % of test; of the last 10 % of both.

    Raises:
        DataError: too few to leave a tenth of each.
    """
    if min(train, test) < 2:
        raise DataError(
            f"there are {train} train and {test} test samples; expected at least 10 of each"
        )
    cut, test_cut = int(train * 0.9), train + int(test * 0.9)
    predictor = np.concatenate([np.arange(cut, train), np.arange(test_cut, train + test)])
    return np.arange(cut), np.arange(train, test_cut), predictor


def joined(groups: Sequence[npt.NDArray[Any]]) -> Indices:
    """Which samples belong together: those of one group, of whatever kind, and those that these belong to in turn.

    Args:
        groups: of each kind (speaker, room), [N] the group of each sample.

    Returns:
        [N] the first sample of those that a sample belongs to.
    """
    together = np.arange(len(groups[0]))
    codes = [np.unique(of, return_inverse=True)[1].reshape(-1) for of in groups]
    while True:
        before = together
        for code in codes:
            first = np.full(int(code.max()) + 1, len(code))
            np.minimum.at(first, code, together)
            together = first[code]
        if np.array_equal(before, together):
            return together


def by_group(groups: Sequence[str], shares: Sequence[float], seed: int) -> tuple[Indices, ...]:
    """Divide samples so that no group (a speaker, a recording) is in two parts.

    Args:
        groups: the group of each sample.
        shares: share of the groups for each part; they sum to 1. Each part gets at least one group.
        seed: of the draw.

    Returns:
        Sorted indices of each part.

    Raises:
        DataError: fewer groups than parts.
    """
    names = sorted(set(groups))
    if len(names) < len(shares):
        raise DataError(
            f"there are {len(names)} groups ({', '.join(names)}); expected at least {len(shares)}"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    spare = len(names) - len(shares)
    cuts = [round(spare * sum(shares[: part + 1])) + part + 1 for part in range(len(shares) - 1)]
    part_of = {
        names[number]: part
        for part, numbers in enumerate(np.split(order, cuts))
        for number in numbers
    }
    parts = np.array([part_of[group] for group in groups])
    return tuple(np.flatnonzero(parts == part) for part in range(len(shares)))
