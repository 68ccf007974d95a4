"""AV-MNIST in its original layout (see docs/datasets/av-mnist.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gradmod.datasets.npy import check_labels, check_values, open_array
from gradmod.datasets.registry import PUBLISHED, dataset_info
from gradmod.datasets.samples import ArraySource, Source, Split
from gradmod.datasets.splits import Splits, first_nine_tenths, heldout
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
        info = dataset_info("av-mnist")
        found = "data.root is empty" if not root else f"{folder} is not a folder"
        layout = "; ".join(" ".join(line.split()) for line in info.layout.splitlines())
        raise DataError(
            f"AV-MNIST: {found}. Looked for {layout}. How to get it: {info.how_to_get}. Without any download: "
            "--dataset av-digits, the embedded data set"
        )
    train, test = _open(folder, "train"), _open(folder, "test")
    if protocol == PUBLISHED:
        training, held = first_nine_tenths(len(train))
        evaluation, held_test = first_nine_tenths(len(test))
        if not len(held) or not len(held_test):
            raise DataError(
                f"{folder} has {len(train)} train and {len(test)} test samples; expected at least 10 of each"
            )
        predictor = _concatenate(train.subset(held), test.subset(held_test))
        return Splits(train.subset(training), test.subset(evaluation), None, predictor)
    training, validation, held = heldout(len(train), split_seed)
    return Splits(train.subset(training), train.subset(validation), test, train.subset(held))


def _open(folder: Path, split: str) -> Split:
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
    return Split(sources, np.array(labels, dtype=np.int64))


def _concatenate(first: Split, second: Split) -> Split:
    """Two small splits as one, in memory: the predictor split is a tenth."""
    sources: dict[str, Source] = {}
    for modality, shape in first.shapes.items():
        parts = [part.read(range(len(part)))[0][modality].numpy() for part in (first, second)]
        sources[modality] = ArraySource(np.concatenate(parts), shape)
    return Split(sources, np.concatenate([first.targets, second.targets]))
