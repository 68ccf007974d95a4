"""What the targets of a user's data set are: made classes 0, 1, ... (and said), or numbers; else refused.

The same for all splits. Nothing is guessed where two things could be meant: a label of -1 may be a class or stand for
"unknown", so it is refused, with what to write for either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import DataError
from gradmod.tasks import Classification, MultiLabel, Regression, Task

Array = npt.NDArray[Any]
MOST_SHOWN = 5
MANY_CLASSES = 20
"""From so many classes on, a class for every second training sample looks like numbers."""
SOFT_SUM = 1e-2
"""How far the probabilities of a soft target may be from summing to 1."""


@dataclass
class _Targets:
    """Targets of all splits on their way.

    Attributes:
        of: split to [n, ...].
        notes: what was made of them.
    """

    of: dict[str, Array]
    notes: list[str] = field(default_factory=list)

    def together(self) -> Array:
        return np.concatenate(list(self.of.values()))

    def refuse_where(self, bad: Mapping[str, Any], what: str, to_do: str) -> None:
        """Raise DataError if any sample is bad.

        Args:
            bad: split to [n] whether a sample is.
            what: is wrong with it.
            to_do: about it.
        """
        counts = {name: int(of.sum()) for name, of in bad.items() if of.any()}
        if counts:
            name = next(iter(counts))
            shown = ", ".join(map(str, np.flatnonzero(bad[name])[:MOST_SHOWN]))
            raise DataError(
                f"{what}: {', '.join(f'{n} of {len(bad[m])} samples of {m}' for m, n in counts.items())} (in {name} "
                f"sample {shown}{', ...' if counts[name] > MOST_SHOWN else ''}); {to_do}"
            )


def settled(splits: Splits) -> Splits:
    """A data set whose targets are what its task takes, with the number of outputs, and notes on what was changed.

    Args:
        splits: as the user's function returned it.

    Raises:
        DataError: the targets are not what the task takes.
    """
    task = splits.task
    targets = _Targets({name: _plain(name, split.given_targets) for name, split in splits.items()})
    shapes = {name: list(of.shape[1:]) for name, of in targets.of.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise DataError(f"a target has the shape {shapes}; expected the same in all splits")
    texts = [name for name, of in targets.of.items() if of.dtype.kind == "U"]
    if 0 < len(texts) < len(shapes):
        raise DataError(
            f"the labels of {', '.join(texts)} are texts and those of the others numbers; expected the same in all"
        )
    if isinstance(task, Classification):
        names, outputs = _classes(targets, splits, task)
    else:
        names, outputs = (), _numbers(targets, splits, task)
    if splits.outputs is not None and outputs != splits.outputs:
        raise DataError(
            f"Splits(outputs={splits.outputs}), but the targets are {outputs} a sample; leave outputs out"
        )
    parts: dict[str, Any] = {
        name: split.with_targets(targets.of[name], names or None) for name, split in splits.items()
    }
    return replace(
        splits,
        **parts,
        notes=(*splits.notes, *targets.notes),
        outputs=outputs,
        classes=names,
    )


def _plain(name: str, array: Array) -> Array:
    """Targets as numbers or texts: objects and bytes as what they hold."""
    if array.dtype.kind == "O":
        flat = array.ravel().tolist()
        missing = sum(map(_is_missing, flat))
        if missing:
            raise DataError(
                f"the labels of {name} lack {missing} of {array.size} (None or NaN); leave these samples out of the "
                "rows: whole.subset(rows)"
            )
        kinds = {type(value) for value in flat}
        texts, numbers = (str, np.str_), (bool, int, float, np.number, np.bool_)
        listed = ", ".join(sorted(kind.__name__ for kind in kinds))
        if all(issubclass(kind, texts) for kind in kinds):
            return array.astype(str)
        if not all(issubclass(kind, numbers) for kind in kinds):
            expected = (
                "all numbers, or all texts"
                if len(kinds) > 1
                else "numbers or texts, one for each sample"
            )
            raise DataError(f"the labels of {name} are objects ({listed}); expected {expected}")
        array = np.array(array.tolist())
    if array.dtype.kind == "S":
        try:
            return np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"the labels of {name} are bytes that are not UTF-8 ({error})"
            ) from None
    if array.dtype.kind == "T":  # NumPy 2's texts of any length
        return array.astype(str)
    if array.dtype.kind not in "iufbU":
        raise DataError(
            f"the labels of {name} are of the kind {array.dtype}; expected numbers or texts"
        )
    return array


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and value != value)
    )


def _classes(
    targets: _Targets, splits: Splits, task: Classification
) -> tuple[tuple[str, ...], int]:
    """Make the targets classes; their names, and how many there are. Of soft ones, there are no names."""
    declared = splits.classes
    if splits.outputs is not None and declared and len(declared) != splits.outputs:
        raise DataError(
            f"Splits(outputs={splits.outputs}) and {len(declared)} classes; expected as many"
        )
    known = len(declared) or splits.outputs
    columns = _one_column(targets)
    if columns is not None:
        soft = _from_one_hot(targets, columns, known)
        if soft:
            return tuple(declared), columns
        known = known or columns
    values = targets.together()
    if values.dtype.kind == "f":
        _whole(targets, task)
        values = targets.together()
    if values.dtype.kind == "U":
        found = _texts(targets)
    elif values.dtype.kind == "b":
        found = np.array([False, True])
        targets.notes.append("the labels are true and false: class 0 is False, class 1 is True")
    else:
        found = _labels(targets, task, known)
    if declared:
        found = _declared(found, declared)
    names = tuple(declared) or tuple(str(value) for value in found)
    _number(targets, found, task)
    if known is not None and len(found) > known:
        raise DataError(
            f"the labels hold {len(found)} classes ({_some(found)}) and Splits says {known}; expected at most as many"
        )
    if known is not None and len(names) < known:
        names += tuple(str(number) for number in range(len(names), known))
    _tell_of_classes(targets, names, task)
    return names, len(names)


def _one_column(targets: _Targets) -> int | None:
    """Drop an axis of length 1; columns, where several are left."""
    shape = next(iter(targets.of.values())).shape[1:]
    if len(shape) > 1 and set(shape[1:]) == {1}:
        targets.of = {name: of.reshape(len(of), -1) for name, of in targets.of.items()}
        targets.notes.append(
            f"labels of the shape {['N', *shape]} are taken as ['N', {shape[0]}]".replace("'", "")
        )
        shape = shape[:1]
    if shape == (1,):
        targets.of = {name: of.reshape(len(of)) for name, of in targets.of.items()}
        targets.notes.append("the labels are one column [N, 1], taken as [N]")
        return None
    if len(shape) > 1:
        raise DataError(
            f"a label has the shape {list(shape)}; expected one class a sample, [N]: the networks that gradmod builds "
            "answer once for each sample"
        )
    return shape[0] if shape else None


def _from_one_hot(targets: _Targets, columns: int, known: int | None) -> bool:
    """Make rows [n, K] of a single 1 classes; True where they are soft: probabilities of the classes.

    Raises:
        DataError: they are neither, with what they may be.
    """
    values = targets.together()
    if values.dtype.kind == "U":
        raise DataError(f"a label is {columns} texts; expected one class a sample, [N]")
    wide = {name: of.astype(np.float64) for name, of in targets.of.items()}
    binary = bool(np.isin(values, (0, 1)).all())
    ones = {name: of.sum(1) for name, of in wide.items()}
    if binary and all((of == 1).all() for of in ones.values()):
        if known is not None and known != columns:
            raise DataError(
                f"the labels are one-hot of {columns} columns and Splits says {known} classes"
            )
        targets.of = {name: of.argmax(1).astype(np.int64) for name, of in wide.items()}
        targets.notes.append(
            f"the labels are one-hot: the class is the column that holds the 1, of {columns}"
        )
        return False
    finite = {name: np.isfinite(of).all(1) for name, of in wide.items()}
    sums = all(
        (of[finite[name]] >= 0).all() and (abs(ones[name][finite[name]] - 1) < SOFT_SUM).all()
        for name, of in wide.items()
    )
    if not binary and sums and any(of.any() for of in finite.values()):
        targets.of = {name: of.astype(np.float32) for name, of in wide.items()}
        return True
    if binary:
        targets.refuse_where(
            {name: of != 1 for name, of in ones.items()},
            f"labels of {columns} columns that are not one-hot",
            f"expected a single 1 in each row. If a sample may have several labels, or none, say "
            f"Splits(..., task=MultiLabel(), outputs={columns})",
        )
    raise DataError(
        f"a label is {columns} numbers ({_some(values[0])} the first); expected one class a sample, [N]. For numbers "
        f"say Splits(..., task=Regression(), outputs={columns})"
    )


def _whole(targets: _Targets, task: Classification) -> None:
    """Make floats that are whole numbers integers."""
    targets.refuse_where(
        {name: ~np.isfinite(of) for name, of in targets.of.items()},
        "the labels hold NaN or infinite values",
        "leave these samples out of the rows: whole.subset(rows)",
    )
    values = targets.together()
    broken = {name: of != np.floor(of) for name, of in targets.of.items()}
    if any(of.any() for of in broken.values()):
        example = next(of[broken[name]][0] for name, of in targets.of.items() if broken[name].any())
        targets.refuse_where(
            broken,
            f"the labels are no classes: {example:g}, say",
            "expected whole numbers or texts. To learn the number itself say Splits(..., task=Regression()), from "
            "gradmod.tasks",
        )
    if abs(values).max(initial=0) > 2**53:
        raise DataError(
            f"labels go up to {abs(values).max():g} as floats, which are not exact there; give them as int64"
        )
    targets.of = {name: of.astype(np.int64) for name, of in targets.of.items()}
    targets.notes.append("the labels are whole numbers in floats, taken as integers")


def _texts(targets: _Targets) -> Array:
    """Classes that are texts, in their order: as numbers where all are."""
    targets.refuse_where(
        {name: np.char.strip(of) == "" for name, of in targets.of.items()},
        "labels that are empty texts",
        "leave these samples out of the rows: whole.subset(rows)",
    )
    found = np.unique(targets.together())
    if all(_is_whole(text) for text in found.tolist()):
        found = found[np.argsort([int(text) for text in found.tolist()], kind="stable")]
    bare: dict[str, list[str]] = {}
    for text in found:
        bare.setdefault(" ".join(text.split()).casefold(), []).append(str(text))
    for alike in bare.values():
        if len(alike) > 1:
            targets.notes.append(
                f"warning: the classes {', '.join(map(repr, alike))} differ in capitals or spaces only; if they are "
                "one class, give them one name"
            )
    return found


def _labels(targets: _Targets, task: Classification, known: int | None) -> Array:
    """Classes that are integers, smallest first."""
    values = targets.together()
    ignored = getattr(task, "ignore_index", None)
    if ignored is not None:
        left_out = {name: int((of == ignored).sum()) for name, of in targets.of.items()}
        if any(left_out.values()):
            counts = ", ".join(f"{n} of {name}" for name, n in left_out.items() if n)
            targets.notes.append(f"samples with the label {ignored} are not scored: {counts}")
        values = values[values != ignored]
    found = np.unique(values)
    if not len(found):
        raise DataError("no sample has a label that is scored")
    if found[0] < 0 and found.tolist() != [-1, 1]:
        targets.refuse_where(
            {name: (of < 0) & (of != ignored) for name, of in targets.of.items()},
            f"labels below 0 ({_some(found[found < 0])})",
            "if they stand for unknown, leave these samples out of the rows: whole.subset(rows); if they are classes, "
            "give the classes as texts, or count them from 0",
        )
    if known is None or found[0] < 0:
        return found
    if found[-1] < known:
        return np.arange(known)
    if found[0] >= 1 and found[-1] == known:
        return np.arange(1, known + 1)
    if len(found) < known:
        raise DataError(
            f"labels go from {found[0]} to {found[-1]} and Splits says {known} classes; expected 0 to {known - 1}"
        )
    return found


def _declared(found: Array, declared: tuple[str, ...]) -> Array:
    """The labels that the classes have, in the order of the names that the user gave them."""
    some, count = _some(np.array(declared)), len(declared)
    if len(set(declared)) < count:
        raise DataError(f"Splits(classes=...) names a class twice: {some}")
    if found.dtype.kind == "U":
        unknown = [text for text in found.tolist() if text not in declared]
        if unknown:
            listed = ", ".join(map(repr, unknown[:MOST_SHOWN]))
            raise DataError(f"the labels {listed} are none of Splits(classes=...): {some}")
        return np.array(declared)
    if found.dtype.kind == "b" or (found.tolist() == [-1, 1] and count == 2):
        return found
    if found[0] >= 1 and found[-1] == count:
        return np.arange(1, count + 1)
    if found[0] < 0 or found[-1] >= count:
        raise DataError(
            f"labels go from {found[0]} to {found[-1]} and Splits(classes=...) names {count}; expected 0 to {count - 1}"
        )
    return np.arange(count)


def _number(targets: _Targets, found: Array, task: Classification) -> None:
    """Number the classes, and say so where their numbers change."""
    ignored = getattr(task, "ignore_index", None)
    labels = found.tolist()
    if found.dtype.kind == "U":
        by_number = " by number" if all(_is_whole(text) for text in labels) else ""
        targets.notes.append(
            f"the labels are texts: {len(found)} classes, sorted{by_number}: {_pairs(found)}"
        )
    elif found.dtype.kind in "iu" and labels != list(range(len(found))):
        why = "from 1 on" if labels == list(range(1, len(found) + 1)) else "not 0, 1, 2, ..."
        why = "-1 and 1" if labels == [-1, 1] else why
        targets.notes.append(
            f"the labels are {why}: {len(found)} classes, numbered in their order: {_pairs(found)}"
        )
    order = np.argsort(found, kind="stable")
    for name, of in targets.of.items():
        numbers = order[np.searchsorted(found, of, sorter=order).clip(max=len(found) - 1)].astype(
            np.int64
        )
        if ignored is not None and of.dtype.kind in "iu":
            numbers[of == ignored] = ignored
        targets.of[name] = numbers


def _tell_of_classes(targets: _Targets, names: tuple[str, ...], task: Classification) -> None:
    """Refuse a train split of one class; say what a split has and train has not.

    Raises:
        DataError: train has one class.
    """
    ignored = getattr(task, "ignore_index", None)
    counts = {
        name: np.bincount(of[of >= 0] if ignored is not None else of, minlength=len(names))
        for name, of in targets.of.items()
    }
    learnt = counts["train"] > 0
    if learnt.sum() < 2:
        only = names[int(learnt.argmax())] if learnt.any() else "none"
        raise DataError(
            f"all {int(counts['train'].sum())} samples of train are of one class, {only!r}; expected at least two: "
            "there is nothing to tell apart"
        )
    for name, of in counts.items():
        missing = np.flatnonzero((of > 0) & ~learnt)
        if len(missing):
            listed = ", ".join(f"{names[c]} ({of[c]})" for c in missing[:MOST_SHOWN])
            more = f" and {len(missing) - MOST_SHOWN} more" if len(missing) > MOST_SHOWN else ""
            targets.notes.append(
                f"warning: {name} has classes that train lacks, which cannot be learnt: {listed}{more}; "
                f"{int(of[missing].sum())} of {int(of.sum())} samples"
            )
    never = np.flatnonzero(np.sum(list(counts.values()), axis=0) == 0)
    if len(never):
        targets.notes.append(
            f"no sample is of {len(never)} of the classes: {_some(np.array(names)[never])}"
        )
    if len(names) > MANY_CLASSES and 2 * len(names) > counts["train"].sum():
        targets.notes.append(
            f"warning: {len(names)} classes for {int(counts['train'].sum())} samples of train; to learn a number say "
            "Splits(..., task=Regression())"
        )


def _numbers(targets: _Targets, splits: Splits, task: Task) -> int:
    """Make the targets floats [n, K]; K."""
    if splits.classes:
        raise DataError(f"Splits(classes=...) goes with Classification; the task is {task.name}")
    dtypes = {of.dtype.kind for of in targets.of.values()}
    if "U" in dtypes:
        raise DataError(
            f"the targets are texts; the task {task.name} takes numbers: for classes leave the task out"
        )
    if not isinstance(task, (MultiLabel, Regression)):
        if splits.outputs is None:
            raise DataError(
                f"the task {task.name} is of your own; say how many numbers the network returns: outputs=..."
            )
        return splits.outputs
    shape = next(iter(targets.of.values())).shape[1:]
    if len(shape) > 1:
        raise DataError(
            f"a target has the shape {list(shape)}; the task {task.name} takes [N] or [N, K]"
        )
    wide = {name: of.reshape(len(of), -1).astype(np.float32) for name, of in targets.of.items()}
    if not shape:
        targets.notes.append("the targets [N] are taken as one column [N, 1]")
    leave_out = "leave these samples out of the rows: whole.subset(rows)"
    targets.refuse_where(
        {name: np.isinf(of).any(1) for name, of in wide.items()},
        "the targets hold infinite values",
        leave_out,
    )
    if not _takes_missing(task, wide["train"].shape[1]):
        targets.refuse_where(
            {name: np.isnan(of).any(1) for name, of in wide.items()},
            "the targets hold NaN",
            leave_out,
        )
    for name, of in wide.items():
        if np.isnan(of).all():
            raise DataError(f"every target of {name} is NaN; expected numbers")
    if isinstance(task, MultiLabel):
        targets.refuse_where(
            {name: ((of < 0) | (of > 1)).any(1) for name, of in wide.items()},
            "labels that are not from 0 to 1",
            f"the task {task.name} takes 0 or 1 for each label",
        )
    targets.of = wide
    return wide["train"].shape[1]


def _takes_missing(task: Task, outputs: int) -> bool:
    """Whether a task leaves out targets that are NaN."""
    import torch

    target = torch.zeros(2, outputs)
    target[0, 0] = torch.nan
    with torch.no_grad():
        return bool(task.loss(torch.zeros(2, outputs), target).isfinite())


def _is_whole(text: str) -> bool:
    return text.strip().removeprefix("-").isdigit()


def _pairs(found: Array) -> str:
    shown = [f"{number} = {value}" for number, value in enumerate(found[:MANY_CLASSES].tolist())]
    return ", ".join(shown) + (", ..." if len(found) > MANY_CLASSES else "")


def _some(values: Array) -> str:
    flat = values.ravel()
    return ", ".join(str(value) for value in flat[:MOST_SHOWN].tolist()) + (
        ", ..." if flat.size > MOST_SHOWN else ""
    )
