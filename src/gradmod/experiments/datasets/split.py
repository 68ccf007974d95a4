"""One split of a data set: samples of several modalities and their targets, read a batch at a time."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.errors import DataError
from gradmod.experiments.import_strings import UsersFiles, is_users, users_code

Indices = npt.NDArray[np.int64]
Value = Tensor | dict[str, Tensor]
Batch = tuple[dict[str, Any], Tensor]


class Source(Protocol):
    """Where one modality's samples come from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as the network takes it."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Value:
        """Read samples [n, ...]; with `draws`, randomly augmented ones where the source has an augmentation."""


@dataclass(frozen=True)
class ArraySource:
    """Rows of an array, memory-mapped or not.

    Attributes:
        array: [N, ...]; a memory-mapped one stays on disk.
        shape: of a sample as the network takes it, e.g. (1, 28, 28).
        scale: what the values are divided by.

    Raises:
        DataError: the array holds no numbers, or its samples are not of that size.
    """

    array: npt.NDArray[Any]
    shape: tuple[int, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "array", array_of_numbers(self.array, "an ArraySource"))
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        object.__setattr__(self, "shape", shape)
        own = self.array.shape[1:]
        if math.prod(own) != math.prod(shape):
            raise DataError(
                f"an ArraySource has the shape {list(shape)} and its array samples of {list(own)}; expected as many "
                "numbers: its second argument is the shape of ONE sample"
            )

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32; reads these rows only. Nothing is drawn."""
        stored = self.array[rows]
        # float64 is divided before it is rounded, as code that keeps float64 does.
        if self.scale != 1.0:
            wide = stored.dtype.kind == "f" and stored.itemsize > 4
            stored = np.divide(stored, self.scale, dtype=np.float64 if wide else np.float32)
        values = np.asarray(stored, dtype=np.float32)
        return torch.from_numpy(values.reshape(len(rows), *self.shape))


@dataclass(frozen=True)
class ChainedSource:
    """Two arrays of the same shape as one source, the second behind the first; neither is copied."""

    first: ArraySource
    second: ArraySource

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample as the network takes it."""
        return self.first.shape

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, rows: Indices, draws: np.random.Generator | None = None) -> Tensor:
        """Samples [n, *shape] in float32."""
        later = rows >= len(self.first)
        values = torch.empty(len(rows), *self.shape)
        values[torch.from_numpy(~later)] = self.first.read(rows[~later])
        values[torch.from_numpy(later)] = self.second.read(rows[later] - len(self.first))
        return values


