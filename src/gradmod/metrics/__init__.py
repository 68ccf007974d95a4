"""Figures of merit over samples."""

from gradmod.metrics.auroc import auroc
from gradmod.metrics.bootstrap import paired_bootstrap
from gradmod.metrics.classification import accuracy, macro_f1
from gradmod.metrics.competition import competition_strength
from gradmod.metrics.multilabel import label_accuracy, label_macro_f1
from gradmod.metrics.regression import correlation, mean_absolute_error, sign_accuracy
from gradmod.metrics.shape import ShapeScores, cooperation, pair_interaction, shape_scores

__all__ = [
    "ShapeScores",
    "accuracy",
    "auroc",
    "competition_strength",
    "cooperation",
    "correlation",
    "label_accuracy",
    "label_macro_f1",
    "macro_f1",
    "mean_absolute_error",
    "pair_interaction",
    "paired_bootstrap",
    "shape_scores",
    "sign_accuracy",
]
