"""Evaluating a model on every coalition of its modalities, by strategies that give the same numbers."""

from gradmod.coalitions.choice import STRATEGIES, choose_strategy
from gradmod.coalitions.strategy import Evaluation, Strategy
from gradmod.protocols import Additive, Encodes, Output

__all__ = [
    "STRATEGIES",
    "Additive",
    "Encodes",
    "Evaluation",
    "Output",
    "Strategy",
    "choose_strategy",
]
