"""The equations of Adaptive Gradient Modulation as pure functions on tensors, one each.

Source: Li et al., "Boosting Multi-modal Model Performance with Adaptive Gradient Modulation", ICCV 2023
(arXiv 2308.07686). M is the number of modalities, K that of classes; `...` are any leading axes, the batch first.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

MAX_ENUMERATED_MODALITIES = 10
"""Most modalities whose 2^M coalitions are enumerated; an additive head has no such limit."""

PROBABILITY_FLOOR = 1e-8
"""A response that gives the target less probability than this is scored as if it gave this much."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor`, converted to float32 if it is of lower precision (float16, bfloat16)."""
    return tensor.float() if torch.finfo(tensor.dtype).bits < 32 else tensor


def shapley_values(values: Tensor) -> Tensor:
    """Shapley value of every player of a game.

        phi^m = sum over S not containing m of  |S|! (M-|S|-1)! / M!  *  [ v(S + m) - v(S) ]

    Args:
        values: [2^M, ...], v(S) for every coalition. Row i is the coalition whose members are the bits set in i:
            row 0 is v(empty), row 1 is v({0}), row 2 v({1}), row 3 v({0, 1}), and so on; the last row is v(all).

    Returns:
        [M, ...], which sums over the first axis to v(all) - v(empty). float16 and bfloat16 are computed in float32.
        Where the exact value is beyond what the dtype holds, the largest finite number: finite values in, finite
        values out.

    Raises:
        ValueError: the number of rows is not 2^M for an M from 1 to 10.
    """
    rows = values.shape[0] if values.ndim else 0
    players = rows.bit_length() - 1
    if rows < 2 or rows != 1 << players or players > MAX_ENUMERATED_MODALITIES:
        raise ValueError(
            f"values has {rows} rows; expected 2^M, a row for each coalition of M = 1 to {MAX_ENUMERATED_MODALITIES} "
            "modalities, the empty one first. Beyond that use a model with an additive head, which needs no coalitions"
        )
    values = at_least_float32(values)
    # A quarter (exact in binary) keeps sums of large but finite values from overflowing; undone at the end.
    grid = (values / 4).reshape((2,) * players + values.shape[1:])
    weights = _shapley_weights(players, values).reshape((-1,) + (1,) * (values.ndim - 1))
    shares = []
    for player in range(players):
        axis = players - 1 - player  # the last axis of the grid is the lowest bit
        gains = grid.select(axis, 1) - grid.select(axis, 0)
        shares.append((weights * gains.reshape(len(weights), *values.shape[1:])).sum(0))
    limit = torch.finfo(values.dtype).max / 4
    return torch.stack(shares).clamp(-limit, limit) * 4


def _shapley_weights(players: int, like: Tensor) -> Tensor:
    """[2^(M-1)] weights |S|! (M-|S|-1)! / M!, made on the device of `like` so that nothing is copied there."""
    coalitions = torch.arange(1 << (players - 1), device=like.device)
    sizes = sum(
        ((coalitions >> bit) & 1 for bit in range(players - 1)), torch.zeros_like(coalitions)
    )
    weights = torch.zeros(coalitions.shape, device=like.device, dtype=like.dtype)
    for size in range(players):
        weight = 1 / (players * math.comb(players - 1, size))
        weights = torch.where(sizes == size, weight, weights)
    return weights


def floored_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """How badly each prediction does: -log softmax(logits)[target], the probability floored at 1e-8.

    Args:
        logits: [..., K], any floating dtype.
        target: [...] int64 classes; or [..., K] floats, a distribution over the classes (a soft target), whose
            cross-entropy is the mean over the classes by it, each probability floored. Both are broadcast against the
            leading axes of `logits`.

    Returns:
        [...], at least float32, from 0 to 18.42 (-log 1e-8).
    """
    log_probability = torch.log_softmax(at_least_float32(logits), dim=-1)
    floor = math.log(PROBABILITY_FLOOR)
    if target.is_floating_point():
        return -(target.to(log_probability.dtype) * log_probability.clamp(min=floor)).sum(-1)
    target = target.expand(logits.shape[:-1]).unsqueeze(-1)
    return -log_probability.gather(-1, target).squeeze(-1).clamp(min=floor)


def floored_binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """How badly each label is predicted: -log of the probability of the right answer, floored at 1e-8.

    Args:
        logits: [..., K], any floating dtype.
        target: [..., K] labels 0 or 1, or in between (soft labels): the mean over both answers by it, each floored.
            Broadcast against the leading axes of `logits`.

    Returns:
        [..., K], at least float32, from 0 to 18.42 (-log 1e-8).
    """
    logits = at_least_float32(logits)
    on, floor = target.to(logits.dtype), math.log(PROBABILITY_FLOOR)
    yes, no = (
        torch.nn.functional.logsigmoid(signed).clamp(min=floor) for signed in (logits, -logits)
    )
    return -(on * yes + (1 - on) * no)


