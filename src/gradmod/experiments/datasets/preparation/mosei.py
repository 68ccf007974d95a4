"""CMU-MOSEI's pickles as memory-mapped arrays, which hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gradmod.experiments.datasets.mosei import (
    FEATURES,
    LABEL_SIZES,
    PARTS,
    Content,
    embedding_table,
    words_of,
)
from gradmod.experiments.datasets.prepared import making, sha256, write_manifest
from gradmod.experiments.errors import DataError


def prepare(root: Path, out: Path, *, embeddings: str = "") -> dict[str, Any]:
    """Convert the pickles once. `out` is then a root of the data set; what is read from it equals what they give.

    What is not there (the visual features, the sentiment or the emotions) is left out.

    Args:
        root: folder of the published files.
        out: folder to make; it must not exist.
        embeddings: text file of GloVe vectors, of which those of the vocabulary are kept; empty: none.

    Returns:
        The manifest, which is also written.

    Raises:
        ConfigError: `out` exists.
        DataError: a file is missing, damaged, would run code, or does not hold what it should.
    """
    with making(out) as folder:
        labels = [name for name in LABEL_SIZES if (root / f"train_{name}.p").is_file()]
        if not labels:
            raise DataError(
                f"{root} holds neither train_sentiment.p nor train_emotion.p; expected at least one"
            )
        modalities = [
            m
            for m, (name, _) in FEATURES.items()
            if m == "audio" or (root / f"train_{name}.p").is_file()
        ]
        content = Content.of_pickles(root, labels, modalities)
        content.save(folder)
        note = ""
        if embeddings:
            table, note = embedding_table(
                words_of(content.sentences[: content.sizes[0]]), embeddings
            )
            np.save(folder / "embeddings.npy", table)
        names = ["sentences", *labels, *(FEATURES[modality][0] for modality in modalities)]
        files = [root / f"{part}_{name}.p" for part in PARTS for name in names]
        facts = {
            "sizes": content.sizes,
            "modalities": ["text", *modalities],
            "labels": labels,
            "embeddings": note,
            "source": {"files": [path.name for path in files], "sha256": sha256(files)},
        }
        return write_manifest(folder, "mosei", facts)
