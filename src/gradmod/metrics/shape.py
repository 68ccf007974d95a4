"""SHAPE: how much each modality contributes to a model's score, and how much the modalities cooperate.

Source: Hu, Li and Zhou, "SHAPE: An Unified Approach to Evaluate the Contribution and Cooperation of Individual
Modalities", IJCAI 2022. The score of every coalition of modalities is a game; rows are coalitions as in
`gradmod.functional.shapley_values`: the members of row i are the bits set in i, row 0 is V(nothing), what the best
constant answer scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradmod.functional import shapley_values


@dataclass(frozen=True)
class ShapeScores:
    """SHAPE scores of a model.

    Attributes:
        values: by modality its Shapley value, in the unit of the score; they sum to V(all) - V(nothing).
        contributions: the same over V(all): a share of the score. NaN where V(all) is not above 0.
        cooperation: V(all) - sum of V({m}) + (M - 1) V(nothing): what the modalities reach together beyond the sum of
            what each adds alone. Above 0: they complement each other; below: they know the same.
        pairs: by pair of modalities their interaction, averaged over what else is shown.
    """

    values: dict[str, float]
    contributions: dict[str, float]
    cooperation: float
    pairs: dict[tuple[str, str], float]


def shape_scores(game: Tensor, modalities: Sequence[str]) -> ShapeScores:
    """SHAPE scores from the score of every coalition.

    Args:
        game: [2^M] V(S).
        modalities: the players, in the order of the bits.

    Raises:
        ValueError: the number of rows is not 2^M.
    """
    check_game(game, modalities)
    game = game.double()
    values = shapley_values(game)
    whole = float(game[-1])
    return ShapeScores(
        dict(zip(modalities, values.tolist(), strict=True)),
        {
            m: value / whole if whole > 0 else math.nan
            for m, value in zip(modalities, values.tolist(), strict=True)
        },
        float(cooperation(game)),
        {
            (modalities[a], modalities[b]): float(pair_interaction(game, a, b))
            for a, b in itertools.combinations(range(len(modalities)), 2)
        },
    )


def cooperation(game: Tensor) -> Tensor:
    """[...] V(all) - sum_m V({m}) + (M - 1) V(nothing) of games [2^M, ...]."""
    players = len(game).bit_length() - 1
    alone = torch.stack([game[1 << player] for player in range(players)])
    return game[-1] - alone.sum(0) + (players - 1) * game[0]


def pair_interaction(game: Tensor, a: int, b: int) -> Tensor:
    """[...] Shapley interaction index of players a and b of games [2^M, ...] (Grabisch and Roubens, 1999).

        sum over S without a and b of  |S|! (M-|S|-2)! / (M-1)!  *  [ V(S+a+b) - V(S+a) - V(S+b) + V(S) ]

    With two players it is their cooperation.
    """
    players = len(game).bit_length() - 1
    total = torch.zeros_like(game[0])
    for rest in range(len(game)):
        if rest >> a & 1 or rest >> b & 1:
            continue
        weight = 1 / ((players - 1) * math.comb(players - 2, rest.bit_count()))
        total = total + weight * (
            game[rest | 1 << a | 1 << b] - game[rest | 1 << a] - game[rest | 1 << b] + game[rest]
        )
    return total


def check_game(game: Tensor, modalities: Sequence[str]) -> None:
    """Raise ValueError unless `game` has a row for each coalition of the modalities."""
    if not modalities or game.dim() < 1 or len(game) != 1 << len(modalities):
        raise ValueError(
            f"the game has shape {list(game.shape)}; expected 2^M = {1 << len(modalities)} rows, one for each "
            f"coalition of {list(modalities)}"
        )
