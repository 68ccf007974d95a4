"""Import strings, by which the registries name what they do not want to import."""

from __future__ import annotations

import importlib
from typing import Any


def named(path: str) -> Any:
    """What `path`, "module:name", stands for."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
