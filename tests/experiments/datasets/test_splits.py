"""Dividing a data set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod.experiments.datasets.registry import DATASETS, dataset_info
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import by_group, heldout, joined, nine_tenths_of_both
from gradmod.experiments.errors import ConfigError, DataError


@given(st.integers(10, 500), st.integers(0, 2**31))
def test_heldout_covers_every_sample_once(samples: int, seed: int) -> None:
    parts = heldout(samples, seed)
    assert sorted(np.concatenate(parts)) == list(range(samples))
    assert [len(part) for part in parts[1:]] == [samples // 10] * 2
    assert all(np.all(np.diff(part) > 0) for part in parts)


@given(st.integers(2, 500), st.integers(2, 500))
def test_nine_tenths_of_both(train: int, test: int) -> None:
    training, evaluation, predictor = nine_tenths_of_both(train, test)
    assert list(training) == list(range(int(train * 0.9)))
    assert list(evaluation) == list(range(train, train + int(test * 0.9)))
    assert sorted([*training, *evaluation, *predictor]) == list(range(train + test))
    assert min(predictor) < train <= max(predictor)


@given(st.lists(st.integers(0, 12).map(str), min_size=1, max_size=60), st.integers(0, 99))
def test_no_group_is_in_two_parts(groups: list[str], seed: int) -> None:
    shares = (0.6, 0.1, 0.2, 0.1)
    if len(set(groups)) < 4:
        with pytest.raises(DataError, match="expected at least 4"):
            by_group(groups, shares, seed)
        return
    parts = by_group(groups, shares, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    held = [{groups[row] for row in part} for part in parts]
    assert all(held)
    assert sum(map(len, held)) == len(set(groups))


def test_too_few_to_hold_out() -> None:
    with pytest.raises(DataError, match="has 9 samples; expected at least 10"):
        heldout(9, 0)


@given(st.lists(st.integers(0, 19), max_size=10), st.lists(st.integers(0, 9), max_size=5))
def test_subsets_of_subsets_read_the_right_rows(rows: list[int], more: list[int]) -> None:
    array = np.arange(40.0).reshape(20, 2)
    dataset = Split({"x": ArraySource(array, (2,), scale=2.0)}, np.arange(20) % 3)
    chosen = np.array(rows, dtype=np.int64)
    subset = dataset.subset(chosen)
    assert len(subset) == len(rows)
    within = [i for i in more if i < len(rows)]
    inputs, targets = subset.subset(np.array(within, dtype=np.int64)).read(range(len(within)))
    np.testing.assert_array_equal(
        inputs["x"].numpy().reshape(-1, 2), array[chosen[within]].reshape(-1, 2) / 2
    )
    assert targets.tolist() == [rows[i] % 3 for i in within]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match=r"sources have \{'x': 3\} samples and targets 2"):
        Split({"x": ArraySource(np.zeros((3, 1)), (1,))}, np.zeros(2))


def test_groups_that_share_samples_go_together() -> None:
    """In a chain, too: the first sample and the fourth share neither speaker nor room."""
    speakers = np.array(["a", "a", "b", "b", "c", "d"])
    rooms = np.array([5, 6, 6, 7, 8, 8])
    assert joined([speakers, rooms]).tolist() == joined([rooms, speakers]).tolist()
    assert joined([speakers, rooms]).tolist() == [0, 0, 0, 0, 4, 4]
    assert joined([speakers]).tolist() == [0, 0, 2, 2, 4, 5]


def test_unknown_and_later_data_sets() -> None:
    with pytest.raises(
        ConfigError, match=r"data.dataset is 'mnist'; expected one of av-digits, av-mnist"
    ):
        dataset_info("mnist")
    later = [info for info in DATASETS.values() if info.loader is None]
    for info in later:
        with pytest.raises(ConfigError, match="comes in a later release; at hand are av-digits"):
            dataset_info(info.name)
