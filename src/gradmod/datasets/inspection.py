"""Reading a whole data set once, to say whether it is what the loader needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradmod.datasets.folders import files_in
from gradmod.datasets.load import load_dataset
from gradmod.datasets.prepared import changed_files, read_manifest
from gradmod.datasets.registry import HELDOUT, DatasetInfo, dataset_info
from gradmod.datasets.samples import Split
from gradmod.errors import DataError

BATCH = 64


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

    def add(self, values: Tensor) -> None:
        """Take in a batch [n, ...]."""
        own = tuple(values.shape[1:])
        self.shape = tuple(a if a == b else None for a, b in zip(self.shape, own, strict=True))
        flat = values.reshape(len(values), -1).float()
        finite = flat.isfinite()
        self.not_finite += int((~finite).any(1).sum())
        if finite.any():
            self.low = min(self.low, float(flat[finite].min()))
            self.high = max(self.high, float(flat[finite].max()))


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
        notes: of the loader, and what the files hold.
        problems: why it cannot be used; empty: it can.
    """

    info: DatasetInfo
    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    classes: dict[str, dict[str, int] | None] = field(default_factory=dict)
    inputs: dict[str, InputFacts] = field(default_factory=dict)
    doubles: dict[tuple[str, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


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
    try:
        folder = Path(root).expanduser()
        manifest = read_manifest(folder, name) if root else None
        for pattern in info.files if manifest is None else manifest["sha256"]:
            found = [path for path in _matches(root, pattern) if path.is_file()]
            facts.files[pattern] = len(found), sum(path.stat().st_size for path in found)
        if manifest is not None:
            changed = changed_files(folder, manifest)
            facts.problems += [f"{folder / file} is not what it was when the folder was made" for file in changed]
            if changed:
                return facts
    except DataError as error:
        facts.problems.append(str(error))
        return facts
    try:
        splits = load_dataset(name, root, HELDOUT, 0, options)
        facts.notes = tuple(dict.fromkeys([*splits.notes, *_descriptions(splits.train)]))
        seen: dict[str, set[bytes]] = {}
        for part, split in splits.items():
            facts.splits[part], facts.classes[part] = len(split), split.class_counts()
            seen[part] = _read_all(split, facts)
    except DataError as error:
        facts.problems.append(str(error))
        return facts
    parts = list(seen)
    for position, part in enumerate(parts):
        for other in parts[:position]:
            shared = len(seen[part] & seen[other])
            if shared:
                facts.doubles[part, other] = shared
    for input_name, input_facts in facts.inputs.items():
        if input_facts.not_finite:
            facts.problems.append(f"{input_facts.not_finite} samples of {input_name} hold values that are not finite")
    return facts


def _matches(root: str, pattern: str) -> list[Path]:
    folder = Path(root).expanduser()
    if not root:
        return []
    return [folder] if pattern == "." else files_in(folder, pattern)


def _read_all(split: Split, facts: DatasetFacts) -> set[bytes]:
    """Take in every sample; return what identifies each, all inputs together."""
    identities: set[bytes] = set()
    for source in split.sources.values():
        if hasattr(source, "read_all"):  # of a sample, `read` takes only a part
            source.read_all(split.rows)
    for start in range(0, len(split), BATCH):
        inputs, _ = split.read(range(start, min(start + BATCH, len(split))))
        leaves = dict(_leaves(inputs))
        for name, values in leaves.items():
            own = tuple(values.shape[1:])
            facts.inputs.setdefault(name, InputFacts(own)).add(values)
        for row in range(len(next(iter(leaves.values())))):
            digest = hashlib.blake2b(digest_size=16)
            for values in leaves.values():
                digest.update(_trimmed(values[row]).numpy().tobytes())
            identities.add(digest.digest())
    return identities


def _trimmed(sample: Tensor) -> Tensor:
    """A sample without its padding, whose length depends on the batch that it is read in."""
    if sample.dim() == 0:
        return sample
    filled = (sample != 0).reshape(len(sample), -1).any(1).nonzero()
    return sample[: int(filled[-1]) + 1 if len(filled) else 0].contiguous()


def _leaves(inputs: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            found.append((f"{prefix}{name}", value))
        else:
            found += _leaves(value, f"{prefix}{name}.")
    return found


def _descriptions(split: Split) -> list[str]:
    """What the files of the inputs hold, of sources that can tell: type, range, and what is done with the values."""
    return [f"{name}: {source.describe()}" for name, source in split.sources.items() if hasattr(source, "describe")]
