"""What tells one data set from another: its samples' content, and its sizes, classes, ids and labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.datasets.samples import Split
from gradmod.datasets.splits import Splits

BATCH = 64
FEW_TOKENS = 8


def facts_of(splits: Splits) -> dict[str, Any]:
    """What a run should find again when it reads its data again, as JSON holds it.

    Returns:
        Of each split `samples`; `class_counts`, None where targets are no classes; and hashes of its `ids` (which
        samples of the data set, in order) and of its `labels`.
    """
    return {
        name: {
            "samples": len(split),
            "class_counts": split.class_counts(),
            "ids": hash_of(split.ids),
            "labels": hash_of(split.targets),
        }
        for name, split in splits.items()
    }


def fingerprint_of(splits: Splits, *, content: bool = False) -> str:
    """One hash of `facts_of` and the inputs' shapes; with `content`, of every input of every sample too, which reads
    the whole data set.

    Raises:
        DataError: with `content`, a sample cannot be read.
    """
    shapes = {name: {m: list(shape) for m, shape in split.shapes.items()} for name, split in splits.items()}
    digest = hashlib.sha256(json.dumps([facts_of(splits), shapes], sort_keys=True).encode())
    if content:
        for _, split in splits.items():
            for of_batch in content_digests(split):
                for modality in sorted(of_batch):
                    digest.update(b"".join(of_batch[modality]))
    return digest.hexdigest()


def content_digests(split: Split, batch: int = BATCH) -> Iterator[dict[str, list[bytes]]]:
    """Of each batch of a split, in order: what identifies every sample's input, by modality."""
    for start in range(0, len(split), batch):
        inputs, _ = split.read(range(start, min(start + batch, len(split))))
        yield {modality: input_digests(value) for modality, value in inputs.items()}


def input_digests(value: Tensor | Mapping[str, Any]) -> list[bytes]:
    """What identifies each sample of one modality's batch: equal where the inputs are, whatever they are padded to."""
    leaves = dict(leaves_of(value))
    digests = []
    for row in range(len(next(iter(leaves.values())))):
        digest = hashlib.blake2b(digest_size=16)
        for name, values in leaves.items():
            content = unpadded(values[row])
            digest.update(f"{name} {list(content.shape)} {content.dtype}".encode())
            digest.update(content.numpy().tobytes())
        digests.append(digest.digest())
    return digests


def say_little(value: Tensor | Mapping[str, Any]) -> list[bool]:
    """Whether each sample of one modality's batch may equal another by chance: [n].

    It is one number all over, as silence and empty pictures are, or fewer than `FEW_TOKENS` whole numbers, as a text of
    a few words. Of several tensors, all of those that hold numbers; masks say nothing.
    """
    found: npt.NDArray[np.bool_] | None = None
    for _, values in leaves_of(value):
        if values.dtype == torch.bool:
            continue
        flat = values.reshape(len(values), -1)
        little = (flat == flat[:, :1]).all(1)
        if not values.is_floating_point():
            little |= (flat != 0).sum(1) < FEW_TOKENS
        found = little.numpy() if found is None else found & little.numpy()
    return [] if found is None else [bool(one) for one in found]


def leaves_of(value: Tensor | Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an input, by name: "" where it is one."""
    if isinstance(value, Tensor):
        yield prefix, value
        return
    for name, part in value.items():
        yield from leaves_of(part, f"{prefix}.{name}" if prefix else name)


def unpadded(sample: Tensor) -> Tensor:
    """A sample without its padding, whose length depends on the batch that it is read in."""
    if sample.dim() == 0:
        return sample
    filled = (sample != 0).reshape(len(sample), -1).any(1).nonzero()
    return sample[: int(filled[-1]) + 1 if len(filled) else 0].contiguous()


def hash_of(values: npt.NDArray[Any]) -> str:
    """Of an array: what stands in it, its shape and its kind."""
    digest = hashlib.sha256(f"{values.dtype.kind} {list(values.shape)} ".encode())
    if values.dtype.kind in "OUS":
        digest.update("\0".join(map(str, values.ravel())).encode("utf-8", "surrogatepass"))
    else:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
