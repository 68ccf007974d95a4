"""Looking at a trained model: what each modality gives it, and what happens without it or with noise in it."""

from gradmod.diagnosis.attribution import Attribution, attribute
from gradmod.diagnosis.diagnosis import Diagnosis, diagnose
from gradmod.diagnosis.predictions import CoalitionPredictions, predict_coalitions

__all__ = [
    "Attribution",
    "CoalitionPredictions",
    "Diagnosis",
    "attribute",
    "diagnose",
    "predict_coalitions",
]
