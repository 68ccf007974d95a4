"""SHAPE scores by hand, by Captum, and by what must hold."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradmod.metrics.shape import cooperation, pair_interaction, shape_scores

games = st.integers(1, 5).flatmap(
    lambda m: st.lists(st.floats(0, 1), min_size=1 << m, max_size=1 << m)
)


def names(game: list[float] | Tensor) -> tuple[str, ...]:
    return tuple("abcde"[: len(game).bit_length() - 1])


def test_two_modalities_by_hand() -> None:
    """a: ((0.5 - 0.1) + (0.8 - 0.3)) / 2; b: ((0.3 - 0.1) + (0.8 - 0.5)) / 2."""
    scores = shape_scores(torch.tensor([0.1, 0.5, 0.3, 0.8]), ("a", "b"))
    assert scores.values == pytest.approx({"a": 0.45, "b": 0.25})
    assert scores.contributions == pytest.approx({"a": 0.5625, "b": 0.3125})
    assert scores.cooperation == pytest.approx(0.8 - 0.5 - 0.3 + 0.1)
    assert scores.pairs == {("a", "b"): pytest.approx(scores.cooperation)}


def test_three_modalities_by_hand() -> None:
    """a and b only together (0.6), c by itself (0.3): rows nothing, a, b, ab, c, ac, bc, abc."""
    scores = shape_scores(
        torch.tensor([0.0, 0.0, 0.0, 0.6, 0.3, 0.3, 0.3, 0.9]).double(), ("a", "b", "c")
    )
    assert scores.values == pytest.approx({"a": 0.3, "b": 0.3, "c": 0.3})
    assert scores.cooperation == pytest.approx(0.6)
    assert scores.pairs == pytest.approx(
        {("a", "b"): 0.6, ("a", "c"): 0.0, ("b", "c"): 0.0}, abs=1e-7
    )


@given(games)
def test_shares_are_captums_exact_shapley_values(game: list[float]) -> None:
    from captum.attr import ShapleyValues

    values = torch.tensor(game, dtype=torch.float64)
    players = len(names(game))
    bits = 2 ** torch.arange(players, dtype=torch.float64)
    expected = ShapleyValues(lambda shown: values[(shown @ bits).long()]).attribute(
        torch.ones(1, players).double()
    )
    found = shape_scores(values, names(game)).values
    torch.testing.assert_close(torch.tensor(list(found.values())), expected[0], rtol=0, atol=1e-6)


@given(games)
def test_what_holds_always(game: list[float]) -> None:
    values = torch.tensor(game, dtype=torch.float64)
    players = names(game)
    scores = shape_scores(values, players)
    assert sum(scores.values.values()) == pytest.approx(game[-1] - game[0], abs=1e-12)
    assert len(scores.pairs) == math.comb(len(players), 2)
    if game[-1] > 1e-6:
        assert sum(scores.contributions.values()) == pytest.approx(1 - game[0] / game[-1], abs=1e-6)
    elif game[-1] == 0:
        assert all(math.isnan(share) for share in scores.contributions.values())


@given(st.integers(2, 5), st.integers(0, 2**32))
def test_in_an_additive_game_nobody_cooperates(players: int, seed: int) -> None:
    gains = torch.rand(players, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    game = torch.stack(
        [
            sum((gains[i] for i in range(players) if code >> i & 1), gains.new_zeros(()))
            for code in range(1 << players)
        ]
    )
    assert float(cooperation(game)) == pytest.approx(0, abs=1e-12)
    for a, b in itertools.combinations(range(players), 2):
        assert float(pair_interaction(game, a, b)) == pytest.approx(0, abs=1e-12)
    values = shape_scores(game, names(game)).values
    assert list(values.values()) == pytest.approx(gains.tolist())


def test_several_games_at_once() -> None:
    game = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    for column in range(4):
        assert cooperation(game)[column] == cooperation(game[:, column])
        assert pair_interaction(game, 0, 2)[column] == pair_interaction(game[:, column], 0, 2)


def test_the_number_of_rows_is_checked() -> None:
    with pytest.raises(ValueError, match=r"expected 2\^M = 4 rows"):
        shape_scores(torch.zeros(3), ("a", "b"))
