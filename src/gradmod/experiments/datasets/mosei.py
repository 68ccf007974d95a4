"""CMU-MOSEI: sentiment and emotion of sentences in videos (see docs/datasets/mosei.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.npy import GrowingArray, open_array
from gradmod.experiments.datasets.pickles import load_pickle
from gradmod.experiments.datasets.prepared import Ragged, verified_manifest
from gradmod.experiments.datasets.problems import MOST_SHOWN, Problems
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import Indices, Source, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.datasets.word_vectors import word_vectors
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.file_kinds import check_kind
from gradmod.tasks import Classification, MultiLabel, Regression, Task

PARTS = ("train", "valid", "test")
STEPS = 60
"""Words, and frames of every other modality."""
FEATURES = {"audio": ("mels", 80), "visual": ("r21d", 512)}
EMBEDDING = 300
LABEL_SIZES = {"sentiment": 1, "emotion": 6}
PADDING, UNKNOWN = 0, 1
REMOVED = str.maketrans(dict.fromkeys(".,'!?\"()*#:;", "") | dict.fromkeys("-/", " "))
PREDICTOR_SHARE = 10
_RANDOM_SEED = 20200708
Arrays = Sequence[npt.NDArray[Any]] | Ragged


def load(
    root: str,
    protocol: str,
    split_seed: int,
    *,
    labels: str = "sentiment-2",
    video: bool = False,
    embeddings: str = "",
) -> Splits:
    """Read the pickles, all of which are kept in memory; or memory-map what `gradmod prepare` made of them.

    Inputs: `text` {"tokens": [n, 60] int64, "mask": [n, 60] bool}, `audio` {"x": [n, 60, 80] float32, "mask"}, with
    `video` also `visual` {"x": [n, 60, 512], "mask"}. Longer ones are cut, shorter ones padded.

    Args:
        root: folder of `{train,valid,test}_{sentences,mels,sentiment,emotion}.p`, and `_r21d.p` for `video`; or the
            folder made of it.
        protocol: `heldout`: train without a tenth, valid, test, and that tenth as predictor. `published`: train, and
            valid as evaluation split; no predictor.
        split_seed: of `heldout`.
        labels: `sentiment-2` (< 0, >= 0), `sentiment-7`, `sentiment` (the number itself, -3 to 3), `emotions` (six, any
            of them at once).
        video: whether to read the visual features.
        embeddings: text file of GloVe vectors of 300 numbers; empty: those that the folder was prepared with, or random
            ones, which the notes say.

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
    manifest = verified_manifest(folder, "mosei")
    if manifest is None:
        content = Content.of_pickles(folder, [file], modalities[1:])
    else:
        content = Content.of_arrays(folder, manifest["sizes"], [file], modalities[1:])
    vocabulary = words_of(content.sentences[: content.sizes[0]])
    if manifest is not None and manifest["embeddings"] and not embeddings:
        table = np.array(open_array(folder / "embeddings.npy", (len(vocabulary) + 2, EMBEDDING)))
        notes: tuple[str, ...] = (manifest["embeddings"],)
    else:
        table, note = embedding_table(vocabulary, embeddings)
        notes = (note,)
    sources: dict[str, Source] = {"text": Sentences(content.sentences, vocabulary)}
    for modality in modalities[1:]:
        sources[modality] = PaddedFeatures(content.features[modality], FEATURES[modality][1])
    targets = _targets(labels, content.labels[file])
    _check_varied(folder, labels, targets[: content.sizes[0]])
    whole = Split(sources, targets)
    train, valid, test = np.split(np.arange(len(content.sentences)), np.cumsum(content.sizes)[:2])
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
        raise DataError(
            f"{folder}: train has {len(train)} clips; expected at least {PREDICTOR_SHARE}"
        )
    return Splits(
        whole.subset(np.sort(kept)),
        whole.subset(valid),
        whole.subset(test),
        whole.subset(np.sort(held)),
        **facts,
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


def embedding_table(
    vocabulary: Mapping[str, int], path: str
) -> tuple[npt.NDArray[np.float32], str]:
    """Vectors of the words.

    Args:
        vocabulary: number of every word.
        path: GloVe's text format: a word and 300 numbers a line, see `word_vectors`; empty: none. Of a word that it
            has twice, the first vector counts.

    Returns:
        [V + 2, 300]: zeros for padding, else what the file says or normal random numbers of deviation 0.1; and in words
        where they come from.

    Raises:
        DataError: the file is missing, has none of the words, or vectors of other than 300 numbers.
    """
    table = (
        np.random.default_rng(_RANDOM_SEED)
        .normal(0, 0.1, (len(vocabulary) + 2, EMBEDDING))
        .astype(np.float32)
    )
    table[PADDING] = 0
    if not path:
        return table, f"no --embeddings: the vectors of all {len(vocabulary)} words start at random"
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file} is missing: --embeddings names a text file of GloVe vectors")
    check_kind(file, "a text file of GloVe vectors", "text")
    known: set[str] = set()
    for word, vector in word_vectors(file, vocabulary, EMBEDDING):
        if word not in known:
            table[vocabulary[word]] = vector
            known.add(word)
    if vocabulary and not known:
        raise DataError(
            f"{file} has a vector of none of the {len(vocabulary)} words of train (the first is "
            f"{next(iter(vocabulary))!r}); expected vectors of English words in small letters"
        )
    return (
        table,
        f"{len(known)} of {len(vocabulary)} words have a vector in {path}; the others start at random",
    )


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
        # An empty sentence is one step of padding: attention needs something to look at.
        mask[:, 0] = True
        for position, row in enumerate(rows):
            numbers = [
                self.vocabulary.get(word, UNKNOWN) for word in words_in(self.sentences[row])[:STEPS]
            ]
            tokens[position, : len(numbers)] = numbers
            mask[position, : len(numbers)] = True
        return {"tokens": torch.from_numpy(tokens), "mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class PaddedFeatures:
    """Sequences of features, cut and padded to 60 steps."""

    arrays: Arrays
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
class Content:
    """All clips, those of train first, then valid, then test.

    Attributes:
        sentences: the words of each.
        features: {modality: of each clip [T, features]}.
        labels: {"sentiment": [N, 1], "emotion": [N, 6]}, those that were asked for.
        sizes: clips of train, valid and test.
    """

    sentences: list[list[str]]
    features: dict[str, Arrays]
    labels: dict[str, npt.NDArray[np.float32]]
    sizes: list[int]

    @classmethod
    def of_pickles(
        cls, folder: Path, label_files: Sequence[str], modalities: Sequence[str]
    ) -> Content:
        """Read them as published.

        Raises:
            DataError: a file is missing, damaged, would run code, or does not hold what it should.
        """
        sentences: list[list[str]] = []
        features: dict[str, list[npt.NDArray[Any]]] = {modality: [] for modality in modalities}
        labels: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in label_files}
        sizes: list[int] = []
        problems = Problems()
        for part in PARTS:
            path = folder / f"{part}_sentences.p"
            clips: dict[Any, Any] = {}
            with problems.kept():
                clips = _clips(path)
            for key, value in clips.items():
                with problems.kept():
                    sentences.append(_words(path, key, value))
            sizes.append(len(clips))
            for name, rows in labels.items():
                with problems.kept():
                    column = _column(folder / f"{part}_{name}.p", list(clips), (LABEL_SIZES[name],))
                    if name == "sentiment":
                        _check_sentiments(folder / f"{part}_{name}.p", clips, column)
                    rows += column
            for modality, arrays in features.items():
                name, width = FEATURES[modality]
                with problems.kept():
                    arrays += _column(folder / f"{part}_{name}.p", list(clips), (None, width))
        problems.raise_any()
        return cls(
            sentences,
            dict(features),
            {name: np.stack(rows) for name, rows in labels.items()},
            sizes,
        )

    @classmethod
    def of_arrays(
        cls, folder: Path, sizes: list[int], label_files: Sequence[str], modalities: Sequence[str]
    ) -> Content:
        """Memory-map them as prepared.

        Raises:
            DataError: a file is missing or damaged, or they do not go together.
        """
        path = folder / "sentences.txt"
        if not path.is_file():
            raise DataError(f"{path} is missing; prepare the data again")
        try:
            lines = path.read_bytes().decode().split("\n")[:-1]
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error}); prepare the data again") from None
        sentences = [line.split() for line in lines]
        features: dict[str, Arrays] = {
            modality: Ragged.open(
                folder / f"{modality}.npy", folder / f"{modality}_first.npy", FEATURES[modality][1]
            )
            for modality in modalities
        }
        labels = {
            name: open_array(folder / f"{name}.npy", (None, LABEL_SIZES[name]))
            for name in label_files
        }
        counts = {
            len(sentences),
            sum(sizes),
            *map(len, features.values()),
            *map(len, labels.values()),
        }
        if len(counts) > 1:
            raise DataError(
                f"{folder} holds {sorted(counts)} clips in its files; expected one number. Prepare it again"
            )
        return cls(sentences, features, labels, sizes)

    def save(self, folder: Path) -> None:
        """Write them so that `of_arrays` finds them."""
        lines = [" ".join(" ".join(words).split()) + "\n" for words in self.sentences]
        (folder / "sentences.txt").write_bytes("".join(lines).encode())
        for modality, arrays in self.features.items():
            with GrowingArray(
                folder / f"{modality}.npy", np.float32, (FEATURES[modality][1],)
            ) as values:
                for number in range(len(arrays)):
                    values.append(arrays[number])
            lengths = [len(arrays[number]) for number in range(len(arrays))]
            np.save(folder / f"{modality}_first.npy", np.cumsum([0, *lengths], dtype=np.int64))
        for name, rows in self.labels.items():
            np.save(folder / f"{name}.npy", rows)


