"""CMU-MOSEI: sentiment and emotion of sentences in videos (see docs/datasets/mosei.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.datasets.pickles import load_pickle
from gradmod.datasets.registry import PUBLISHED, dataset_info
from gradmod.datasets.samples import Indices, Source, Split
from gradmod.datasets.splits import Splits
from gradmod.errors import ConfigError, DataError
from gradmod.tasks import Classification, MultiLabel, Regression, Task

PARTS = ("train", "valid", "test")
STEPS = 60
"""Words, and frames of every other modality."""
FEATURES = {"audio": ("mels", 80), "visual": ("r21d", 512)}
EMBEDDING = 300
PADDING, UNKNOWN = 0, 1
REMOVED = str.maketrans(dict.fromkeys(".,'!?\"()*#:;", "") | dict.fromkeys("-/", " "))
PREDICTOR_SHARE = 10
_RANDOM_SEED = 20200708


def load(
    root: str,
    protocol: str,
    split_seed: int,
    *,
    labels: str = "sentiment-2",
    video: bool = False,
    embeddings: str = "",
) -> Splits:
    """Read the pickles; all of it is kept in memory.

    Inputs: `text` {"tokens": [n, 60] int64, "mask": [n, 60] bool}, `audio` {"x": [n, 60, 80] float32, "mask"}, with
    `video` also `visual` {"x": [n, 60, 512], "mask"}. Longer ones are cut, shorter ones padded.

    Args:
        root: folder of `{train,valid,test}_{sentences,mels,sentiment,emotion}.p`, and `_r21d.p` for `video`.
        protocol: `heldout`: train without a tenth, valid, test, and that tenth as predictor. `published`: train, and
            valid as evaluation split; no predictor.
        split_seed: of `heldout`.
        labels: `sentiment-2` (< 0, >= 0), `sentiment-7`, `sentiment` (the number itself, -3 to 3), `emotions` (six, any
            of them at once).
        video: whether to read the visual features.
        embeddings: text file of GloVe vectors of 300 numbers; empty: random vectors, which the notes say.

    Raises:
        ConfigError: `labels` is not one of these.
        DataError: a file is missing, damaged, would run code, or does not hold what it should.
    """
    if labels not in LABELS:
        raise ConfigError(f"data.labels is {labels!r}; expected one of {', '.join(LABELS)}")
    folder = Path(root).expanduser()
    if not root or not folder.is_dir():
        raise DataError(dataset_info("mosei").where_it_looked(root))
    task, outputs, file = LABELS[labels]
    modalities = ("text", "audio", "visual") if video else ("text", "audio")
    parts = [_Part.read(folder, part, file, modalities[1:]) for part in PARTS]
    vocabulary = words_of(parts[0].sentences)
    table, known = embedding_table(vocabulary, embeddings)
    notes = (
        f"{known} of {len(vocabulary)} words have a vector in {embeddings}; the others start at random"
        if embeddings
        else f"no --embeddings: the vectors of all {len(vocabulary)} words start at random",
    )
    sources: dict[str, Source] = {"text": Sentences([s for part in parts for s in part.sentences], vocabulary)}
    for modality in modalities[1:]:
        arrays = [array for part in parts for array in part.features[modality]]
        sources[modality] = PaddedFeatures(arrays, FEATURES[modality][1])
    whole = Split(sources, _targets(labels, np.array([label for part in parts for label in part.labels])))
    sizes = [len(part.sentences) for part in parts]
    train, valid, test = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:2])
    facts: dict[str, Any] = {
        "notes": notes,
        "modalities": modalities,
        "task": task,
        "outputs": outputs,
        "network": {
            "embedding": torch.from_numpy(table),
            "features": {m: FEATURES[m][1] for m in modalities[1:]},
            "lengths": dict.fromkeys(modalities, STEPS),
        },
    }
    if protocol == PUBLISHED:
        return Splits(whole.subset(train), whole.subset(valid), None, None, **facts)
    order = np.random.default_rng(split_seed).permutation(train)
    held, kept = np.split(order, [len(train) // PREDICTOR_SHARE])
    if not len(held):
        raise DataError(f"{folder}: train has {len(train)} clips; expected at least {PREDICTOR_SHARE}")
    return Splits(
        whole.subset(np.sort(kept)), whole.subset(valid), whole.subset(test), whole.subset(np.sort(held)), **facts
    )


LABELS: dict[str, tuple[Task, int, str]] = {
    "sentiment-2": (Classification(), 2, "sentiment"),
    "sentiment-7": (Classification(), 7, "sentiment"),
    "sentiment": (Regression(), 1, "sentiment"),
    "emotions": (MultiLabel(), 6, "emotion"),
}
"""What `labels` may be: the task, the number of outputs, the file."""


def words_in(sentence: Sequence[str]) -> list[str]:
    """The words as they are looked up: lower case, without punctuation, hyphens and slashes as spaces."""
    return " ".join(sentence).lower().translate(REMOVED).split()


def words_of(sentences: Sequence[Sequence[str]]) -> dict[str, int]:
    """Number of every word, in the order in which they first occur; 0 is padding and 1 any other word."""
    vocabulary: dict[str, int] = {}
    for sentence in sentences:
        for word in words_in(sentence):
            vocabulary.setdefault(word, len(vocabulary) + 2)
    return vocabulary


def embedding_table(vocabulary: Mapping[str, int], path: str) -> tuple[npt.NDArray[np.float32], int]:
    """Vectors of the words.

    Args:
        vocabulary: number of every word.
        path: GloVe's text format: a word and 300 numbers a line; empty: none.

    Returns:
        [V + 2, 300]: zeros for padding, else what the file says or normal random numbers of deviation 0.1; how many
        words the file has.

    Raises:
        DataError: the file is missing, or a line is no word and 300 numbers.
    """
    table = np.random.default_rng(_RANDOM_SEED).normal(0, 0.1, (len(vocabulary) + 2, EMBEDDING)).astype(np.float32)
    table[PADDING] = 0
    if not path:
        return table, 0
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file} is missing: --embeddings names a text file of GloVe vectors")
    known = 0
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word not in vocabulary:
                continue
            try:
                vector = np.array(rest.split(), dtype=np.float32)
            except ValueError:
                vector = np.empty(0, dtype=np.float32)
            if vector.shape != (EMBEDDING,) or not np.isfinite(vector).all():
                raise DataError(f"{file}, line {number}: expected a word and {EMBEDDING} finite numbers")
            table[vocabulary[word]] = vector
            known += 1
    return table, known


@dataclass(frozen=True)
class Sentences:
    """Words as numbers, cut and padded to 60."""

    sentences: Sequence[Sequence[str]]
    vocabulary: Mapping[str, int]
    shape: tuple[int, ...] = (STEPS,)

    def __len__(self) -> int:
        return len(self.sentences)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> dict[str, Tensor]:
        """{"tokens": [n, 60], "mask": [n, 60]}; nothing is drawn."""
        tokens = np.zeros((len(rows), STEPS), dtype=np.int64)
        mask = np.zeros((len(rows), STEPS), dtype=bool)
        mask[:, 0] = True  # an empty sentence is one step of padding: attention needs something to look at
        for position, row in enumerate(rows):
            numbers = [self.vocabulary.get(word, UNKNOWN) for word in words_in(self.sentences[row])[:STEPS]]
            tokens[position, : len(numbers)] = numbers
            mask[position, : len(numbers)] = True
        return {"tokens": torch.from_numpy(tokens), "mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class PaddedFeatures:
    """Sequences of features, cut and padded to 60 steps."""

    arrays: Sequence[npt.NDArray[Any]]
    features: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(60, features)."""
        return (STEPS, self.features)

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> dict[str, Tensor]:
        """{"x": [n, 60, features], "mask": [n, 60]}; nothing is drawn."""
        x = np.zeros((len(rows), STEPS, self.features), dtype=np.float32)
        mask = np.zeros((len(rows), STEPS), dtype=bool)
        mask[:, 0] = True
        for position, row in enumerate(rows):
            steps = self.arrays[row][:STEPS]
            x[position, : len(steps)] = steps
            mask[position, : len(steps)] = True
        return {"x": torch.from_numpy(x), "mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class _Part:
    """One part's clips, in the order of its sentences."""

    sentences: list[list[str]]
    labels: list[Any]
    features: dict[str, list[npt.NDArray[Any]]]

    @classmethod
    def read(cls, folder: Path, part: str, label_file: str, modalities: Sequence[str]) -> _Part:
        sentences = _clips(folder / f"{part}_sentences.p")
        keys = list(sentences)

        def column(name: str) -> tuple[Path, list[Any]]:
            path = folder / f"{part}_{name}.p"
            found = _clips(path)
            missing = [key for key in keys if key not in found]
            if missing:
                raise DataError(f"{path} lacks {len(missing)} of {len(keys)} clips, {missing[0]!r} among them")
            return path, [found[key] for key in keys]

        texts = [_words(folder / f"{part}_sentences.p", key, sentences[key]) for key in keys]
        path, raw = column(label_file)
        size = 6 if label_file == "emotion" else 1
        labels = [_numbers(path, key, value, (size,)) for key, value in zip(keys, raw, strict=True)]
        features = {}
        for modality in modalities:
            name, width = FEATURES[modality]
            path, raw = column(name)
            features[modality] = [_numbers(path, k, v, (None, width)) for k, v in zip(keys, raw, strict=True)]
        return cls(texts, labels, features)


def _clips(path: Path) -> dict[Any, Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} holds {type(content).__name__}; expected a dict of clips, at least one")
    return content


def _words(path: Path, key: Any, value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise DataError(f"{path}: the clip {key!r} holds {type(value).__name__}; expected a list of words")
    return list(value)


def _numbers(path: Path, key: Any, value: Any, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """`value` as an array of that shape; for a single number, of any shape that holds one."""
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{path}: the clip {key!r} holds {type(value).__name__}; expected numbers") from None
    if shape == (1,) and array.size == 1:
        array = array.reshape(1)
    if array.ndim != len(shape) or any(w not in (None, n) for w, n in zip(shape, array.shape, strict=False)):
        wanted = ", ".join("T" if w is None else str(w) for w in shape)
        raise DataError(f"{path}: the clip {key!r} has shape {list(array.shape)}; expected [{wanted}]")
    if not np.isfinite(array).all():
        raise DataError(f"{path}: the clip {key!r} holds values that are not finite")
    return array


def _targets(labels: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[N, 1] or [N, 6] numbers as targets of the task."""
    if labels == "emotions":
        return (values > 0).astype(np.float32)
    if labels == "sentiment":
        return values.astype(np.float32)
    sentiment = values[:, 0]
    if labels == "sentiment-2":
        return (sentiment >= 0).astype(np.int64)
    return sentiment_class(sentiment)


def sentiment_class(sentiment: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Seven classes: < -2, [-2, -1), [-1, 0), 0, (0, 1], (1, 2], > 2."""
    below = np.searchsorted((-2.0, -1.0), sentiment, side="right")  # 0, 1, 2 for what is below 0
    above = 4 + np.searchsorted((1.0, 2.0), sentiment, side="left")  # 4, 5, 6 for what is above
    return np.where(sentiment < 0, below, np.where(sentiment > 0, above, 3)).astype(np.int64)