def own_predictions(responses: Tensor, constant: Tensor, present: Tensor | None = None) -> Tensor:
    """What each modality alone predicts, where the answer to no input is a constant and not 0.

    The responses share v(all) with v(nothing) = 0, so each of them holds an equal part of whatever constant the model
    answers. With v(nothing) = c the game is v(S) - c for every S but nothing, and its Shapley values are phi^m - c/M:
    they sum to v(all) - c, and modality m alone predicts

        c + phi^m - c/M

    A constant added to c and to every v(S) is added to that, and to nothing else.

    Args:
        responses: [M, B, ...] mono-modal responses phi^m, with v(nothing) = 0.
        constant: c, broadcast against one response.
        present: [B, M] bool, which sample has which modality, where some lack one: M is then the number of those that
            a sample has. What a modality that is absent predicts means nothing.

    Returns:
        [M, B, ...].
    """
    if present is None:
        return responses + constant * (1 - 1 / len(responses))
    players = present.sum(1).clamp(min=1).to(responses.dtype)
    return responses + constant * (1 - 1 / players.reshape((-1,) + (1,) * (responses.dim() - 2)))


def mono_modal_scores(responses: Tensor, target: Tensor) -> Tensor:
    """Score s^m of every mono-modal response: its mean cross-entropy with the target (lower is better).

    Args:
        responses: [M, ..., K] mono-modal responses phi^m.
        target: [...] int64 classes.

    Returns:
        [M], at least float32.
    """
    return floored_cross_entropy(responses, target).flatten(1).mean(1)


def relative_scores(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """How far each modality is ahead of the others: rel(s)^m = 1/(M-1) * sum over j != m of (s^j - s^m).

    Args:
        scores: [M] scores, lower is better.
        scored: [M] bool, which of them have a score; only those are compared, M being their number. None: all.

    Returns:
        [M]; above 0 where the modality is ahead; exactly 0 where all scores are equal, for M = 1, and where there is no
        score.
    """
    gaps = scores.unsqueeze(0) - scores.unsqueeze(1)
    if scored is None:
        return gaps.sum(1) / max(scores.shape[0] - 1, 1)
    gaps = torch.where(scored.unsqueeze(0) & scored.unsqueeze(1), gaps, 0.0)
    return gaps.sum(1) / (scored.sum() - 1).clamp(min=1)


def discrepancy_ratio(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """Discrepancy ratio r^m = exp(rel(s)^m); with the cumulative mean of the scores, the running ratio tau^m.

    rel(s) is bounded to +-18.42: cross-entropies with their floor never reach beyond, other scores (errors of a
    regression) may.

    Args:
        scores: [M] scores, lower is better.
        scored: see `relative_scores`.

    Returns:
        [M]; above 1 where the modality is ahead.
    """
    most = -math.log(PROBABILITY_FLOOR)
    return relative_scores(scores, scored).clamp(-most, most).exp()


def cumulative_mean(mean: Tensor, count: Tensor, value: Tensor) -> Tensor:
    """Mean of `count` + 1 values, from the `mean` of the first `count` of them and the next `value`.

    Args:
        mean: [...]; anything where `count` is 0.
        count: number of values behind `mean`.
        value: [...] the next one.

    Returns:
        [...].
    """
    return mean + (value - mean) / (count + 1)


def modulation_coefficients(
    ratios: Tensor, running_ratios: Tensor, alpha: float, cap: float | None = None
) -> Tensor:
    """Coefficient kappa^m = exp(alpha * min(tau^m - r^m, cap)) of the gradient through each mono-modal response.

    Args:
        ratios: [M] discrepancy ratios r^m of this step.
        running_ratios: [M] running ratios tau^m, from all earlier steps.
        alpha: strength of the modulation, >= 0; 0 is joint training.
        cap: most that a modality may be behind by; None: no limit (as published for AV-MNIST, AVE and MOSEI), then
            the coefficient can overflow.

    Returns:
        [M]; below 1 for a modality that is further ahead than it used to be.
    """
    lag = running_ratios - ratios
    return (alpha * (lag if cap is None else lag.clamp(max=cap))).exp()


def scale_gradient(tensor: Tensor, coefficients: Tensor) -> Tensor:
    """Return `tensor` as it is; multiply the gradient that flows back through it by `coefficients`.

    Args:
        tensor: [M, ...].
        coefficients: [M], one for each slice of the first axis; no gradient flows to them.

    Returns:
        [M, ...].
    """
    result: Tensor = _ScaleGradient.apply(tensor, coefficients.to(tensor.dtype).to(tensor.device))  # type: ignore[no-untyped-call]
    return result


def modulate(logits: Tensor, responses: Tensor, coefficients: Tensor) -> Tensor:
    """The logits in value; in gradient, each mono-modal response with its own coefficient.

    Args:
        logits: [..., K] v(all).
        responses: [M, ..., K] mono-modal responses phi^m, which sum to `logits`.
        coefficients: [M] kappa^m.

    Returns:
        [..., K]: exactly `logits`, whatever the rounding in the sum of the responses. A gradient g of it reaches phi^m
        as kappa^m * g.
    """
    total = scale_gradient(responses, coefficients).sum(0)
    result: Tensor = _ValueOf.apply(logits.detach(), total.to(logits.dtype))  # type: ignore[no-untyped-call]
    return result


class _ScaleGradient(torch.autograd.Function):
    """Identity whose backward multiplies by a coefficient."""

    @staticmethod
    def forward(tensor: Tensor, coefficients: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        (coefficients,) = ctx.saved_tensors
        return gradient * coefficients.reshape((-1,) + (1,) * (gradient.ndim - 1)), None


class _ValueOf(torch.autograd.Function):
    """Value of the first tensor, gradient of the second."""

    @staticmethod
    def forward(value: Tensor, differentiable: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