def _column(
    path: Path, keys: Sequence[Any], shape: tuple[int | None, ...]
) -> list[npt.NDArray[Any]]:
    """What a pickle holds of these clips, in their order."""
    found = _clips(path)
    problems, column = Problems(), []
    missing = [key for key in keys if key not in found]
    if missing:
        some = ", ".join(map(repr, missing[:MOST_SHOWN])) + (
            ", ..." if len(missing) > MOST_SHOWN else ""
        )
        problems.add(f"{path} lacks {len(missing)} of {len(keys)} clips, {some} among them")
    for key in keys:
        if key in found:
            with problems.kept():
                column.append(_numbers(path, key, found[key], shape))
    problems.raise_any()
    return column


def _clips(path: Path) -> dict[Any, Any]:
    content = load_pickle(path)
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"{path} holds {type(content).__name__}; expected a dict of clips, at least one"
        )
    # Names may be bytes in one file and strings in another.
    clips = {
        _text(path, key, key) if isinstance(key, bytes) else key: value
        for key, value in content.items()
    }
    if len(clips) < len(content):
        raise DataError(
            f"{path} holds a clip twice, named with bytes and with a string; expected each once"
        )
    return clips


def _words(path: Path, key: Any, value: Any) -> list[str]:
    """The words of a clip: of a list, a tuple or an array of strings or bytes, nested or not; or of one string."""
    if isinstance(value, (str, bytes)):
        words = _text(path, key, value).split()
    elif isinstance(value, np.ndarray):
        return _words(path, key, value.tolist())
    elif isinstance(value, (list, tuple)):
        words = []
        for word in value:
            if not isinstance(word, (str, bytes, list, tuple, np.ndarray)):
                raise DataError(
                    f"{path}: the clip {key!r} holds {type(value).__name__} of {type(word).__name__}; expected a list "
                    "of words"
                )
            words += (
                [_text(path, key, word)]
                if isinstance(word, (str, bytes))
                else _words(path, key, word)
            )
    else:
        raise DataError(
            f"{path}: the clip {key!r} holds {type(value).__name__}; expected a list of words"
        )
    return words


