"""What a loader of any usual form gives, as inputs by modality and a target."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gradmod.signatures import adapt_line, required_arguments, takes_inputs_apart, written_arguments

TARGET_KEYS = ("labels", "label", "targets", "target", "y")
"""What the target is called in batches that are dicts, where the caller does not say."""
BATCH_SIZE = 64
"""Of the loader around a data set that was given bare."""


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: by modality; keys that are no modality are the network's to use.
        target: [B, ...].
        present: which sample has which modality, [B] bool for each that some lack; None: every sample has every one.
    """

    inputs: Mapping[str, Any]
    target: Tensor
    present: Mapping[str, Tensor] | None = None


def open_batches(
    loader: Any,
    modalities: Sequence[str] | None,
    net: nn.Module,
    *,
    target: str = "",
    in_order: bool = True,
) -> tuple[tuple[str, ...], Iterator[Batch]]:
    """Names of the modalities, and the batches, gone through once.

    Args:
        loader: a DataLoader, a list, an iterator of batches; a Dataset or a list of samples, which is put into batches;
            or one batch. A batch is (inputs by modality, target, ...), a dict or dataclass that holds the target under
            one of its keys, or (first modality, second modality, ..., target).
        modalities: their names; None: the keys of the first batch's inputs.
        net: the network, which tells how inputs without names may be called.
        target: key of the target in batches that are dicts; empty: one of `TARGET_KEYS`.
        in_order: whether `modalities` says in which order inputs without names stand.

    Raises:
        ValueError: no batch, or no names for the inputs of one; a batch that can be read in two ways.
        TypeError: what the loader gives is no batch.
    """
    batches = iter(_as_batches(loader, target))
    first = next(batches, None)
    if first is None:
        raise ValueError("the loader gave no batch; expected (inputs, target) pairs")
    reader = _Reader(None if modalities is None else tuple(modalities), net, target, in_order)
    names = reader.modalities or tuple(reader.read(first).inputs)
    if not names:
        raise ValueError(
            "the first batch holds no input; expected a dict with an input for each modality"
        )
    return names, (reader.read(batch) for batch in itertools.chain([first], batches))


def _as_batches(loader: Any, target: str) -> Iterable[Any]:
    if isinstance(loader, Dataset):
        return _collated(loader)
    if isinstance(loader, Mapping) or (
        isinstance(loader, (list, tuple)) and _holds_tensors(loader)
    ):
        return [loader]
    if isinstance(loader, (str, bytes)) or not isinstance(loader, Iterable):
        raise TypeError(
            f"the loader is {type(loader).__name__}; expected a DataLoader, a Dataset or a list of (inputs, target)"
        )
    if isinstance(loader, Sequence) and len(loader) and _is_sample(loader[0], target):
        return _collated(loader)
    return loader


def _holds_tensors(values: Sequence[Any]) -> bool:
    """Whether a list is a batch and not a list of batches: a batch is never a tensor."""
    return any(isinstance(value, Tensor) for value in values)


def _is_sample(entry: Any, key: str) -> bool:
    """Whether an entry of a list is one sample, its target a number, and not a batch."""
    entry = _by_name(entry)
    if isinstance(entry, Mapping):
        keys = [key] if key else [name for name in TARGET_KEYS if name in entry]
        target = entry.get(keys[0]) if keys else None
    else:
        target = (
            entry[1 if isinstance(entry[0], (Mapping, list, tuple)) else -1]
            if _is_row(entry)
            else None
        )
    return isinstance(target, (int, float, np.number)) or (
        isinstance(target, Tensor) and target.dim() == 0
    )


def _collated(samples: Any) -> Iterator[Any]:
    batches = iter(DataLoader(samples, batch_size=BATCH_SIZE))
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (TypeError, RuntimeError) as error:
            raise TypeError(
                f"the samples of {type(samples).__name__} cannot be put into batches ({' '.join(str(error).split())}); "
                "give a DataLoader with a collate_fn of your own"
            ) from error
        yield batch


def _is_row(entry: Any) -> bool:
    return isinstance(entry, (list, tuple)) and len(entry) > 1


def _by_name(batch: Any) -> Any:
    """A dataclass, or a named tuple of inputs, as a dict; anything else as it is."""
    if dataclasses.is_dataclass(batch) and not isinstance(batch, (type, Mapping)):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return batch._asdict() if hasattr(batch, "_asdict") else batch


