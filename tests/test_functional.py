"""The equations against slow and obvious versions of themselves, and their properties."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradmod import functional as fn

seeds = st.integers(0, 2**32 - 1)
players = st.integers(1, 5)
extreme = st.sampled_from(
    [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e-300,
        1e30,
        -1e30,
        1e300,
        -1e300,
        1.7976931348623157e308,
        -1.7976931348623157e308,
    ]
)


def random_game(players: int, seed: int, *shape: int) -> Tensor:
    return torch.randn(
        2**players, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def shapley_by_permutations(values: Tensor) -> Tensor:
    """Mean marginal contribution over all orders of arrival."""
    count = values.shape[0].bit_length() - 1
    shares = torch.zeros(count, *values.shape[1:], dtype=values.dtype)
    for order in itertools.permutations(range(count)):
        coalition = 0
        for player in order:
            shares[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    return shares / math.factorial(count)


@given(players, seeds)
def test_shapley_values_equal_the_mean_over_orders(count: int, seed: int) -> None:
    game = random_game(count, seed, 3, 2)
    torch.testing.assert_close(
        fn.shapley_values(game), shapley_by_permutations(game), rtol=1e-12, atol=1e-12
    )


def test_shapley_values_equal_captum() -> None:
    from captum.attr import ShapleyValues

    game = random_game(4, 0)

    def value(presence: Tensor) -> Tensor:
        codes = (presence * torch.tensor([1.0, 2.0, 4.0, 8.0])).sum(1).long()
        return game[codes]

    theirs = ShapleyValues(value).attribute(torch.ones(1, 4), baselines=torch.zeros(1, 4)).double()
    torch.testing.assert_close(fn.shapley_values(game), theirs[0], rtol=1e-5, atol=1e-5)


@given(players, seeds)
def test_responses_sum_to_the_full_logits(count: int, seed: int) -> None:
    game = random_game(count, seed, 4, 3)
    game[0] = 0
    torch.testing.assert_close(fn.shapley_values(game).sum(0), game[-1], rtol=1e-12, atol=1e-12)


@given(st.integers(2, 4), seeds, st.randoms(use_true_random=False))
def test_permuting_the_players_permutes_the_values(count: int, seed: int, random: object) -> None:
    order = list(range(count))
    random.shuffle(order)  # type: ignore[attr-defined]
    game = random_game(count, seed, 2)
    codes = [
        sum(1 << new for new, old in enumerate(order) if code >> old & 1)
        for code in range(2**count)
    ]
    permuted = torch.empty_like(game)
    permuted[codes] = game
    torch.testing.assert_close(
        fn.shapley_values(permuted), fn.shapley_values(game)[order], rtol=1e-12, atol=1e-12
    )


def test_two_players_by_hand() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 7.0])  # nothing, a, v, both
    # (7-2+1)/2, (7-1+2)/2.
    torch.testing.assert_close(fn.shapley_values(values), torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    assert fn.shapley_values(torch.ones(4, 2, dtype=dtype)).dtype == torch.float32
    assert (
        fn.mono_modal_scores(
            torch.ones(2, 3, 4, dtype=dtype), torch.zeros(3, dtype=torch.int64)
        ).dtype
        == torch.float32
    )


@pytest.mark.parametrize("rows", [0, 1, 3, 6, 2**11])
def test_a_wrong_number_of_coalitions_is_an_error(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"values has {rows} rows"):
        fn.shapley_values(torch.zeros(rows, 1))


def test_ten_modalities_are_exact() -> None:
    game = random_game(10, 3)
    game[0] = 0
    torch.testing.assert_close(fn.shapley_values(game).sum(), game[-1], rtol=1e-11, atol=1e-11)


@given(
    st.lists(extreme, min_size=3, max_size=3),
    st.lists(extreme, min_size=3, max_size=3),
    st.lists(extreme, min_size=3, max_size=3),
)
def test_extreme_logits_give_finite_scores_and_coefficients(
    a: list[float], b: list[float], both: list[float]
) -> None:
    values = torch.tensor([[0.0] * 3, a, b, both], dtype=torch.float64).unsqueeze(1)
    responses = fn.shapley_values(values)
    assert responses.isfinite().all()
    scores = fn.mono_modal_scores(responses, torch.tensor([1]))
    assert scores.isfinite().all()
    assert (scores <= -math.log(1e-8) + 1e-9).all()
    coefficients = fn.modulation_coefficients(
        fn.discrepancy_ratio(scores), torch.ones(2).double(), 5.0, 10.0
    )
    assert coefficients.isfinite().all()
    assert (coefficients >= 0).all()


def test_scores_by_hand() -> None:
    # P = 3/4, and 0.
    responses = torch.tensor([[[0.0, math.log(3)]], [[1000.0, 0.0]]], dtype=torch.float64)
    scores = fn.mono_modal_scores(responses, torch.tensor([1]))
    torch.testing.assert_close(
        scores, torch.tensor([math.log(4 / 3), -math.log(1e-8)], dtype=torch.float64)
    )


@given(seeds, st.integers(1, 4), st.integers(1, 6))
def test_scores_equal_a_loop(seed: int, modalities: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    responses = torch.randn(modalities, batch, 3, 5, dtype=torch.float64, generator=generator) * 10
    target = torch.randint(5, (batch, 3), generator=generator)
    expected = torch.zeros(modalities, dtype=torch.float64)
    for m in range(modalities):
        for sample, segment in itertools.product(range(batch), range(3)):
            probabilities = [
                math.exp(x)
                for x in (
                    responses[m, sample, segment] - responses[m, sample, segment].max()
                ).tolist()
            ]
            probability = probabilities[int(target[sample, segment])] / sum(probabilities)
            expected[m] -= math.log(max(probability, 1e-8)) / (3 * batch)
    torch.testing.assert_close(
        fn.mono_modal_scores(responses, target), expected, rtol=1e-10, atol=1e-12
    )


def test_relative_scores_by_hand() -> None:
    torch.testing.assert_close(
        fn.relative_scores(torch.tensor([1.0, 2.0, 6.0])), torch.tensor([3.0, 1.5, -4.5])
    )
    torch.testing.assert_close(
        fn.discrepancy_ratio(torch.tensor([1.0, 2.0])), torch.tensor([math.e, 1 / math.e])
    )


@given(st.floats(0, 18.42), st.integers(1, 6))
def test_equal_scores_give_a_ratio_of_exactly_one(score: float, modalities: int) -> None:
    assert (fn.discrepancy_ratio(torch.full((modalities,), score, dtype=torch.float64)) == 1).all()


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_cumulative_mean_is_the_mean(values: list[float]) -> None:
    mean, count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for value in values:
        mean = fn.cumulative_mean(mean, count, torch.tensor(value, dtype=torch.float64))
        count = count + 1
    assert float(mean) == pytest.approx(sum(values) / len(values), rel=1e-12, abs=1e-12)


def test_coefficients_by_hand() -> None:
    kappa = fn.modulation_coefficients(
        torch.tensor([1.0, 3.0]), torch.tensor([5.0, 1.0]), alpha=0.5, cap=2.0
    )
    torch.testing.assert_close(kappa, torch.tensor([math.exp(1.0), math.exp(-1.0)]))
    uncapped = fn.modulation_coefficients(torch.tensor([1.0]), torch.tensor([5.0]), alpha=0.5)
    torch.testing.assert_close(uncapped, torch.tensor([math.exp(2.0)]))


def test_scale_gradient_scales_the_gradient_and_nothing_else() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    coefficients = torch.tensor([0.0, 1.0, 2.5])
    y = fn.scale_gradient(x, coefficients)
    assert torch.equal(y, x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, coefficients.double().reshape(3, 1, 1).expand(3, 2, 4))


@given(st.integers(1, 4), seeds)
def test_modulate_keeps_the_value_exactly_and_weights_the_gradient(
    modalities: int, seed: int
) -> None:
    responses = random_game(2, seed, 5)[:modalities].requires_grad_()
    logits = responses.sum(0) * (1 + 1e-9)  # a value that the sum of the responses does not hit
    coefficients = torch.linspace(0.5, 2, modalities, dtype=torch.float64)
    modulated = fn.modulate(logits, responses, coefficients)
    assert torch.equal(modulated, logits)
    modulated.square().sum().backward()
    assert responses.grad is not None
    expected = coefficients.unsqueeze(1) * 2 * logits.detach()
    torch.testing.assert_close(responses.grad, expected, rtol=1e-12, atol=0)


def test_modulate_returns_the_dtype_of_the_logits() -> None:
    responses = torch.randn(2, 3, requires_grad=True)
    modulated = fn.modulate(responses.sum(0).bfloat16(), responses, torch.ones(2).double())
    assert modulated.dtype == torch.bfloat16
    modulated.float().sum().backward()
    assert responses.grad is not None


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_graph_breaks() -> None:
    def step(values: Tensor, target: Tensor, mean: Tensor) -> Tensor:
        responses = fn.shapley_values(values)
        scores = fn.mono_modal_scores(responses.detach(), target).double()
        kappa = fn.modulation_coefficients(
            fn.discrepancy_ratio(scores), fn.discrepancy_ratio(mean), 1.0, 2.0
        )
        return fn.modulate(values[-1], responses, kappa)

    values = random_game(2, 1, 6, 3).requires_grad_()
    target, mean = torch.arange(6) % 3, torch.tensor([1.0, 0.5], dtype=torch.float64)
    eager = step(values, target, mean)
    (expected,) = torch.autograd.grad(eager.square().sum(), values)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(values, target, mean)
    (gradient,) = torch.autograd.grad(compiled.square().sum(), values)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(gradient, expected)


def test_games_of_nobody_have_values_of_nobody() -> None:
    """An empty batch, or no replicate left."""
    assert fn.shapley_values(torch.zeros(4, 0, 3)).shape == (2, 0, 3)


def test_own_predictions_around_a_constant_by_hand() -> None:
    """v(nothing) = c: each response holds c / M of it too much, and is c too low."""
    responses = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])  # two modalities, two samples
    constant = torch.tensor([[10.0], [20.0]])
    torch.testing.assert_close(
        fn.own_predictions(responses, constant), responses + torch.tensor([[5.0], [10.0]])
    )
    present = torch.tensor([[True, True], [True, False]])
    found = fn.own_predictions(responses, constant, present)
    torch.testing.assert_close(found[:, 0], responses[:, 0] + 5)
    # Alone in its sample: its response is v(all), c in it.
    torch.testing.assert_close(found[0, 1], responses[0, 1])
    nobody = fn.own_predictions(responses, constant, torch.zeros(2, 2, dtype=torch.bool))
    assert nobody.isfinite().all()
    three = torch.zeros(3, 1, 2)
    torch.testing.assert_close(
        fn.own_predictions(three, torch.tensor(6.0)), torch.full((3, 1, 2), 4.0)
    )


def test_only_modalities_that_have_a_score_are_compared() -> None:
    scores, scored = (
        torch.tensor([1.0, torch.nan, 4.0, 6.0]),
        torch.tensor([True, False, True, True]),
    )
    torch.testing.assert_close(
        fn.relative_scores(scores, scored), torch.tensor([4.0, 0.0, -0.5, -3.5])
    )
    one = torch.tensor([False, False, True, False])
    assert fn.relative_scores(scores, one).tolist() == [0.0] * 4
    assert fn.relative_scores(scores, ~scored & scored).tolist() == [0.0] * 4
    torch.testing.assert_close(
        fn.relative_scores(scores[2:]), fn.relative_scores(scores, scored & (scores > 3))[2:]
    )


def test_ratios_are_bounded_on_both_sides() -> None:
    most = -math.log(1e-8)
    ratios = fn.discrepancy_ratio(torch.tensor([0.0, 1000.0], dtype=torch.float64))
    assert ratios.tolist() == pytest.approx([math.exp(most), math.exp(-most)])
    inside = fn.discrepancy_ratio(torch.tensor([0.0, 18.0], dtype=torch.float64))
    assert inside.tolist() == pytest.approx([math.exp(18), math.exp(-18)])