def _text(path: Path, key: Any, value: str | bytes) -> str:
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text.encode()
    except UnicodeError as error:
        raise DataError(
            f"{path}: the clip {key!r} holds a word that is not UTF-8 ({error})"
        ) from None
    return text


def _numbers(path: Path, key: Any, value: Any, shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    """`value` as an array of that shape, in which it may have further axes of 1."""
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":
            array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        found = (
            f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        )
        raise DataError(f"{path}: the clip {key!r} holds {found}; expected numbers")
    if len(shape) == 1 and array.size == shape[0] == max(array.shape, default=1):
        array = array.reshape(-1)
    elif array.ndim == len(shape) + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != len(shape) or any(
        w not in (None, n) for w, n in zip(shape, array.shape, strict=False)
    ):
        wanted = ", ".join("T" if w is None else str(w) for w in shape)
        raise DataError(
            f"{path}: the clip {key!r} has shape {list(array.shape)}; expected [{wanted}]"
        )
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}: the clip {key!r} holds values that are not finite")
    return numbers


def _check_sentiments(path: Path, keys: Iterable[Any], values: Iterable[npt.NDArray[Any]]) -> None:
    problems = Problems()
    for key, value in zip(keys, values, strict=True):
        if abs(value[0]) > 3 + 1e-4:
            problems.add(
                f"{path}: the clip {key!r} has the sentiment {value[0]:g}; expected a number from -3 to 3"
            )
    problems.raise_any()


def _check_varied(folder: Path, labels: str, targets: npt.NDArray[Any]) -> None:
    """Check that there is something to learn: 0 and 1 in place of sentiments, for one, are all >= 0."""
    if (targets == targets[0]).all():
        raise DataError(
            f"{folder}: the target of all {len(targets)} clips of train is {targets[0].tolist()} (--labels {labels}); "
            f"expected several. Is train_{LABELS[labels][2]}.p what it should be?"
        )


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