class Split:
    """Some samples of a data set.

    Targets may be anything that NumPy makes an array of numbers or texts of. As they are read, numbers with a point are
    float32 and whole ones int64; what else the targets of a user's data are (texts, one-hot rows, labels from 1) is
    made classes when the data set is loaded, see `gradmod.experiments.datasets.classes`.

    Args:
        sources: of each modality (and of what else the network takes), all of the same length N; arrays and tensors
            [N, ...] stand for an `ArraySource` of them.
        targets: [N, ...] classes, or numbers.
        rows: which of the N samples are in this split, in order (or a mask [N]); None: all.
        augmented: whether reading it for training draws random augmentations.
        ids: [N] what each sample is called; None: by its number.
        groups: by what they are groups of (`speaker`, `video`), [N] the group of each sample; a group that is in two
            splits is told by `gradmod check`.
        class_names: of classes 0, 1, ...; None: they are called by their numbers.
        present: for each input that some samples lack, [N] bool, true where the sample has it. What its source gives
            for the others is not looked at, be it NaN. None: every sample has every input.

    Raises:
        DataError (a ValueError): the sources, targets, ids, groups and `present` differ in length, hold what is no
            numbers, or `rows` are not rows of theirs.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        targets: npt.NDArray[Any],
        rows: Indices | None = None,
        *,
        augmented: bool = False,
        ids: Sequence[Any] | npt.NDArray[Any] | None = None,
        groups: Mapping[str, Sequence[Any] | npt.NDArray[Any]] | None = None,
        class_names: Sequence[str] | None = None,
        present: Mapping[str, Sequence[bool] | npt.NDArray[Any]] | None = None,
    ) -> None:
        if not isinstance(sources, Mapping):
            raise DataError(
                f"sources are {_kind(sources)}; expected a dict, one source by name for each modality"
            )
        self.sources = {name: as_source(source, name) for name, source in sources.items()}
        self._targets = _as_array(targets, "targets")
        if self._targets.ndim == 0:
            raise DataError(
                f"targets are {_kind(targets)}; expected an array [N, ...], one for each sample"
            )
        self._ids = None if ids is None else _as_array(ids, "ids")
        self._groups = {
            name: _as_array(of, f"groups {name!r}") for name, of in (groups or {}).items()
        }
        lengths = {name: len(source) for name, source in self.sources.items()}
        if any(length != len(self._targets) for length in lengths.values()):
            raise DataError(
                f"sources have {lengths} samples and targets {len(self._targets)}; expected the same number"
            )
        for what, named in (
            ("ids", self._ids),
            *((f"groups {name!r}", of) for name, of in self._groups.items()),
        ):
            if named is not None and named.shape != (len(self._targets),):
                raise DataError(
                    f"{what} are of the shape {list(named.shape)}; expected [{len(self._targets)}], one for each sample"
                )
        self._present = {
            name: _as_presence(name, has, self.sources, len(self._targets))
            for name, has in (present or {}).items()
        }
        self.rows = _rows_of(rows, len(self._targets))
        self.augmented = augmented
        self.class_names = None if class_names is None else tuple(class_names)

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        # Files of the user's that the sources may come from are imported first, where it is unpickled.
        return _split_again, (UsersFiles.imported(), type(self), dict(self.__dict__))

    def read(
        self, indices: Sequence[int] | Indices, draws: np.random.Generator | None = None
    ) -> Batch:
        """A batch: inputs {name: [n, ...]} and targets [n, ...] of the given samples of this split.

        Args:
            indices: positions in the split.
            draws: random numbers for the augmentation, in training; None: samples as they are.

        Raises:
            DataError: a sample cannot be read; of a source of the user's, whatever went wrong.
        """
        inputs = {name: self.read_input(name, indices, draws) for name in self.sources}
        return inputs, torch.from_numpy(
            self._as_read(self._targets[self.rows[np.asarray(indices, dtype=np.int64)]])
        )

    def read_present(self, indices: Sequence[int] | Indices) -> dict[str, Tensor] | None:
        """For each input that samples of the data set lack, [n] bool, which of the given samples have it; None: all."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return {name: torch.from_numpy(has[rows]) for name, has in self._present.items()} or None

    def read_input(
        self, name: str, indices: Sequence[int] | Indices, draws: np.random.Generator | None = None
    ) -> Value:
        """The input `name` of these samples alone [n, ...], 0 where a sample lacks it; else as `read`."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        value = self._read_rows(name, rows, draws if self.augmented else None)
        has = self._present.get(name)
        if has is None or has[rows].all():
            return value
        absent = torch.from_numpy(~has[rows])
        if isinstance(value, Mapping):
            return {part: _without_rows(tensor, absent) for part, tensor in value.items()}
        return _without_rows(value, absent)

    def _read_rows(self, name: str, rows: Indices, draws: np.random.Generator | None) -> Value:
        source = self.sources[name]
        kind = type(source)
        if not is_users(kind):
            return source.read(rows, draws)
        where = f"{kind.__qualname__}.read of {name!r}"
        module = getattr(sys.modules.get(kind.__module__), "__file__", None) or kind.__module__
        with users_code(module, found=where):
            return _float_tensors(source.read(rows, draws), where, len(rows))

    @property
    def targets(self) -> npt.NDArray[Any]:
        """[n, ...] targets of this split's samples, as they are read."""
        return self._as_read(self._targets[self.rows])

    @property
    def given_targets(self) -> npt.NDArray[Any]:
        """[n, ...] targets of this split's samples, as they were given."""
        return np.asarray(self._targets[self.rows])

    @property
    def ids(self) -> npt.NDArray[Any]:
        """[n] what the samples are called: by their numbers in the data set where nothing else is known."""
        return self.rows if self._ids is None else np.asarray(self._ids[self.rows])

    @property
    def groups(self) -> dict[str, npt.NDArray[Any]]:
        """By what they are groups of, [n] the group of each sample."""
        return {name: np.asarray(of[self.rows]) for name, of in self._groups.items()}

    @property
    def present(self) -> dict[str, npt.NDArray[np.bool_]]:
        """For each input that samples of the data set lack, [n] which samples of this split have it."""
        return {name: has[self.rows] for name, has in self._present.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a sample of each modality."""
        return {name: source.shape for name, source in self.sources.items()}

    def class_counts(self) -> dict[str, int] | None:
        """Samples (or segments) of each class that occurs, by name; None where the targets are no classes."""
        if self._targets.dtype.kind not in "iub":
            return None
        classes, counts = np.unique(self.targets, return_counts=True)
        return {self._name(int(c)): int(n) for c, n in zip(classes, counts, strict=True)}

    def subset(self, positions: Indices, *, augmented: bool = False) -> Split:
        """The samples at `positions` of this split; nothing is copied but the positions."""
        return self._changed(
            rows=self.rows[_rows_of(positions, len(self.rows))], augmented=augmented
        )

    def with_targets(
        self, targets: npt.NDArray[Any], class_names: Sequence[str] | None = None
    ) -> Split:
        """The same samples with other targets [n, ...]."""
        whole = np.zeros((len(self._targets), *targets.shape[1:]), dtype=targets.dtype)
        whole[self.rows] = targets
        return self._changed(
            _targets=whole, class_names=None if class_names is None else tuple(class_names)
        )

    def _changed(self, **changes: Any) -> Split:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__ | changes)
        return other

    def _name(self, number: int) -> str:
        known = self.class_names or ()
        return known[number] if 0 <= number < len(known) else str(number)

    def _as_read(self, targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        kind = targets.dtype.kind
        if kind not in "iubf":
            raise DataError(f"targets are of the kind {targets.dtype}; expected numbers")
        return np.asarray(targets, dtype=np.float32 if kind == "f" else np.int64)


def as_source(value: Any, name: str) -> Source:
    """A source, or an array or tensor [N, ...] as one.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, (np.ndarray, Tensor, list)):
        array = array_of_numbers(value, f"the input {name!r}")
        return ArraySource(array, array.shape[1:])
    lacking = [
        attribute for attribute in ("shape", "__len__", "read") if not hasattr(value, attribute)
    ]
    if lacking or isinstance(value, type):
        raise DataError(
            f"the input {name!r} is {_kind(value)}; expected an array [N, ...], an ArraySource, or what else has "
            f"shape, __len__ and read (it lacks {', '.join(lacking) or 'an instance: it is a class'})"
        )
    return value  # type: ignore[no-any-return]


