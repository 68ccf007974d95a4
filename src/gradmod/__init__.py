"""gradmod: balanced multi-modal training in PyTorch, with Adaptive Gradient Modulation (AGM) at its heart.

Names are imported when they are first used, so that `import gradmod` costs nothing and the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradmod import functional as functional
    from gradmod.adapters import adapt as adapt
    from gradmod.diagnosis import diagnose as diagnose
    from gradmod.methods.agm import AGM as AGM
    from gradmod.methods.base import Method as Method
    from gradmod.methods.joint import Joint as Joint
    from gradmod.methods.mmpareto import MMPareto as MMPareto
    from gradmod.methods.mses import MSES as MSES
    from gradmod.methods.mslr import MSLR as MSLR
    from gradmod.methods.ogm_ge import OGMGE as OGMGE
    from gradmod.methods.uni_modal_losses import UniModalLosses as UniModalLosses
    from gradmod.protocols import Output as Output
    from gradmod.tasks import Classification as Classification
    from gradmod.tasks import MultiLabel as MultiLabel
    from gradmod.tasks import Regression as Regression
    from gradmod.tasks import Task as Task
    from gradmod.wrapper import ModulatedModel as ModulatedModel

__version__ = "0.1.0"

_EXPORTS = {
    "AGM": "gradmod.methods.agm",
    "Classification": "gradmod.tasks",
    "Joint": "gradmod.methods.joint",
    "MMPareto": "gradmod.methods.mmpareto",
    "MSES": "gradmod.methods.mses",
    "MSLR": "gradmod.methods.mslr",
    "Method": "gradmod.methods.base",
    "ModulatedModel": "gradmod.wrapper",
    "MultiLabel": "gradmod.tasks",
    "OGMGE": "gradmod.methods.ogm_ge",
    "Output": "gradmod.protocols",
    "Regression": "gradmod.tasks",
    "Task": "gradmod.tasks",
    "UniModalLosses": "gradmod.methods.uni_modal_losses",
    "adapt": "gradmod.adapters",
    "diagnose": "gradmod.diagnosis",
}
_MODULES = {
    "coalitions",
    "data",
    "diagnosis",
    "functional",
    "methods",
    "metrics",
    "models",
    "tasks",
    "testing",
    "wrapper",
}

__all__ = ["__version__", "functional", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"gradmod.{name}")
    raise AttributeError(f"module 'gradmod' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
