"""A data set of arrays in one .npz file: any modalities, any classes (see docs/datasets/npz.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.classes import settled
from gradmod.experiments.datasets.npz_contents import Contents, read_contents
from gradmod.experiments.datasets.npz_file import NpzFile
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import ArraySource, Indices, Source, Split
from gradmod.experiments.datasets.splits import Splits, by_group, heldout, joined
from gradmod.experiments.datasets.standardised import Moments, StandardisedSource
from gradmod.experiments.datasets.value_forms import ValueFacts, form_of
from gradmod.experiments.errors import DataError

Array = npt.NDArray[Any]
SHARES = {"train": 0.8, "validation": 0.1, "predictor": 0.1}
"""Of train, where the file has no validation split."""
SHARES_BESIDE_VALIDATION = {"train": 0.9, "predictor": 0.1}
FEW = 2 / 3
"""Where fewer of the samples of train are left to train on, because groups are few, it is said aloud."""


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Read the arrays of a file; those of a file that is not compressed stay on disk.

    Bytes are images and divided by 255. All other numbers are standardised with the mean and the deviation of the rows
    that train, each entry of a sample on its own.

    Args:
        root: the file.
        protocol: `heldout`: 80/10/10 of train as train, validation, predictor (90/10 where the file has a validation
            split), whole groups where it has groups; and test. `published`: train, and test as evaluation split; no
            predictor.
        split_seed: of `heldout`.

    Raises:
        DataError: the file is missing, another, damaged, or its arrays are not of the form.
    """
    if not root:
        raise DataError(dataset_info("npz").where_it_looked(root))
    path = Path(root).expanduser()
    contents = read_contents(NpzFile.open(path))
    rows, notes = _divided(contents, protocol, split_seed)
    given = _splits(contents, rows["train"])
    parts = {part: given["train"].subset(of) for part, of in rows.items()}
    if protocol == PUBLISHED:
        validation, test = given["test"], None
    else:
        validation, test = parts.get("validation") or given["validation"], given["test"]
    splits = Splits(
        parts["train"], validation, test, parts.get("predictor"), (*contents.notes, *notes)
    )
    try:
        return settled(splits)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _divided(
    contents: Contents, protocol: str, split_seed: int
) -> tuple[dict[str, Indices], list[str]]:
    """Which rows of train train, and which are held out; and notes on it."""
    samples, has_validation = len(contents.labels["train"]), "validation" in contents.labels
    if protocol == PUBLISHED:
        unused = ["the published protocol does not look at the validation arrays of the file"]
        return {"train": np.arange(samples)}, unused if has_validation else []
    shares = SHARES_BESIDE_VALIDATION if has_validation else SHARES
    try:
        if contents.groups:
            return _divided_by_group(contents, shares, split_seed)
        train, validation, predictor = heldout(samples, split_seed)
    except DataError as error:
        raise DataError(f"{contents.path}: {error}") from None
    if has_validation:  # what would validate trains
        return {"train": np.union1d(train, validation), "predictor": predictor}, []
    return {"train": train, "validation": validation, "predictor": predictor}, []


def _divided_by_group(
    contents: Contents, shares: Mapping[str, float], split_seed: int
) -> tuple[dict[str, Indices], list[str]]:
    groups = {kind: of["train"] for kind, of in contents.groups.items()}
    together = joined(list(groups.values()))
    count, kinds = len(np.unique(together)), " and ".join(groups)
    if count < len(shares):
        shown = ", ".join(f"{len(np.unique(of))} of {kind}" for kind, of in groups.items())
        apart = f", {count} of them that share no sample with others" if len(groups) > 1 else ""
        without = "" if len(shares) == 2 else "; or add a validation split of other groups"
        raise DataError(
            f"the training samples are of too few groups ({shown}{apart}); expected at least {len(shares)}, whole ones "
            f"for {', '.join(shares)}: --protocol published holds none out{without}; or leave {kinds} out of the file"
        )
    parts = by_group([f"{number}" for number in together], list(shares.values()), split_seed)
    rows = dict(zip(shares, parts, strict=True))
    listed = ", ".join(
        f"{part} {len(np.unique(together[of]))} ({len(of)} samples)" for part, of in rows.items()
    )
    note = f"whole groups of {kinds} are held out of train: of {count}, {listed}"
    if len(rows["train"]) < FEW * len(together):
        note = (
            f"warning: {note}: {len(rows['train'])} of {len(together)} samples train. A validation split in the file, "
            "or --protocol published, which holds none out, leaves more"
        )
    return rows, [note]


def _splits(contents: Contents, training_rows: Indices) -> dict[str, Split]:
    """The splits as the file has them, their numbers scaled."""
    sources: dict[str, dict[str, Source]] = {part: {} for part in contents.labels}
    for modality, arrays in contents.inputs.items():
        for part, source in _scaled(contents, modality, arrays, training_rows).items():
            sources[part][modality] = source
    return {
        part: Split(
            sources[part],
            labels,
            groups={kind: of[part] for kind, of in contents.groups.items()},
        )
        for part, labels in contents.labels.items()
    }


def _scaled(
    contents: Contents, modality: str, arrays: Mapping[str, Array], training_rows: Indices
) -> dict[str, Source]:
    train = arrays["train"]
    shape = train.shape[1:] or (1,)
    if train.dtype == np.uint8:
        facts = [
            ValueFacts.of(contents.path / f"{modality}_{part}", array, brief=True)
            for part, array in arrays.items()
        ]
        try:
            form = form_of(facts)
        except DataError as error:
            raise DataError(
                f"{error}. Bytes are images here; other whole numbers are standardised: save them as int64"
            ) from None
        return {
            part: Bytes(array, shape, form.divisor, f"uint8: {form.name}")
            for part, array in arrays.items()
        }
    moments = Moments.of(train, training_rows)
    low, high = contents.ranges[modality]
    constant = (
        f"; {moments.constant} of {moments.mean.size} entries of a sample are constant there"
        if moments.constant
        else ""
    )
    description = (
        f"{train.dtype}, {low:.4g} to {high:.4g}: standardised with mean and deviation of the {len(training_rows)} "
        f"samples that train{constant}"
    )
    return {
        part: StandardisedSource(array, shape, moments, description)
        for part, array in arrays.items()
    }


@dataclass(frozen=True)
class Bytes(ArraySource):
    """Images of bytes, divided by 255.

    Attributes:
        description: what the file holds, for `gradmod check`.
    """

    description: str = ""

    def describe(self) -> str:
        """What the file holds, and what is done with it."""
        return self.description
