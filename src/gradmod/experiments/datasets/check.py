"""Reading a whole data set once, to say whether it is what the loader needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gradmod.experiments.datasets.folders import files_in
from gradmod.experiments.datasets.identity import input_digests, leaves_of, say_little
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.prepared import changed_files, read_manifest
from gradmod.experiments.datasets.problems import Problems, by_kind
from gradmod.experiments.datasets.registry import HELDOUT, DatasetInfo, dataset_info
from gradmod.experiments.datasets.split import Indices, Split, Value
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError

BATCH = 64
MOST_SHOWN = 5
COMMON = 10
"""So many samples of one input: it is something that many share, and no sample that strayed into another split."""


@dataclass
class InputFacts:
    """What was seen of one input (or of one tensor of it) over all samples.

    Attributes:
        shape: of a sample; None for an axis that differs from batch to batch.
        low, high: smallest and largest finite value.
        not_finite: samples that hold NaN or an infinite value.
    """

    shape: tuple[int | None, ...]
    low: float = np.inf
    high: float = -np.inf
    not_finite: int = 0

    def add(self, values: Tensor) -> Tensor:
        """Take in a batch [n, ...]; [n] which samples hold what is not finite."""
        own = tuple(values.shape[1:])
        self.shape = tuple(a if a == b else None for a, b in zip(self.shape, own, strict=True))
        flat = values.reshape(len(values), -1).float()
        finite = flat.isfinite()
        bad = (~finite).any(1)
        self.not_finite += int(bad.sum())
        if finite.any():
            self.low = min(self.low, float(flat[finite].min()))
            self.high = max(self.high, float(flat[finite].max()))
        return bad


@dataclass
class Shared:
    """What two splits have in common, of one modality or kind of group.

    Attributes:
        samples: of the first split whose input, or group, is in the other too.
        distinct: inputs, or groups, that these are.
        common: samples more whose input many samples of the data set have (from `COMMON` on).
    """

    samples: int = 0
    distinct: int = 0
    common: int = 0


@dataclass
class DatasetFacts:
    """What was seen of a data set.

    Attributes:
        info: what is known of it beforehand.
        files: pattern to number of files and their bytes.
        splits: name to number of samples.
        classes: name to samples of each class; None where targets are no classes.
        inputs: name to facts.
        doubles: (split, other split) to the number of samples of the first that are, in every input, in the other too.
        equal_inputs: (split, other split, modality) to what is in both of that modality alone.
        shared_groups: (split, other split, kind of group) to what is in both.
        slight: modality to samples of it that say too little to be compared: silence, empty pictures, a word or two.
        repeated: split to samples that are in it more than once.
        notes: of the loader, and what the files hold.
        problems: why it cannot be used, those of one kind on one line; empty: it can.
        unreadable: samples that cannot be read, or hold values that are not finite.
    """

    info: DatasetInfo
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, int] | None] = field(default_factory=dict)
    inputs: dict[str, InputFacts] = field(default_factory=dict)
    doubles: dict[tuple[str, str], int] = field(default_factory=dict)
    equal_inputs: dict[tuple[str, str, str], Shared] = field(default_factory=dict)
    shared_groups: dict[tuple[str, str, str], Shared] = field(default_factory=dict)
    slight: dict[str, int] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    unreadable: int = 0

    def warnings(self) -> Iterator[str]:
        """What does not make it unusable, and its figures worth less than they look; a line each."""
        for (part, other), count in self.doubles.items():
            yield f"{count} samples of {part} are in {other} too"
        for m in dict.fromkeys(m for _, _, m in self.equal_inputs):
            of_modality = {
                (p, o): shared for (p, o, name), shared in self.equal_inputs.items() if name == m
            }
            listed = [
                f"{shared.samples} samples of {part} in {other} ({shared.distinct} inputs)"
                for (part, other), shared in of_modality.items()
                if shared.samples
            ]
            if listed:
                yield f"{m} alone is the same in two splits, other inputs not: {', '.join(listed)}"
        for kind in dict.fromkeys(kind for _, _, kind in self.shared_groups):
            listed = [
                f"{shared.distinct} of {part} ({shared.samples} samples) in {other}"
                for (part, other, name), shared in self.shared_groups.items()
                if name == kind
            ]
            if kind not in self.info.mixes:
                yield f"the same {kind} is in two splits: {', '.join(listed)}"
        train = self.classes.get("train")
        if train is not None and len(train) == 1 and self.info.classes:
            yield f"all samples of train are of one class, {next(iter(train))}"
        for part, counts in self.classes.items():
            lacking = [c for c in counts or {} if train is not None and c not in train]
            if (
                lacking and self.info.classes
            ):  # where only the data tell them, the loader's notes say it
                yield f"{part} has classes that train lacks: {', '.join(lacking[:MOST_SHOWN])}"

    def remarks(self) -> Iterator[str]:
        """What else was seen; a line each."""
        for part, count in self.repeated.items():
            yield f"{count} samples of {part} are there more than once"
        for m, count in self.slight.items():
            yield f"{count} samples of {m} say too little to be looked for in other splits (one value, or a few words)"
        for m in dict.fromkeys(m for _, _, m in self.equal_inputs):
            common = sum(
                shared.common for (_, _, name), shared in self.equal_inputs.items() if name == m
            )
            if common:
                yield f"{m}: some inputs are those of {COMMON} samples and more, in several splits: {common} times"
        for (part, other, kind), shared in self.shared_groups.items():
            if kind in self.info.mixes:
                yield (
                    f"{shared.distinct} {kind}s of {part} ({shared.samples} of {self.splits[part]} samples) are in "
                    f"{other} too; {self.info.mixes[kind]}"
                )


def inspect(name: str, root: str, options: Mapping[str, Any] | None = None) -> DatasetFacts:
    """Look for the files of a data set, load it, and read every sample once.

    Args:
        name: of the data set.
        root: its folder or file.
        options: of its loader.

    Raises:
        ConfigError: no such data set or option.
    """
    info = dataset_info(name)
    facts = DatasetFacts(info)
    problems = Problems()
    try:
        folder = Path(root).expanduser()
        manifest = read_manifest(folder, name) if root and not info.is_own else None
        for pattern in info.files if manifest is None else manifest["sha256"]:
            found = [path for path in _matches(root, pattern) if path.is_file()]
            facts.files[pattern] = len(found), sum(path.stat().st_size for path in found)
        if manifest is not None:
            for file in changed_files(folder, manifest):
                problems.add(f"{folder / file} is not what it was when the folder was made")
        if not problems.messages:
            splits = load_dataset(name, root, HELDOUT, 0, options)
            _look_at(splits, facts, problems)
    except DataError as error:
        problems.add(error)
    facts.problems = by_kind(problems.messages, str(Path(root).expanduser()) if root else "")
    return facts


def _look_at(splits: Splits, facts: DatasetFacts, problems: Problems) -> None:
    """Read every sample; compare the splits."""
    facts.notes = tuple(dict.fromkeys([*splits.notes, *_descriptions(splits.train)]))
    seen: dict[str, _Seen] = {}
    for part, split in splits.items():
        facts.splits[part], facts.classes[part] = len(split), split.class_counts()
        seen[part] = _read_all(split, facts, part, problems)
    # What else the network takes (AVE's events) is no modality: of it much is equal.
    modalities = splits.modalities or facts.info.modalities or tuple(splits.train.sources)
    _compare(seen, modalities, facts)
    for m in modalities:
        count = sum(int(of.slight[m].sum()) for of in seen.values() if m in of.slight)
        if count:
            facts.slight[m] = count
    groups = {part: split.groups for part, split in splits.items()}
    for part, other in _pairs(list(groups)):
        for kind in groups[part].keys() & groups[other].keys():
            inside = np.isin(groups[part][kind], groups[other][kind])
            if inside.any():
                shared = Shared(int(inside.sum()), len(np.unique(groups[part][kind][inside])))
                facts.shared_groups[part, other, kind] = shared


def _descriptions(split: Split) -> list[str]:
    """What the files of the inputs hold, of sources that can tell: type, range, and what is done with the values."""
    return [
        f"{name}: {source.describe()}"
        for name, source in split.sources.items()
        if hasattr(source, "describe")
    ]


def _pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    for position, part in enumerate(parts):
        for other in parts[:position]:
            yield part, other


@dataclass
class _Seen:
    """What identifies the inputs of a split's samples, in order; None where one could not be read.

    Attributes:
        inputs: by modality, of each sample.
        slight: by modality, [n] whether it says too little to be compared.
    """

    inputs: dict[str, list[bytes | None]]
    slight: dict[str, np.ndarray[Any, np.dtype[np.bool_]]]

    def wholes(self) -> list[tuple[bytes, ...] | None]:
        """All inputs of each sample; None where one could not be read, or all say too little."""
        empty = np.all(list(self.slight.values()), axis=0)
        samples = zip(*self.inputs.values(), strict=True)
        return [
            None if none or None in of else tuple(one for one in of if one is not None)
            for of, none in zip(samples, empty, strict=True)
        ]


def _compare(seen: Mapping[str, _Seen], modalities: tuple[str, ...], facts: DatasetFacts) -> None:
    wholes = {part: of.wholes() for part, of in seen.items()}
    for part, samples in wholes.items():
        counts = Counter(sample for sample in samples if sample is not None)
        twice = sum(count for count in counts.values() if count > 1)
        if twice:
            facts.repeated[part] = twice
    known = {part: set(samples) - {None} for part, samples in wholes.items()}
    for part, other in _pairs(list(seen)):
        count = sum(sample in known[other] for sample in wholes[part])
        if count:
            facts.doubles[part, other] = count
    for m in modalities:
        telling = {
            part: [
                None if slight else one
                for one, slight in zip(of.inputs[m], of.slight[m], strict=True)
            ]
            for part, of in seen.items()
        }
        often = Counter(one for ones in telling.values() for one in ones if one is not None)
        for part, other in _pairs(list(seen)):
            there = set(telling[other]) - {None}
            equal = [
                one
                for one, whole in zip(telling[part], wholes[part], strict=True)
                if one in there and one is not None and whole not in known[other]
            ]
            rare = [one for one in equal if often[one] < COMMON]
            if equal:
                facts.equal_inputs[part, other, m] = Shared(
                    len(rare), len(set(rare)), len(equal) - len(rare)
                )


def _matches(root: str, pattern: str) -> list[Path]:
    folder = Path(root).expanduser()
    if not root:
        return []
    return [folder] if pattern == "." else files_in(folder, pattern)


def _read_all(
    split: Split, facts: DatasetFacts, part: str = "train", problems: Problems | None = None
) -> _Seen:
    """Take in every sample; gather what cannot be read, and go on."""
    problems = Problems() if problems is None else problems
    seen = _Seen({}, {})
    damaged: set[int] = set()
    for name, source in split.sources.items():
        digests: list[bytes | None] = [None] * len(split)
        slight = np.zeros(len(split), dtype=bool)
        not_finite: dict[str, list[int]] = {}
        for start in range(0, len(split), BATCH):
            positions = np.arange(start, min(start + BATCH, len(split)))
            for read, value in _read(split, name, source, positions, problems, damaged):
                _take_in(name, value, read, facts, part, problems, not_finite)
                for position, digest, little in zip(
                    read, input_digests(value), say_little(value), strict=True
                ):
                    digests[position], slight[position] = digest, little
        for leaf, rows in not_finite.items():
            damaged.update(rows)
            shown = ", ".join(str(split.ids[row]) for row in rows[:MOST_SHOWN])
            problems.add(
                f"{len(rows)} samples of {leaf} hold values that are not finite, of {len(split)} in {part}: sample "
                f"{shown}{', ...' if len(rows) > MOST_SHOWN else ''}"
            )
        seen.inputs[name], seen.slight[name] = digests, slight
    facts.unreadable += len(damaged)
    return seen


def _read(
    split: Split, name: str, source: Any, positions: Indices, problems: Problems, damaged: set[int]
) -> Iterator[tuple[Indices, Value]]:
    """The input of a batch, all at once; where that fails, of one sample at a time."""
    try:
        if hasattr(source, "read_all"):  # of a sample, `read` takes only a part
            source.read_all(split.rows[positions])
        yield positions, split.read_input(name, positions)
        return
    except DataError as error:
        if len(positions) == 1:
            problems.add(error)
            damaged.add(int(positions[0]))
            return
    for position in positions:
        yield from _read(split, name, source, np.array([position]), problems, damaged)


def _take_in(
    name: str,
    value: Value,
    positions: Indices,
    facts: DatasetFacts,
    part: str,
    problems: Problems,
    not_finite: dict[str, list[int]],
) -> None:
    for leaf, values in leaves_of(value, name):
        own = tuple(values.shape[1:])
        known = facts.inputs.setdefault(leaf, InputFacts(own))
        fits = len(known.shape) == len(own)
        if not fits or (leaf == name and known.shape != own):
            problems.add(
                f"a sample of {leaf} has the shape {list(own)} in {part}, others {list(known.shape)}; expected one "
                "shape"
            )
        if fits:
            bad = known.add(values)
            if bad.any():
                not_finite.setdefault(leaf, []).extend(positions[bad.numpy()].tolist())
