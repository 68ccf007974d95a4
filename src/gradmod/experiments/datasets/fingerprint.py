"""What a divided data set is, in few figures, so that a run knows its data again.

Of every split: its size and class counts; a hash of its targets, of which samples it holds and of their names; and for
each input two sketches. A sketch is a few sums of values with fixed signs: one of whole samples that are spread over
the split; one of some values of every sample, where samples are rows of an array, which costs little. Sums are compared
with a tolerance, because another machine decodes and standardises to other last digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.split import Indices, Split
from gradmod.experiments.datasets.splits import Splits

FORMAT = 1
PROBED_SAMPLES = 32
"""Samples of a split that are read whole."""
VALUES = 16
"""Values of each sample of an array that are looked at."""
SUMS = 4
TOLERANCE = 1e-3
"""Of a sum, in root mean squares of the values."""
LARGE_ARRAY = 128 * 2**20
PAGE = 4096
"""Of a large array on disk, the values of a sample lie in about one page, so that few pages are read."""

Record = dict[str, Any]


def record_of(data: Splits) -> Record:
    """What is kept of a data set: plain values, for JSON."""
    return {"format": FORMAT, "splits": {name: _of_split(split) for name, split in data.items()}}


def differences(before: Record, now: Record) -> list[str]:
    """In what two records differ, a few words each; empty: the data are the same as far as both say."""
    found: list[str] = []
    old, new = before["splits"], now["splits"]
    for name in dict.fromkeys([*old, *new]):
        if name not in new or name not in old:
            found.append(f"there is {'no' if name in old else 'a'} {name} split now")
            continue
        found += [f"{name}: {what}" for what in _of_one(old[name], new[name])]
    return found


def _of_one(old: Record, new: Record) -> Iterator[str]:
    """Differences of a split."""
    if old["samples"] != new["samples"]:
        yield f"{new['samples']} samples, {old['samples']} then"
        return
    counts, others = old.get("classes"), new.get("classes")
    if counts != others and counts is not None and others is not None:
        changed = [c for c in dict.fromkeys([*counts, *others]) if counts.get(c) != others.get(c)]
        shown = ", ".join(
            f"{others.get(c, 0)} of class {c}, {counts.get(c, 0)} then" for c in changed[:3]
        )
        yield f"other labels ({shown})"
    elif (counts is None) != (others is None):
        yield "targets of another kind"
    elif _differ(old, new, "targets"):
        yield "other labels, or in another order"
    elif _differ(old, new, "names"):
        yield "samples of other names, or in another order"
    elif _differ(old, new, "rows"):
        yield "other samples of the data set were drawn"
    if old.get("present", {}) != new.get("present", {}):
        yield "other samples lack an input"
    inputs, others = old.get("inputs"), new.get("inputs")
    if inputs is None or others is None:
        return
    for m in dict.fromkeys([*inputs, *others]):
        if m not in inputs or m not in others:
            yield f"{m} is {'missing' if m in inputs else 'new'}"
        elif inputs[m]["shape"] != others[m]["shape"]:
            yield f"{m} has the shape {others[m]['shape']}, {inputs[m]['shape']} then"
        elif not all(
            _same_sketch(inputs[m].get(kind), others[m].get(kind)) for kind in ("whole", "every")
        ):
            yield f"other values of {m}"


def _differ(old: Record, new: Record, key: str) -> bool:
    return None not in (old.get(key), new.get(key)) and old[key] != new[key]


def _of_split(split: Split) -> Record:
    names = [n for source in split.sources.values() for n in _names(source, split.rows)]
    return {
        "samples": len(split),
        "classes": split.class_counts(),
        "targets": _hash(np.ascontiguousarray(split.targets).tobytes()),
        "rows": _hash(np.ascontiguousarray(split.rows).tobytes()),
        "names": _hash("\n".join(names).encode()) if names else None,
        "present": {name: _hash(has.tobytes()) for name, has in split.present.items()},
        "inputs": {
            name: {
                "shape": list(source.shape),
                "whole": _of_whole_samples(source, split),
                "every": _of_every_sample(source, split.rows),
            }
            for name, source in split.sources.items()
        },
    }


def _names(source: Any, rows: Indices) -> list[str]:
    """Names of the files that a source reads its samples from; none where they lie in one."""
    paths = getattr(source, "paths", None)
    if isinstance(paths, Sequence) and len(paths) != len(source):
        return []  # those of whole arrays
    return (
        [str(getattr(paths[row], "stem", paths[row])) for row in rows]
        if isinstance(paths, Sequence)
        else []
    )


def _of_whole_samples(source: Any, split: Split) -> list[float] | None:
    """Sketch of samples spread over the split; None: they are not the same when they are read again."""
    if not len(split):
        return []
    positions = np.unique(
        np.linspace(0, len(split) - 1, min(PROBED_SAMPLES, len(split))).astype(np.int64)
    )
    first = _whole(source, split.rows[positions])
    again = _whole(source, split.rows[positions[:2]])
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=False)):
        return None
    return _sketch(np.concatenate(first))


def _of_every_sample(source: Any, rows: Indices) -> list[float] | None:
    """Sketch of some values of every sample; None: the source is no array."""
    values = _some_of_every_sample(source, rows)
    return None if values is None else _sketch(values)


def _some_of_every_sample(source: Any, rows: Indices) -> npt.NDArray[Any] | None:
    """[n, values] of a source that is rows of an array, or of two behind each other; None: it is something else."""
    if hasattr(source, "first") and hasattr(source, "second"):
        split_at = len(source.first)
        early, late = rows[rows < split_at], rows[rows >= split_at] - split_at
        parts = [
            _some_of_every_sample(source.first, early),
            _some_of_every_sample(source.second, late),
        ]
        known = [part for part in parts if part is not None]
        return (
            np.concatenate([part.ravel() for part in known]) if len(known) == len(parts) else None
        )
    array = getattr(source, "array", None)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uifb" or not len(array):
        return None
    flat = array.reshape(len(array), -1)
    width = flat.shape[1]
    span = max(1, min(width, PAGE // array.itemsize if array.nbytes > LARGE_ARRAY else width))
    # Not the same places in each sample: in pictures many are black everywhere.
    begins = (rows * 2654435761) % max(1, width - span + 1)
    steps = np.arange(min(VALUES, span)) * (span // min(VALUES, span))
    shift = (rows * 40503) % max(1, span // min(VALUES, span))
    columns = np.minimum(begins[:, None] + steps + shift[:, None], width - 1)
    return np.asarray(flat[rows[:, None], columns], dtype=np.float64) / getattr(
        source, "scale", 1.0
    )


def _whole(source: Any, rows: Indices) -> list[npt.NDArray[np.float64]]:
    """Samples, read one at a time: in a batch each is padded to the longest."""
    found = []
    for row in rows:
        value = source.read(np.asarray([row], dtype=np.int64), None)
        leaves = [value[key] for key in sorted(value)] if isinstance(value, Mapping) else [value]
        found.append(
            np.concatenate([np.asarray(leaf, dtype=np.float64).ravel() for leaf in leaves])
        )
    return found


def _sketch(values: npt.NDArray[Any]) -> list[float]:
    flat = np.nan_to_num(np.asarray(values, dtype=np.float64).ravel(), posinf=0, neginf=0)
    if not len(flat):
        return []
    signs = np.random.default_rng(0)
    sums = [
        float((flat * (signs.integers(0, 2, len(flat), dtype=np.int8) * 2 - 1)).sum())
        for _ in range(SUMS)
    ]
    return [*(total / len(flat) ** 0.5 for total in sums), float(np.sqrt(np.mean(flat**2)))]


def _same_sketch(old: Sequence[float] | None, new: Sequence[float] | None) -> bool:
    if old is None or new is None:
        return True
    if len(old) != len(new):
        return False
    size = max([abs(values[-1]) for values in (old, new) if values], default=0.0)
    return all(abs(a - b) <= TOLERANCE * size for a, b in zip(old, new, strict=True))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
