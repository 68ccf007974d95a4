"""A data set of the user's own: its function is called, and what it returns is looked at before anything is trained."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradmod.experiments.datasets.classes import settled
from gradmod.experiments.datasets.problems import DataProblemsError, Problems
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.import_strings import place_of
from gradmod.experiments.own_code import call_of, running
from gradmod.tasks import Classification, Task

PARTS = ("train", "validation", "test", "predictor")
CHECKED_ROWS = 2
MOST_SHOWN = 5


def load_own(loader: Any, where: str, root: str, protocol: str, split_seed: int) -> Splits:
    """Call the user's function and check what it returns.

    Args:
        loader: the function.
        where: "folder/file.py:function", for messages.
        root: its first argument.
        protocol: its second.
        split_seed: its third.

    Returns:
        The data set, its targets as the task takes them and with notes on what was changed.

    Raises:
        ConfigError: the function takes other arguments, or returns something else.
        DataError: it fails, or what it returns cannot be trained on.
    """
    place = place_of(loader, where)
    arguments = {"root": root, "protocol": protocol, "split_seed": split_seed}
    call = call_of(loader, place, where, arguments, f"load({', '.join(arguments)})")
    with running(where, place):
        splits = call()
    if not isinstance(splits, Splits):
        raise ConfigError(
            f"{place}: {where} returned {type(splits).__name__}; expected gradmod.data.Splits{_hint_on(splits)}"
        )
    try:
        return _checked(splits)
    except DataError as error:
        problems = Problems()
        problems.add(error)
        file = place.rpartition(", line ")[0]  # an error of the user's code names its own line
        raise DataProblemsError(
            *(
                text if file and text.startswith(file) else f"{place}: {text}"
                for text in problems.messages
            )
        ) from error


def _hint_on(value: Any) -> str:
    """What to write in place of what was returned."""
    if value is None:
        return ": does it lack its return?"
    if isinstance(value, Mapping):
        missing = [name for name in PARTS[:2] if name not in value]
        names = ", ".join(map(repr, list(value)[:MOST_SHOWN]))
        return f": its keys are {names}; write Splits(train, validation, test, predictor)" + (
            f", of which {' and '.join(missing)} must be there" if missing else ""
        )
    if (
        isinstance(value, (tuple, list))
        and value
        and all(isinstance(part, Split) for part in value)
    ):
        return ": write Splits(train, validation, test, predictor) in place of a sequence of Split"
    return ": write return Splits(train, validation, test, predictor), each a Split or, of the last two, None"


def _checked(splits: Splits) -> Splits:
    _check_kinds(splits)
    names = list(splits.train.sources)
    for part, split in splits.items():
        if set(split.sources) != set(names):
            raise DataError(
                f"{part} has the inputs {', '.join(split.sources)} and train {', '.join(names)}"
            )
        if not len(split):
            raise DataError(f"{part} has no sample; expected some, or for test and predictor None")
        for name, shape in split.shapes.items():
            if tuple(shape) != tuple(splits.train.shapes[name]):
                raise DataError(
                    f"a sample of the input {name!r} has the shape {list(shape)} in {part} and "
                    f"{list(splits.train.shapes[name])} in train; expected the same in all splits"
                )
    check_names(names, splits.modalities)
    problems, done = Problems(), splits
    for part, split in splits.items():
        for name in names:
            try:
                _refuse_absent_everywhere(part, split, name)
                _check_input(part, split, name)
            except DataError as error:
                problems.add(error)
    try:
        done = settled(splits)
        _check_task(done)
    except DataError as error:
        problems.add(error)
    problems.raise_any()
    return done


def _check_kinds(splits: Splits) -> None:
    for part in PARTS:
        split = getattr(splits, part)
        if not isinstance(split, Split) and (split is not None or part in PARTS[:2]):
            kind = "None" if split is None else type(split).__name__
            raise DataError(
                f"{part} is {kind}; expected a Split" + (" or None" if part in PARTS[2:] else "")
            )
    if isinstance(splits.task, type) and issubclass(splits.task, Task):
        raise DataError(f"task is the class {splits.task.__name__}; write {splits.task.__name__}()")
    if not isinstance(splits.task, Task):
        raise DataError(
            f"task is {type(splits.task).__name__}; expected one of gradmod.tasks, Classification() say"
        )
    outputs = splits.outputs
    if outputs is not None and (
        isinstance(outputs, bool) or not isinstance(outputs, (int, np.integer)) or outputs < 1
    ):
        raise DataError(f"outputs is {outputs!r}; expected a whole number >= 1, or None")
    for field in ("notes", "classes", "modalities"):
        value = getattr(splits, field)
        if value is not None and (
            isinstance(value, str) or not all(isinstance(text, str) for text in value)
        ):
            raise DataError(f"{field} is {value!r}; expected a tuple of texts: ({value!r},)")


def check_names(names: list[str], modalities: tuple[str, ...] | None) -> None:
    """Check that inputs are called as modules can be, and that the modalities are among them.

    Raises:
        DataError: one is not.
    """
    if not names:
        raise DataError("train has no input; expected one source for each modality")
    taken = nn.ModuleDict()
    for name in names:
        if (
            not isinstance(name, str)
            or not name
            or "." in name
            or hasattr(taken, name)
            or name == "multimodal"
        ):
            raise DataError(
                f"an input is called {name!r}; expected a name without a dot, that no module and no setting has: "
                f"{str(name).replace('.', '_') or 'input'}_input, say"
            )
    for name in modalities or ():
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise DataError(f"modalities names {name!r}; the inputs are {', '.join(names)}{hint}")
    if modalities is not None and (not modalities or len(set(modalities)) < len(modalities)):
        raise DataError(f"modalities is {list(modalities)}; expected at least one, each once")


def _check_input(part: str, split: Split, name: str) -> None:
    """Read the first samples, and look at the values of what lies in memory."""
    source = split.sources[name]
    if isinstance(source, ArraySource):
        _refuse_not_finite(part, split, name, source)
    value = split.read_input(name, range(min(CHECKED_ROWS, len(split))))
    if isinstance(value, dict):
        if not isinstance(value.get("x"), Tensor) or not value["x"].is_floating_point():
            raise DataError(
                f"the input {name!r} is read as {sorted(map(str, value))}; expected a tensor, or for sequences "
                '{"x": [n, T, features] floats, "mask": [n, T] bool}'
            )
        mask = value.get("mask")
        if (
            not isinstance(mask, Tensor)
            or mask.dtype != torch.bool
            or mask.shape != value["x"].shape[:2]
        ):
            raise DataError(
                f'the input {name!r} lacks its "mask" [n, T] bool, true where there is something'
            )
        return
    if tuple(value.shape[1:]) != tuple(source.shape):
        raise DataError(
            f"a sample of the input {name!r} of {part} is read with the shape {list(value.shape[1:])}, and its source "
            f"says {list(source.shape)}"
        )
    if not value.is_floating_point():
        raise DataError(
            f"the input {name!r} is read as {value.dtype}; expected float32: give its numbers as floats"
        )


def _refuse_absent_everywhere(part: str, split: Split, name: str) -> None:
    has = split.present.get(name)
    if has is not None and not has.any():
        raise DataError(
            f"no sample of {part} has the input {name!r}; expected some: leave the input out, or divide the samples "
            "otherwise"
        )


def _refuse_not_finite(part: str, split: Split, name: str, source: ArraySource) -> None:
    """Of an array in memory: before a network is trained on it, and not after."""
    array = source.array
    if isinstance(array, np.memmap) or array.dtype.kind != "f":
        return
    has = split.present.get(name)
    rows = np.unique(split.rows if has is None else split.rows[has])
    flat = array.reshape(len(array), -1)
    largest = np.finfo(np.float32).max * abs(source.scale)
    bad = np.concatenate(
        [
            ~(abs(flat[some]) <= largest).all(1)
            for some in np.array_split(rows, max(len(rows) // 4096, 1))
        ]
    )
    if bad.any():
        positions = np.flatnonzero(np.isin(split.rows, rows[bad]))
        shown = ", ".join(map(str, positions[:MOST_SHOWN]))
        raise DataError(
            f"the input {name!r} holds values that are not finite (NaN, infinite, or beyond float32) in "
            f"{len(positions)} of {len(split)} samples of {part}: sample {shown}"
            f"{', ...' if len(positions) > MOST_SHOWN else ''}; put numbers in their place, say that these samples "
            f"lack it, Split(..., present={{{name!r}: has}}), or leave them out of the rows: whole.subset(rows)"
        )


def _check_task(splits: Splits) -> None:
    """What the task says of targets that go with one answer for each sample."""
    assert splits.outputs is not None
    for part, split in splits.items():
        target = torch.from_numpy(split.targets[: max(CHECKED_ROWS, splits.outputs + 1)])
        try:
            splits.task.check(torch.zeros(len(target), splits.outputs), target)
        except ValueError as error:
            soft = (
                " (soft targets)"
                if isinstance(splits.task, Classification) and target.dim() > 1
                else ""
            )
            raise DataError(
                f"the targets of {part}{soft} do not go with the task {splits.task.name!r}: {error}"
            ) from None
