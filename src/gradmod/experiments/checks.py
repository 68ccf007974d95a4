"""Checks of settings, with errors that name the setting, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from gradmod.errors import ConfigError


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(choices)}{hint}")


def whole(name: str, value: Any, least: int) -> None:
    """Raise ConfigError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; expected a whole number >= {least}")


def number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise ConfigError unless `value` is a finite number from `least` (or above it) to `most`."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not real or value < least or (above and value == least) or value > most:
        bounds = f"{'>' if above else '>='} {least:g}" + (f" and <= {most:g}" if math.isfinite(most) else "")
        raise ConfigError(f"{name} is {value!r}; expected a number {bounds}")


def flag(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; expected true or false")


def text(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a string."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; expected text")


def by_name(name: str, value: str, kind: type[float] | type[int]) -> dict[str, Any]:
    """Numbers by modality, as in `audio=1.3,visual=0.7`; a number alone stands under the empty name.

    Raises:
        ConfigError: a part is no number, or a name comes twice.
    """
    text(name, value)
    found: dict[str, Any] = {}
    for part in filter(None, value.split(",")):
        modality, _, figure = part.strip().rpartition("=")
        try:
            if modality in found:
                raise ValueError
            found[modality] = kind(figure)
        except ValueError:
            example = "audio=10,visual=30" if kind is int else "audio=1.3,visual=0.7"
            raise ConfigError(f"{name} is {value!r}; expected a number for each modality, as in {example}") from None
    if "" in found and len(found) > 1:
        raise ConfigError(f"{name} is {value!r}; expected one number, or one for each modality by name")
    return found
