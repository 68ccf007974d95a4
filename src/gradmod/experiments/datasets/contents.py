"""What a data set holds, as one hash: every sample, every target, and which split each is in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from gradmod.experiments.datasets.split import Indices, Source

if TYPE_CHECKING:
    from gradmod.experiments.datasets.splits import Splits

CHUNK = 64


@runtime_checkable
class HasContents(Protocol):
    """A source of which reading for evaluation shows a part only, or takes long."""

    def contents(self, rows: Indices) -> Iterator[bytes]:
        """All that these samples are read from."""


def content_hash(data: Splits) -> str:
    """Hash of all that a run on a data set depends on; everything is read once.

    Equal data have equal hashes, wherever they lie.
    """
    digest = hashlib.sha256()
    said = [data.task.name, data.outputs, data.modalities, _plain(data.network)]
    digest.update(repr(said).encode())
    for name, split in data.items():
        targets = np.ascontiguousarray(split.targets)
        said = [name, len(split), split.shapes, split.augmented, targets.dtype.str, targets.shape]
        digest.update(repr(said).encode())
        digest.update(targets.tobytes())
        for modality, has in sorted(split.present.items()):
            digest.update(repr(["present", modality]).encode())
            digest.update(has.tobytes())
        for modality in sorted(split.sources):
            digest.update(repr(modality).encode())
            for part in _contents(split.sources[modality], split.rows):
                digest.update(part)
    return digest.hexdigest()


def _contents(source: Source, rows: Indices) -> Iterator[bytes]:
    if isinstance(source, HasContents):
        yield from source.contents(rows)
        return
    for start in range(0, len(rows), CHUNK):
        value = source.read(rows[start : start + CHUNK], None)
        for name in sorted(value) if isinstance(value, dict) else ("",):
            leaf: Tensor = value[name] if isinstance(value, dict) else value
            yield repr([name, leaf.dtype, tuple(leaf.shape)]).encode()
            yield leaf.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _plain(value: Any) -> Any:
    """Arguments of a network as what has one text: an array's is cut short."""
    if isinstance(value, (np.ndarray, Tensor)):
        array = np.ascontiguousarray(value)
        return [array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, dict) or hasattr(value, "items"):
        return sorted((str(key), _plain(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
