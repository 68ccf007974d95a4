"""Training methods, one file each, and what the author of another one needs."""

from gradmod.methods.agm import AGM
from gradmod.methods.base import Method, StepRecord, ValidationFigures
from gradmod.methods.changes_gradients import ChangesGradients
from gradmod.methods.joint import Joint
from gradmod.methods.mses import MSES
from gradmod.methods.mslr import MSLR
from gradmod.methods.ogm_ge import OGMGE
from gradmod.methods.window import WindowedMethod

__all__ = [
    "AGM",
    "MSES",
    "MSLR",
    "OGMGE",
    "ChangesGradients",
    "Joint",
    "Method",
    "StepRecord",
    "ValidationFigures",
    "WindowedMethod",
]
