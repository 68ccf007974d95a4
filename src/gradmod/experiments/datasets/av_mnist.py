"""AV-MNIST in its original layout (see docs/datasets/av-mnist.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.npy import check_labels, open_array
from gradmod.experiments.datasets.problems import Problems
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import ArraySource, ChainedSource, Split
from gradmod.experiments.datasets.splits import Splits, heldout, nine_tenths_of_both
from gradmod.experiments.datasets.value_forms import Form, ValueFacts, described, form_of
from gradmod.experiments.errors import DataError

# By modality: the folder of its files, the shape of a row there, and that of a sample as the network takes it.
_INPUTS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "audio": ("audio", (112, 112), (1, 112, 112)),
    "visual": ("image", (784,), (1, 28, 28)),
}


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Open the data set; the arrays stay on disk and only the rows of a batch are read.

    Inputs: `visual` [1, 28, 28], `audio` [1, 112, 112]. Values from 0 to 255, and centred ones of that scale as the
    published images are, are divided by 255 as they are; values that were scaled already are not divided again. Which
    it is is judged for each input on all values of its train and its test file together.

    Args:
        root: folder with `image/`, `audio/` and the label files; arrays of numbers.
        protocol: `heldout`: 80/10/10 of train as train, validation, predictor, and the whole test split. `published`:
            first 90 % of train; first 90 % of test as evaluation split (`validation`); last 10 % of both as predictor.
        split_seed: of `heldout`.

    Raises:
        DataError: a file is missing, truncated, of another shape, or holds what it should not; or it cannot be told of
            which scale its values are.
    """
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise DataError(dataset_info("av-mnist").where_it_looked(root))
    problems = Problems()
    with problems.kept():
        train, train_labels = _open(folder, "train")
    with problems.kept():
        test, test_labels = _open(folder, "test")
    problems.raise_any()
    sources = {m: StoredValues.of(train[m], test[m], shape) for m, (_, _, shape) in _INPUTS.items()}
    notes = tuple(
        f"{m}: {source.describe()}" for m, source in sources.items() if not source.are_bytes
    )
    whole = Split(sources, np.concatenate([train_labels, test_labels]).astype(np.int64))
    if protocol == PUBLISHED:
        training, evaluation, predictor = nine_tenths_of_both(len(train_labels), len(test_labels))
        parts = whole.subset(training), whole.subset(evaluation), None, whole.subset(predictor)
        return Splits(*parts, notes=notes)
    training, validation, predictor = heldout(len(train_labels), split_seed)
    testing = np.arange(len(train_labels), len(whole))
    return Splits(
        whole.subset(training),
        whole.subset(validation),
        whole.subset(testing),
        whole.subset(predictor),
        notes=notes,
    )


@dataclass(frozen=True)
class _Stored:
    """An array and its file."""

    path: Path
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class StoredValues(ChainedSource):
    """The train and the test file of one input, scaled alike.

    Attributes:
        paths: of the two files.
        form: of their values.
    """

    paths: tuple[Path, Path]
    form: Form

    @classmethod
    def of(cls, train: _Stored, test: _Stored, shape: tuple[int, ...]) -> StoredValues:
        """Judge the values of both files.

        Raises:
            DataError: see `value_forms.form_of`.
        """
        form = form_of(
            [ValueFacts.of(stored.path, stored.array, brief=True) for stored in (train, test)]
        )
        first, second = (ArraySource(stored.array, shape, form.divisor) for stored in (train, test))
        return cls(first, second, (train.path, test.path), form)

    @property
    def are_bytes(self) -> bool:
        """Whether both files hold bytes, so that there is nothing to say of their scale."""
        return self.first.array.dtype == self.second.array.dtype == np.uint8

    def describe(self) -> str:
        """What the files hold: type, range and share of negative values, and what is done with it; reads all values."""
        arrays = self.first.array, self.second.array
        return described(
            [ValueFacts.of(*stored) for stored in zip(self.paths, arrays, strict=True)], self.form
        )


def _open(folder: Path, split: str) -> tuple[dict[str, _Stored], npt.NDArray[Any]]:
    """The files of one split: inputs by modality, and labels."""
    found: dict[str, _Stored] = {}
    problems = Problems()
    for modality, (kind, row, _) in _INPUTS.items():
        path = folder / kind / f"{split}_data.npy"
        with problems.kept():
            found[modality] = _Stored(path, open_array(path, (None, *row)))
    label_path = folder / f"{split}_labels.npy"
    with problems.kept():
        labels = open_array(label_path, (None,))
    problems.raise_any()
    image, audio = found["visual"], found["audio"]
    if len(image.array) != len(audio.array):
        raise DataError(
            f"{image.path} holds {len(image.array)} samples and {audio.path} {len(audio.array)}; expected the same "
            "number"
        )
    check_labels(label_path, labels, 10, len(image.array))
    return found, labels
