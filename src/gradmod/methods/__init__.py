"""Training methods, one file each, and what the author of another one needs."""

from gradmod.methods.agm import AGM
from gradmod.methods.base import Method, Need
from gradmod.methods.changes_gradients import ChangesGradients
from gradmod.methods.dgl import DGL
from gradmod.methods.diagnosing_relearning import DiagnosingRelearning
from gradmod.methods.epoch import Epoch, SplitFeatures
from gradmod.methods.gblending import GBlending
from gradmod.methods.joint import Joint
from gradmod.methods.mcr import MCR
from gradmod.methods.mla import MLA
from gradmod.methods.mlb import MLB
from gradmod.methods.mmpareto import MMPareto
from gradmod.methods.modality_dropout import ModalityDropout
from gradmod.methods.mses import MSES
from gradmod.methods.mslr import MSLR
from gradmod.methods.ogm_ge import OGM, OGMGE
from gradmod.methods.opm import OPM
from gradmod.methods.pretrained import Pretrained
from gradmod.methods.record import StepRecord, ValidationFigures
from gradmod.methods.step import Engine, Step
from gradmod.methods.tcmax import TCMax
from gradmod.methods.teachers import TaughtMethod
from gradmod.methods.trials import Trials
from gradmod.methods.umt import UMT
from gradmod.methods.uni_modal_losses import UniModalLosses
from gradmod.methods.view import Batch, View
from gradmod.methods.window import WindowedMethod

__all__ = [
    "AGM",
    "DGL",
    "MCR",
    "MLA",
    "MLB",
    "MSES",
    "MSLR",
    "OGM",
    "OGMGE",
    "OPM",
    "UMT",
    "Batch",
    "ChangesGradients",
    "DiagnosingRelearning",
    "Engine",
    "Epoch",
    "GBlending",
    "Joint",
    "MMPareto",
    "Method",
    "ModalityDropout",
    "Need",
    "Pretrained",
    "SplitFeatures",
    "Step",
    "StepRecord",
    "TCMax",
    "TaughtMethod",
    "Trials",
    "UniModalLosses",
    "ValidationFigures",
    "View",
    "WindowedMethod",
]
