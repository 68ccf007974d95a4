"""The methods by name: a block of settings and facts for each, its class as an import string."""

from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import (
    MethodEntry,
    MethodSettings,
    PerModality,
    RunFacts,
    WindowedSettings,
)
from gradmod.experiments.methods.registry import build_method, method_class, method_entry

__all__ = [
    "METHODS",
    "MethodEntry",
    "MethodSettings",
    "PerModality",
    "RunFacts",
    "WindowedSettings",
    "build_method",
    "method_class",
    "method_entry",
]
