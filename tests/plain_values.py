"""What a restricted unpickler may give: containers, numbers, texts and NumPy's arrays, all the way down."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

ATOMS = (bool, int, float, complex, str, bytes, bytearray, type(None))


def not_plain(value: Any, within: tuple[int, ...] = ()) -> list[str]:
    """The types of whatever else is in a value, however deep; a container within itself is not entered again."""
    if id(value) in within:
        return []
    kind = type(value)
    if kind in ATOMS or isinstance(value, np.generic):
        return []
    if kind in (dict, OrderedDict):
        attributes = [f"attribute {name}" for name in getattr(value, "__dict__", {})]
        items = [*value.keys(), *value.values()]
    elif kind in (list, tuple, set, frozenset):
        attributes, items = [], list(value)
    elif kind is np.ndarray:
        attributes, items = [], value.ravel().tolist() if value.dtype.hasobject else []
    else:
        return [kind.__name__]
    within = (*within, id(value))
    return attributes + [name for item in items for name in not_plain(item, within)]
