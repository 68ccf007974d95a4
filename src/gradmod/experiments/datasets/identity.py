"""What tells one sample's input from another's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW_TOKENS = 8


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
