"""AV-MNIST in its original layout (see docs/datasets/av-mnist.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.datasets.npy import check_labels, check_values, open_array
from gradmod.datasets.registry import PUBLISHED, dataset_info
from gradmod.datasets.samples import ArraySource, ChainedSource, Split
from gradmod.datasets.splits import Splits, heldout, nine_tenths_of_both
from gradmod.errors import DataError


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Open the data set; the arrays stay on disk and only the rows of a batch are read.

    Inputs are divided by 255: `visual` [1, 28, 28], `audio` [1, 112, 112].

    Args:
        root: folder with `image/`, `audio/` and the label files; uint8 or float arrays.
        protocol: `heldout`: 80/10/10 of train as train, validation, predictor, and the whole test split. `published`:
            first 90 % of train; first 90 % of test as evaluation split (`validation`); last 10 % of both as predictor.
        split_seed: of `heldout`.

    Raises:
        DataError: a file is missing, truncated, of another shape, or holds what it should not.
    """
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise DataError(dataset_info("av-mnist").where_it_looked(root))
    train, train_labels = _open(folder, "train")
    test, test_labels = _open(folder, "test")
    sources = {modality: ChainedSource(train[modality], test[modality]) for modality in train}
    whole = Split(sources, np.concatenate([train_labels, test_labels]).astype(np.int64))
    if protocol == PUBLISHED:
        training, evaluation, predictor = nine_tenths_of_both(len(train_labels), len(test_labels))
        return Splits(whole.subset(training), whole.subset(evaluation), None, whole.subset(predictor))
    training, validation, predictor = heldout(len(train_labels), split_seed)
    testing = np.arange(len(train_labels), len(whole))
    return Splits(whole.subset(training), whole.subset(validation), whole.subset(testing), whole.subset(predictor))


def _open(folder: Path, split: str) -> tuple[dict[str, ArraySource], npt.NDArray[Any]]:
    image_path, audio_path = (folder / kind / f"{split}_data.npy" for kind in ("image", "audio"))
    image, audio = open_array(image_path, (None, 784)), open_array(audio_path, (None, 112, 112))
    label_path = folder / f"{split}_labels.npy"
    labels = open_array(label_path, (None,))
    if len(image) != len(audio):
        raise DataError(
            f"{image_path} holds {len(image)} samples and {audio_path} {len(audio)}; expected the same number"
        )
    check_labels(label_path, labels, 10, len(image))
    check_values(image_path, image, 0, 255)
    check_values(audio_path, audio, 0, 255)
    sources = {"audio": ArraySource(audio, (1, 112, 112), 255.0), "visual": ArraySource(image, (1, 28, 28), 255.0)}
    return sources, labels
