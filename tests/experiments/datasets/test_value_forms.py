"""Of which scale the values of a file are: judged on all of it, from both sides, refused where it cannot be told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradmod.experiments.datasets import value_forms
from gradmod.experiments.datasets.value_forms import (
    BYTES,
    CENTRED,
    SIGNED,
    UNIT,
    Form,
    ValueFacts,
    described,
    form_of,
)
from gradmod.experiments.errors import DataError

Array = np.ndarray[Any, Any]


def grey(rows: int = 60, seed: int = 0) -> Array:
    """[rows, 784] images of dark ground and bright strokes, whole numbers 0..255 in float64."""
    draws = np.random.default_rng(seed)
    shares = draws.random((rows, 784)) * (draws.random((rows, 784)) < 0.2)
    shares[:, 0] = 1
    return np.asarray((shares * 255).round())


def centred(rows: int = 60, seed: int = 0) -> Array:
    """As the published images: about half of the values negative, from about -190 to 250."""
    images = grey(rows, seed)
    return np.asarray((images - images.mean(0)) * 1.0)


def facts(array: Array, name: str = "train.npy") -> ValueFacts:
    return ValueFacts.of(Path(name), array)


def form(*arrays: Array) -> Form:
    return form_of([facts(array, f"{number}.npy") for number, array in enumerate(arrays)])


def standardised(images: Array) -> Array:
    return np.asarray((images - images.mean()) / images.std())


def with_rows(count: int, row: Array) -> Array:
    """The centred images, every third of them replaced by `row`."""
    images = centred(count)
    images[::3] = row
    return images


KNOWN: dict[str, tuple[Array, Form]] = {
    "uint8": (grey().astype(np.uint8), BYTES),
    "dark uint8": ((grey() / 4).astype(np.uint8), BYTES),
    "dim rows, yet above 1": (with_rows(60, np.linspace(-0.3, 1.5, 784)), CENTRED),
    "rows that reach far below 0 alone": (with_rows(60, np.linspace(-90.5, 0.5, 784)), CENTRED),
    "logarithms": (np.random.default_rng(0).normal(-6, 2, (60, 50)), SIGNED),
    "uint16 of bytes": (grey().astype(np.uint16), BYTES),
    "int64 of bytes": (grey().astype(np.int64), BYTES),
    "big-endian": (grey().astype(">f4"), BYTES),
    "float16 0..255": (grey().astype(np.float16), BYTES),
    "float32 0..255": (grey().astype(np.float32), BYTES),
    "float64 0..255 with fractions": (grey() * 0.99, BYTES),
    "255 and a little, by rounding": (grey() * 1.001, BYTES),
    "centred float64": (centred(), CENTRED),
    "centred float32": (centred().astype(np.float32), CENTRED),
    "centred int16": (centred().round().astype(np.int16), CENTRED),
    "a reconstruction that overshoots": (1.4 * centred(), CENTRED),
    "float32 0..1": ((grey() / 255).astype(np.float32), UNIT),
    "float16 0..1": ((grey() / 255).astype(np.float16), UNIT),
    "float64 0..1": (grey() / 255, UNIT),
    "0..1 and a little, by rounding": (grey() / 254.9, UNIT),
    "0..1 at half of its range": (grey() / 512, UNIT),
    "black and white floats": ((grey() > 99).astype(np.float32), UNIT),
    "-1..1": (grey() / 127.5 - 1, SIGNED),
    "centred and divided already": (centred() / 255, SIGNED),
    "standardised": (standardised(grey()), SIGNED),
    "standardised by pixel, with rare strokes": (
        np.insert(standardised(grey(4000)), range(0, 4000, 50), np.eye(784)[:80] * 200, axis=0),
        SIGNED,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_forms(name: str) -> None:
    array, expected = KNOWN[name]
    assert form(array) is expected
    assert form(array, array[:20]) is expected


REFUSED: dict[str, tuple[Sequence[Array], str]] = {
    "uint8 of black and white": ([(grey() > 99).astype(np.uint8)], "whole numbers up to 1"),
    "fractions cut off": ([(grey() / 255).astype(np.int64)], "whole numbers up to 1"),
    "uint8 0..16": ([(grey() / 16).astype(np.uint8)], "cannot be told"),
    "float 0..16": ([grey() / 16], "cannot be told"),
    "decibels": ([grey() / 4 - 80], "cannot be told"),
    "decibels of both signs": ([grey() / 4 - 40], "cannot be told"),
    "positive decibels": ([grey() / 4.25], "cannot be told"),
    "percent": ([grey() / 2.55], "cannot be told"),
    "16 bits": ([(grey() * 257).astype(np.uint16)], "more than 8 bits"),
    "12 bits": ([(grey() * 16).astype(np.int32)], "more than 8 bits"),
    "signed, of small spread": ([np.insert(centred(60) / 12, 0, 90, axis=1)], "cannot be told"),
    "small whole numbers of both signs": (
        [(standardised(grey()) * 3).round().astype(np.int16)],
        "cannot be told",
    ),
    "black and white bytes beside 0..1": (
        [(grey() > 99).astype(np.uint8), grey() / 255],
        "cannot be told",
    ),
    "sound samples": ([centred() * 120], r"holds .*expected values from 0 to 255"),
    "too bright": ([np.where(np.arange(784) == 7, 300.0, grey())], "sample 0 holds 300"),
    "int8": ([(grey() - 128).astype(np.int8)], "int8 does not hold 0..255"),
    "divided twice": ([grey() / 255 / 255], "divided by 255 twice"),
    "zeros": ([np.zeros((5, 4))], "every value is 0"),
    "zeros in uint8": ([np.zeros((5, 4), np.uint8)], "every value is 0"),
    "constant": ([np.full((5, 4), 0.5)], "every value is 0.5"),
    "nothing in the test file": ([grey(), np.zeros((5, 784))], r"1\.npy: every value is 0"),
    "train 0..255, test 0..1": (
        [grey(), grey() / 255],
        r"1\.npy: float64, 0 to 1.*but 0\.npy: float64, 0 to 255",
    ),
    "train 0..1, test 0..255": ([grey() / 255, grey()], r"0\.npy: float64, 0 to 1.*but 1\.npy"),
    "train bytes, test 0..1": ([grey().astype(np.uint8), grey() / 255], "Expected one scale"),
    "train centred, test not": ([centred(), grey()], "Some are centred and some are not"),
    "train centred, test scaled": ([centred(), centred() / 255], "Expected one scale"),
    "few test rows unscaled": ([centred(2000) / 255, centred(10)], "Expected one scale"),
    "train standardised, test 0..1": ([standardised(grey()), grey() / 255], "Some are centred"),
    "two scales in a file": (
        [np.concatenate([grey(30), grey(30) / 255])],
        "30 of 60 samples, first 30, hold fractions",
    ),
    "most rows scaled": (
        [np.concatenate([grey(58) / 255, grey(2)])],
        "58 of 60 samples, first 0, hold fractions",
    ),
    "an outlier in 0..1": (
        [np.where(np.arange(60)[:, None] == 3, 200.0, grey() / 255)],
        "two scales",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused(name: str) -> None:
    arrays, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        form(*arrays)
    assert "\n" not in str(caught.value)
    assert ".npy" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_values_that_are_not_finite_are_named_with_their_sample(
    value: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = grey() * scale
    monkeypatch.setattr(value_forms, "_CHUNK_BYTES", 30 * array[0].nbytes)
    array[41, 5] = value
    with pytest.raises(
        DataError, match=rf"train\.npy: sample 41 holds {value}; expected finite values"
    ):
        facts(array)


@pytest.mark.parametrize("value", [-1.0, -200.0])
def test_a_single_negative_value_is_damage(value: float) -> None:
    array = grey()
    array[7, 5] = value
    with pytest.raises(
        DataError, match=rf"sample 7 holds {value:g}.*expected values from 0 to 255"
    ):
        form(array)


def test_dark_rows_do_not_decide_wherever_they_are() -> None:
    """Rows whose values are 0 and 1 are dark images of a file in 0..255, and no images in 0..1."""
    dark = np.zeros((500, 784))
    dark[:, 9] = 1
    for rows in ([dark, grey()], [grey(), dark], [dark, grey(), dark]):
        for dtype in (np.float32, np.float64, np.uint8):
            assert form(np.concatenate(rows).astype(dtype)) is BYTES
    # some rows may hold fractions, too: they are counted and said
    array = np.concatenate([grey(100) * 0.99, grey(5) / 300])
    assert form(array) is BYTES
    assert "5 of 105 samples hold nothing above 1" in described([facts(array)], BYTES)


def test_a_test_file_may_be_darker_than_the_training_file() -> None:
    assert form(grey(), grey(5) / 4) is BYTES
    assert form(grey().astype(np.uint8), (grey(5) / 10).astype(np.uint8)) is BYTES
    assert form(grey() / 255, grey(5) / 4000) is UNIT


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.concatenate([centred(53), grey(2) / 300])
    array[17, 3], array[40, 2] = -199.5, 249.5
    whole = facts(array)
    for rows in (1, 7, 54):
        monkeypatch.setattr(value_forms, "_CHUNK_BYTES", rows * array[0].nbytes)
        part = facts(array)
        assert part.moments == pytest.approx(whole.moments)
        same = (
            "low",
            "high",
            "low_at",
            "high_at",
            "negative",
            "dim",
            "dim_at",
            "values",
            "samples",
        )
        assert [getattr(part, name) for name in same] == [getattr(whole, name) for name in same]
    assert (whole.low, whole.high, whole.low_at, whole.high_at) == (-199.5, 249.5, 17, 40)
    assert whole.negative == pytest.approx((array < 0).mean())
    assert (whole.dim, whole.dim_at) == (2, 53)
    mean, square = (moment / whole.values for moment in whole.moments)
    assert np.sqrt(square - mean**2) == pytest.approx(array.std())


def test_brief_facts_of_bytes_decide_the_same_without_reading_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = grey(100).astype(np.uint8)
    monkeypatch.setattr(value_forms, "_CHUNK_BYTES", 10 * array[0].nbytes)
    brief = ValueFacts.of(Path("x"), array, brief=True)
    assert brief.values == 10 * 784
    assert form_of([brief]) is BYTES
    array[:10] = 0  # what is dark at first is read on
    assert form_of([ValueFacts.of(Path("x"), array, brief=True)]) is BYTES
    wide = grey(100).astype(np.uint16)
    wide[-1, -1] = 300  # of other types the last value may tell
    with pytest.raises(DataError, match="more than 8 bits"):
        form_of([ValueFacts.of(Path("x"), wide, brief=True)])


def test_what_was_found_is_described() -> None:
    array = np.array([[-189.0, 256.0, -1.0, 3.0]] * 3)
    for files in ([array, array * 0.5], [array * 0.5, array]):
        words = described([facts(file) for file in files], CENTRED)
        assert words == "float64, -189 to 256, 50 % negative: centred, divided by 255 as they are"
    assert "float32 and float64" in described(
        [facts(array.astype(np.float32)), facts(array)], CENTRED
    )
    rare = np.ones((100, 5))
    rare[0, 0] = -1
    assert "0.2 % negative" in str(facts(rare))
    assert "99.8 % negative" in str(facts(-rare))


SCALES = st.sampled_from([1.0, 1 / 255])
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(10, 50),
    scale=SCALES,
    offset=st.sampled_from(["none", "centred"]),
    dtype=DTYPES,
)
@settings(max_examples=60, deadline=None)
def test_scaled_data_and_the_same_data_unscaled_come_out_alike(
    seed: int, rows: int, scale: float, offset: str, dtype: type
) -> None:
    """Whichever of the two is in the file, the network sees the same numbers."""
    images = grey(rows, seed) if offset == "none" else centred(rows, seed)
    stored = (images * scale).astype(dtype)
    seen = stored.astype(np.float64) / form(stored).divisor
    np.testing.assert_allclose(seen, images / 255, atol=2e-3)


@given(seed=st.integers(0, 10_000), data=st.data(), scale=SCALES)
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_rows_and_the_cut_into_files_do_not_matter(
    seed: int, data: st.DataObject, scale: float
) -> None:
    images = grey(30, seed) * scale
    images[:2] = 0
    images[2:4] *= 0.9  # fractions
    order = np.random.default_rng(seed).permutation(30)
    cut = data.draw(st.integers(5, 25))
    shuffled = images[order]
    assume(shuffled[cut:].max() > 0 and shuffled[:cut].max() > 0)
    expected = form(images)
    assert form(shuffled) is form(images[::-1]) is form(shuffled[:cut], shuffled[cut:]) is expected


@given(
    low=st.floats(-1e6, 1e6),
    high=st.floats(-1e6, 1e6),
    dtype=st.sampled_from([np.float32, np.float64, np.int32, np.int8, np.uint8, np.uint16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_any_range_is_scaled_to_small_numbers_or_refused(
    low: float, high: float, dtype: type, seed: int
) -> None:
    """No form lets through what is large after the division, or vanishes by it."""
    values = np.random.default_rng(seed).uniform(min(low, high), max(low, high), (12, 50))
    if np.dtype(dtype).kind != "f":
        values = values.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    array = values.astype(dtype)
    try:
        found = form(array)
    except DataError:
        return
    largest = np.abs(array.astype(np.float64)).max() / found.divisor
    assert largest > 1 / 255
    assert largest <= 2 or (found is SIGNED and array.astype(np.float64).std() <= 4)