@dataclass(frozen=True)
class _Reader:
    modalities: tuple[str, ...] | None
    net: nn.Module
    target_key: str
    in_order: bool

    def read(self, batch: Any) -> Batch:
        batch = _by_name(batch)
        if isinstance(batch, Mapping):
            return self._of_mapping(batch)
        if not _is_row(batch):
            raise TypeError(
                f"the loader gave {_described(batch)}; expected (inputs by modality, target), or a dict that holds "
                "the target beside the inputs"
            )
        first, rest = batch[0], batch[1:]
        if isinstance(first, Mapping):
            return self._made(first, rest[0], rest[1:])
        unnamed = self._as_inputs(batch)
        return self._made(*unnamed)

    def _of_mapping(self, batch: Mapping[str, Any]) -> Batch:
        own = self.modalities or ()
        keys = (
            [self.target_key]
            if self.target_key
            else [k for k in TARGET_KEYS if k in batch and k not in own]
        )
        if len(keys) != 1 or keys[0] not in batch:
            there = (
                f"{' and '.join(map(repr, keys))} could be it"
                if len(keys) > 1
                else f"it holds {sorted(batch)}"
            )
            raise ValueError(
                f"the target of a batch that is a dict was not found: {there}; expected one of "
                f"{', '.join(map(repr, TARGET_KEYS))}, or say which key it is: target=..."
            )
        rest = {name: value for name, value in batch.items() if name != keys[0]}
        present = rest.get("present")
        if "present" not in own and (present is None or _is_presence(present)):
            rest.pop("present", None)
        else:
            present = None
        inputs = (
            rest.pop("inputs")
            if "inputs" not in own and isinstance(rest.get("inputs"), Mapping)
            else rest
        )
        return self._made(inputs, batch[keys[0]], (present,))

    def _as_inputs(self, batch: Sequence[Any]) -> tuple[Mapping[str, Any], Any, Sequence[Any]]:
        """Inputs without names: (audio, visual, target), or ((audio, visual), target, ...)."""
        *flat, target = batch
        nested = batch[0] if isinstance(batch[0], (list, tuple)) else ()
        names = self.modalities if self.in_order else None
        if names is None:
            raise ValueError(self._no_names(list(nested) if nested and len(batch) == 2 else flat))
        if _is_presence(target) and len(nested) == len(names):
            return dict(zip(names, nested, strict=True)), batch[1], batch[2:]
        if len(flat) == len(names) and len(nested) == len(names) > 1:
            raise ValueError(
                f"a batch of {len(batch)} whose first is a list of {len(nested)} can be read in two ways; give "
                "(inputs by modality, target)"
            )
        if len(flat) == len(names):
            return dict(zip(names, flat, strict=True)), target, ()
        if len(nested) == len(names):
            return dict(zip(names, nested, strict=True)), batch[1], batch[2:]
        raise ValueError(
            f"a batch holds {len(flat)} inputs and a target, but modalities are {list(names)}; give "
            "(inputs by modality, target)"
        )

    def _no_names(self, inputs: Sequence[Any]) -> str:
        own = required_arguments(self.net)
        apart = takes_inputs_apart(self.net, ()) and len(own) == len(inputs)
        names = (
            own if apart else tuple(self.modalities or (f"m{i}" for i in range(1, len(inputs) + 1)))
        )
        said = f"a batch holds {len(inputs)} inputs without names and a target. Say what they are, in their order"
        line = f"gradmod.diagnose(model, loader, modalities={names!r})"
        if apart:
            kind = type(self.net).__name__
            return f"{said}, and adapt {kind}, which takes {own}:\n    {adapt_line(self.net, names)}\n    {line}"
        return (
            f"{said}: {line}; or give (inputs by modality, target). The forward of {type(self.net).__name__} takes "
            f"{written_arguments(self.net)}; if it takes inputs one by one, adapt it: gradmod.adapt(net, call=...)"
        )

    def _made(self, inputs: Mapping[str, Any], target: Any, extras: Sequence[Any]) -> Batch:
        present = next((extra for extra in extras if _is_presence(extra)), None)
        return Batch(inputs, _as_target(target), present)


def _is_presence(extra: Any) -> bool:
    """Whether what stands beside inputs and target says which sample has which modality."""
    return (
        isinstance(extra, Mapping)
        and bool(extra)
        and all(isinstance(has, Tensor) and has.dtype is torch.bool for has in extra.values())
    )


def _as_target(target: Any) -> Tensor:
    if isinstance(target, np.ndarray) or (
        isinstance(target, list) and all(map(_is_number, target))
    ):
        target = torch.as_tensor(target)
    if isinstance(target, Tensor) and target.dim():
        return target
    if _is_number(target) or isinstance(target, Tensor):
        raise ValueError(
            f"the loader gave a sample with target {target!r}, not a batch; put it into batches: "
            "torch.utils.data.DataLoader(samples, batch_size=64)"
        )
    raise TypeError(f"the target of a batch is {_described(target)}; expected a tensor [B, ...]")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number))


def _described(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of ({', '.join(type(entry).__name__ for entry in value)})"
    return type(value).__name__
