"""Checks of settings, with errors that name the setting, its value and what is allowed."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from gradmod.experiments.errors import ConfigError, did_you_mean

NONE = "none"
"""TOML has no null: a setting that is None is written as this word, as on the command line."""
LARGEST_WHOLE = 2**63 - 1
"""What TOML, and torch, hold."""


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {shown(value)}; expected one of {', '.join(choices)}{hint}")


def whole(name: str, value: Any, least: int) -> None:
    """Raise ConfigError unless `value` is an integer of at least `least`."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not least <= value <= LARGEST_WHOLE:
        most = f" and <= {LARGEST_WHOLE}" if is_whole and value > LARGEST_WHOLE else ""
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number >= {least}{most}")


def number(
    name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False
) -> None:
    """Raise ConfigError unless `value` is a finite number from `least` (or above it) to `most`."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
    if not real or value < least or (above and value == least) or value > most:
        bounds = f"{'>' if above else '>='} {least:g}" + (
            f" and <= {most:g}" if math.isfinite(most) else ""
        )
        raise ConfigError(f"{name} is {shown(value)}; expected a number {bounds}")


def is_finite(value: float) -> bool:
    """Whether a float holds `value`, as a number; of integers, those of up to 308 digits."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def flag(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}; expected true or false")


def text(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a string that can be written in UTF-8."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}; expected text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigError(f"{name} is {shown(value)}; expected text in UTF-8")


def path(name: str, value: Any) -> None:
    """Raise ConfigError unless `value` is a string that can name a file or a folder."""
    text(name, value)
    if "\0" in value:
        raise ConfigError(
            f"{name} is {shown(value)}; expected a path, which the character 0 is in none of"
        )


def typed(name: str, kind: Any, value: Any) -> Any:
    """A value of a file as a setting of the type `kind`; where the setting may be None, `none` is.

    Raises:
        ConfigError: it is of another type.
    """
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{name} is {shown(value)}; expected a list of texts")
        return tuple(value)
    allowed = get_args(kind) or (kind,)
    if value == NONE and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        if not is_finite(value):
            raise ConfigError(
                f"{name} is {shown(value)}; expected a number of at most {sys.float_info.max:.1e}"
            )
        return float(value)
    if type(value) not in allowed:
        names = " or ".join(NONE if one is type(None) else one.__name__ for one in allowed)
        raise ConfigError(f"{name} is {shown(value)}; expected {names}")
    return value


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
            raise ConfigError(
                f"{name} is {shown(value)}; expected a number for each modality, as in {example}"
            ) from None
    if "" in found and len(found) > 1:
        raise ConfigError(
            f"{name} is {shown(value)}; expected one number, or one for each modality by name"
        )
    return found


def one_or_by_name(name: str, value: str, kind: type[float] | type[int]) -> Any:
    """The same, where one number alone stands for itself."""
    numbers = by_name(name, value, kind)
    return numbers.get("", numbers)


def shown(value: Any) -> str:
    """A value in a message: shortened where it is long or nested, whatever it is."""
    return _SHORT.repr(value)


class _Short(reprlib.Repr):
    """Python itself refuses to print integers of more than 4300 digits, and what is nested deeper than its stack."""

    def repr_int(self, value: int, level: int) -> str:
        digits = int(value.bit_length() * math.log10(2)) + 1
        return repr(value) if digits <= self.maxlong else f"a whole number of about {digits} digits"


_SHORT = _Short()
_SHORT.maxlong, _SHORT.maxstring, _SHORT.maxother = 40, 200, 200
