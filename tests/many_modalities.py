"""A data set of as many modalities as its root says, for runs of methods at any M; named on the command line."""

from __future__ import annotations

import numpy as np

from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits
from networks import NAMES, SIZES


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """`root` is the number of modalities; three classes; each modality tells a little of them, the first most."""
    rng = np.random.default_rng(int(root))
    labels = rng.integers(0, 3, 200)
    sources = {}
    for number, name in enumerate(NAMES[: int(root)]):
        centres = rng.normal(0, 2 / (1 + number), (3, SIZES[name]))
        values = (centres[labels] + rng.normal(0, 1, (200, SIZES[name]))).astype(np.float32)
        sources[name] = ArraySource(values, (SIZES[name],))
    whole = Split(sources, labels)
    train, validation, test, predictor = np.split(np.arange(200), [120, 150, 180])
    return Splits(
        whole.subset(train), whole.subset(validation), whole.subset(test), whole.subset(predictor)
    )