def array_of_numbers(value: Any, what: str) -> npt.NDArray[Any]:
    """An array of real numbers [N, ...]; a memory-mapped one stays on disk.

    Raises:
        DataError: it is none, with what to do.
    """
    array = _as_array(value, what)
    if array.dtype.kind not in "iufb":
        hint = {
            "O": "its samples are of different shapes or no numbers: pad or cut them to one shape",
            "U": "encode the text as numbers first",
            "S": "encode the text as numbers first",
            "c": "give its real and imaginary parts, or its size and phase",
        }.get(array.dtype.kind, "make it numbers first")
        raise DataError(f"{what} holds {array.dtype}; expected numbers: {hint}")
    if array.ndim == 0:
        raise DataError(f"{what} is a single number; expected an array [N, ...]")
    return array


def _as_array(value: Any, what: str) -> npt.NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise DataError(
            f"{what} is a masked array, whose mask is not looked at; fill it, or leave these samples out"
        )
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        array: npt.NDArray[Any] = value if isinstance(value, np.memmap) else np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{what} cannot be made an array: its rows are of different lengths ({error})"
        ) from None
    if array.ndim == 0 and array.dtype.kind == "O":
        raise DataError(f"{what} are {_kind(value)}; expected an array")
    return array


def _without_rows(values: Tensor, absent: Tensor) -> Tensor:
    """The values, 0 in the rows of samples that lack them."""
    return values.masked_fill(absent.reshape(-1, *(1,) * (values.dim() - 1)), 0)


def _as_presence(
    name: str, has: Any, sources: Mapping[str, Source], samples: int
) -> npt.NDArray[np.bool_]:
    """Which samples have an input."""
    array = _as_array(has, f"present {name!r}")
    if name not in sources:
        raise DataError(f"present names {name!r}; the inputs are {', '.join(sources)}")
    if array.dtype != np.bool_ or array.shape != (samples,):
        raise DataError(
            f"present {name!r} is {array.dtype} {list(array.shape)}; expected bool [{samples}], true where the sample "
            "has this input"
        )
    return np.asarray(array, dtype=np.bool_)


def _rows_of(rows: Any, samples: int) -> Indices:
    """Numbers of rows; of a mask, those where it is true."""
    if rows is None:
        return np.arange(samples)
    array = _as_array(rows, "rows")
    if array.dtype.kind == "b":
        if array.shape != (samples,):
            raise DataError(
                f"rows are a mask of the shape {list(array.shape)}; expected [{samples}]"
            )
        return np.flatnonzero(array)
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"rows are {array.dtype} of the shape {list(array.shape)}; expected whole numbers [n]"
        )
    low, high = int(array.min()), int(array.max())
    if low < -samples or high >= samples:
        raise DataError(
            f"rows go from {low} to {high}; there are {samples} samples: expected 0 to {samples - 1}"
        )
    return np.where(array < 0, array.astype(np.int64) + samples, array.astype(np.int64))


def _float_tensors(value: Any, where: str, count: int) -> Value:
    """What a source of the user's read, with numbers with a point in float32.

    Raises:
        DataError: no tensors of as many samples as were asked for.
    """
    if isinstance(value, Mapping):
        return {
            name: _float_tensor(part, f"{where}, {name!r}", count) for name, part in value.items()
        }
    return _float_tensor(value, where, count)


def _float_tensor(value: Any, where: str, count: int) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise DataError(
            f"it returned {_kind(value)}; expected a tensor [n, ...], or a dict of them"
        )
    if value.dim() == 0 or len(value) != count:
        raise DataError(
            f"it returned the shape {list(value.shape)} for {count} rows; expected [{count}, ...], a sample each"
        )
    return value.float() if value.is_floating_point() else value


def _split_again(files: UsersFiles, kind: type[Split], state: dict[str, Any]) -> Split:
    split = object.__new__(kind)
    split.__dict__.update(state)
    return split


def _kind(value: Any) -> str:
    return (
        "None"
        if value is None
        else f"the class {value.__name__}"
        if isinstance(value, type)
        else type(value).__name__
    )
