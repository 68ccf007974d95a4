"""In which form the values of image-like arrays are: 0..255, centred, or scaled already; and what divides them.

The form decides whether values are divided by 255. It is a property of a file, so it is judged on all of it and never
on a sample or a batch: a dark image is no image in 0..1. Training and test files must have the same form. Where the
values fit no form, or more than one, they are refused: a wrong division costs most of the accuracy and shows nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError

BYTE = 255.0
_CHUNK_BYTES = 16 * 2**20

# Bounds between the forms. They leave gaps on purpose: what falls into a gap is refused.
_REACHED, _REACHED_BY_BYTES = 128.0, 32.0
"""What the largest value of a file in 0..255 reaches at least: a whole set of images that stays darker is of another
scale (0..16, 0..60 dB, 0..100). Of uint8 less is asked: the type itself speaks for 0..255."""
_SMALL = 2.0
"""Values up to here were scaled already: 0..1, and what resizing or centring makes of it."""
_TWICE = 1 / 64
"""Values that do not reach this were divided twice."""
_ROUNDING = 0.5
"""How far values in 0..255 may lie outside by rounding."""
_WIDEST = 2 * BYTE
"""Centred values, and partial reconstructions of them, stay within this."""
_NEGATIVE = 0.01
"""Share of negative values of a file that is centred or standardised, at least: fewer are damage."""
_UNIT_DEVIATION, _BYTE_DEVIATION = 4.0, 8.0
"""Largest standard deviation of signed values that were scaled already (a standardised file has 1, yet values above
200), and smallest of those that were not (the published images have 33)."""
_POSITIVE = 64.0
"""What the largest value of a centred file reaches at least; decibels have both signs, too, but not this."""
_TOLD_APART = 0.2
"""Difference of the shares of negative values from which on two files are not centred alike."""
_MIXED = 0.1
"""Share of samples in 0..1 from which on a file in 0..255 holds two scales."""

EXPECTED = (
    "expected values from 0 to 255 or centred ones of that scale (they are divided by 255), or from 0 to 1, -1 to 1 or "
    "standardised ones (they are taken as they are)"
)


@dataclass(frozen=True)
class Form:
    """What the values of a file are.

    Attributes:
        divisor: what they are divided by.
        name: in words.
    """

    divisor: float
    name: str


BYTES = Form(BYTE, "0..255, divided by 255")
CENTRED = Form(BYTE, "centred, divided by 255 as they are")
UNIT = Form(1.0, "scaled to 0..1 already, taken as they are")
SIGNED = Form(1.0, "centred and scaled already, taken as they are")


@dataclass(frozen=True)
class ValueFacts:
    """What was seen of the values of one file.

    Attributes:
        path: the file.
        dtype: of its values.
        samples: how many it has.
        low, high: smallest and largest value.
        low_at, high_at: the samples that hold them.
        negative: share of the values that are below 0.
        dim: samples that hold fractions and nothing above 1, though not only zeros.
        dim_at: the first of them.
        moments: sum and sum of squares, from which the deviation of two files together follows.
        values: how many values.
    """

    path: Path
    dtype: np.dtype[Any]
    samples: int
    low: float
    high: float
    low_at: int
    high_at: int
    negative: float
    dim: int
    dim_at: int
    moments: tuple[float, float]
    values: int

    @classmethod
    def of(cls, path: Path, array: npt.NDArray[Any], *, brief: bool = False) -> ValueFacts:
        """Read an array chunk by chunk; nothing is kept.

        Args:
            path: its file, for messages.
            array: [N, ...] numbers, memory-mapped or not; N >= 1.
            brief: stop where bytes have shown that they are 0..255: what is to come cannot change it.

        Raises:
            DataError: a value is not finite; names the sample.
        """
        low, high, low_at, high_at = np.inf, -np.inf, 0, 0
        negatives = dims = dim_at = values = 0
        total = squares = 0.0
        step = max(1, _CHUNK_BYTES // max(1, array[0].nbytes))
        for start in range(0, len(array), step):
            chunk = np.asarray(array[start : start + step])
            rows = chunk.reshape(len(chunk), -1)
            tops, bottoms = (extremes.astype(np.float64) for extremes in (rows.max(1), rows.min(1)))
            _check_finite(path, rows, start, tops, bottoms)
            if bottoms.min() < low:
                low, low_at = float(bottoms.min()), start + int(bottoms.argmin())
            if tops.max() > high:
                high, high_at = float(tops.max()), start + int(tops.argmax())
            values += rows.size
            negatives += int(np.count_nonzero(rows < 0)) if bottoms.min() < 0 else 0
            if array.dtype.kind == "f":
                largest = np.maximum(np.abs(tops), np.abs(bottoms))
                dim = np.flatnonzero(largest <= 1)
                dim = dim[(rows[dim] != np.floor(rows[dim])).any(1)]
                dim_at = start + int(dim[0]) if len(dim) and not dims else dim_at
                dims += len(dim)
            if array.dtype.kind != "u":
                flat = rows.astype(np.float64, copy=False).reshape(-1)
                total, squares = total + float(flat.sum()), squares + float(flat @ flat)
            if brief and array.dtype == np.uint8 and high >= _REACHED and low < high:
                break
        moments = total, squares
        share = negatives / values
        return cls(
            path,
            array.dtype,
            len(array),
            low,
            high,
            low_at,
            high_at,
            share,
            dims,
            dim_at,
            moments,
            values,
        )

    def __str__(self) -> str:
        return _seen(str(self.dtype), self.low, self.high, self.negative)


def form_of(files: Sequence[ValueFacts]) -> Form:
    """The one form of the files of one input (train and test), judged on all their values.

    Raises:
        DataError: the values fit no form, or the files have different ones.
    """
    for facts in files:
        if facts.low == facts.high:
            raise DataError(
                f"{facts.path}: every value is {facts.low:g}; expected images or spectrograms"
            )
    form = _form(files)
    if form is None:
        raise DataError(_refusal(files))
    own = [(facts, _form([facts])) for facts in files]
    for facts, its in own:
        if its is not None and its.divisor != form.divisor:
            others = "; ".join(f"{other.path}: {other}" for other in files if other is not facts)
            raise DataError(
                f"{facts.path}: {facts}; but {others}. Expected one scale: convert one of them"
            )
    shares = [facts.negative for facts in files]
    if max(shares) - min(shares) > _TOLD_APART:
        raise DataError(
            f"{'; '.join(f'{facts.path}: {facts}' for facts in files)}. Some are centred and some are not: expected "
            "the same of all; convert one of them"
        )
    for facts in files:
        if form.divisor != 1 and facts.dim > _MIXED * facts.samples:
            raise DataError(
                f"{facts.path}: {facts.dim} of {facts.samples} samples, first {facts.dim_at}, hold fractions up to 1, "
                f"and others values up to {facts.high:.4g}: two scales in a file; convert it to one"
            )
    return form


def described(files: Sequence[ValueFacts], form: Form) -> str:
    """What was found in the files of one input, and what is done with it, on one line."""
    dtypes = " and ".join(dict.fromkeys(str(facts.dtype) for facts in files))
    low, high = min(facts.low for facts in files), max(facts.high for facts in files)
    dim = sum(facts.dim for facts in files) if form.divisor != 1 else 0
    note = (
        f"; {dim} of {sum(facts.samples for facts in files)} samples hold nothing above 1"
        if dim
        else ""
    )
    return f"{_seen(dtypes, low, high, _negative(files))}: {form.name}{note}"


def _form(files: Sequence[ValueFacts]) -> Form | None:
    """The form that the values of all files together have; None: none, or it cannot be told."""
    low, high = min(facts.low for facts in files), max(facts.high for facts in files)
    largest = max(-low, high)
    negative = _negative(files)
    floats = all(facts.dtype.kind == "f" for facts in files)
    if largest < _TWICE:
        return None
    if floats and largest <= _SMALL:
        return SIGNED if negative >= _NEGATIVE else UNIT
    if low >= -_ROUNDING and negative < _NEGATIVE:
        reached = _REACHED_BY_BYTES if all(facts.dtype == np.uint8 for facts in files) else _REACHED
        return BYTES if reached <= high <= BYTE + _ROUNDING else None
    if negative < _NEGATIVE or largest > _WIDEST or any(facts.dtype == np.int8 for facts in files):
        return None
    deviation = _deviation(files)
    if floats and deviation <= _UNIT_DEVIATION:
        return SIGNED
    return CENTRED if deviation >= _BYTE_DEVIATION and high >= _POSITIVE else None


def _negative(files: Sequence[ValueFacts]) -> float:
    """Share of the values of all files that are below 0."""
    return sum(facts.negative * facts.values for facts in files) / sum(
        facts.values for facts in files
    )


def _deviation(files: Sequence[ValueFacts]) -> float:
    values = sum(facts.values for facts in files)
    mean, square = (sum(facts.moments[i] for facts in files) / values for i in (0, 1))
    return float(np.sqrt(max(0.0, square - mean**2)))


def _refusal(files: Sequence[ValueFacts]) -> str:
    """Why the values are refused, with what helps where that is plain."""
    found = "; ".join(f"{facts.path}: {facts}" for facts in files)
    low, high = min(files, key=lambda facts: facts.low), max(files, key=lambda facts: facts.high)
    largest = max(-low.low, high.high)
    if largest < _TWICE:
        return f"{found}: divided by 255 twice? Multiply by 255; {EXPECTED}"
    if all(facts.dtype.kind in "iu" for facts in files) and largest <= 1:
        return f"{found}: whole numbers up to 1; if fractions were cut off, make the file again. {EXPECTED}"
    if low.dtype == np.int8 and low.low < 0:
        return f"{found}: int8 does not hold 0..255, so they were shifted or have overflowed; save uint8. {EXPECTED}"
    few = _negative(files) < _NEGATIVE
    if few and low.low < -_ROUNDING and high.high <= BYTE + _ROUNDING:
        return (
            f"{low.path}: sample {low.low_at} holds {low.low:g}, the values are {low}; {EXPECTED}"
        )
    if largest > BYTE and high.dtype.kind in "iu" and low.low >= 0:
        return f"{found}: more than 8 bits; divide them by their range and save floats from 0 to 1. {EXPECTED}"
    if largest > BYTE:
        side, at, value = (
            (high, high.high_at, high.high) if largest == high.high else (low, low.low_at, low.low)
        )
        return f"{side.path}: sample {at} holds {value:g}, the values are {side}; {EXPECTED}"
    return f"{found}: it cannot be told of which scale that is; {EXPECTED}. Convert them to one of these"


def _check_finite(
    path: Path,
    rows: npt.NDArray[Any],
    start: int,
    tops: npt.NDArray[Any],
    bottoms: npt.NDArray[Any],
) -> None:
    # An extreme of what holds NaN is NaN.
    wrong = np.flatnonzero(~(np.isfinite(tops) & np.isfinite(bottoms)))
    if len(wrong):
        row = rows[wrong[0]]
        value = row[~np.isfinite(row)][0]
        raise DataError(
            f"{path}: sample {start + int(wrong[0])} holds {value}; expected finite values"
        )


def _seen(dtype: str, low: float, high: float, negative: float) -> str:
    return f"{dtype}, {low:.4g} to {high:.4g}, {_percent(negative)} negative"


def _percent(share: float) -> str:
    return (
        f"{100 * share:.0f} %"
        if share in (0, 1) or 0.01 <= share <= 0.99
        else f"{100 * share:.3g} %"
    )
