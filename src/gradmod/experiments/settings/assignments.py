"""Settings of single methods as words: METHOD.setting=value,value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods import flags_of
from gradmod.experiments.settings.config import MethodConfig, OptimizerConfig

OF_METHOD = {f.name for f in fields(MethodConfig)} - {"method"}
OF_OPTIMIZER = {f.name for f in fields(OptimizerConfig)}


def words(text: str) -> list[str]:
    """Words parted by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(name: str, text: str, kind: type[Any]) -> list[Any]:
    """Numbers parted by commas.

    Raises:
        ConfigError: one is none.
    """
    try:
        return [kind(word) for word in words(text)]
    except ValueError:
        example = "0,1,2" if kind is int else "0.1,0.3,1"
        raise ConfigError(f"{name} is {text!r}; expected numbers, as in {example}") from None


def assignment(where: str, text: str, methods: Sequence[str]) -> tuple[str, str, list[Any]]:
    """`METHOD.setting=value,value` (or without METHOD) as method, setting and values of the setting's type.

    Raises:
        ConfigError: no such method or setting, one that the method does not look at, or no value.
    """
    left, equals, right = text.partition("=")
    owner, _, name = left.strip().rpartition(".")
    name = name.replace("-", "_")
    section: MethodConfig | OptimizerConfig = (
        MethodConfig() if name in OF_METHOD else OptimizerConfig()
    )
    if not equals or name not in OF_METHOD | OF_OPTIMIZER or (owner and owner not in methods):
        raise ConfigError(
            f"{where} holds {text!r}; expected METHOD.setting=value, of a method {', '.join(methods)} and a setting "
            f"of {', '.join(sorted(OF_METHOD | OF_OPTIMIZER))}"
        )
    if owner and name in OF_METHOD and name not in (*flags_of(owner), "coalitions"):
        known = ", ".join(sorted({*flags_of(owner), "coalitions", *OF_OPTIMIZER}))
        raise ConfigError(
            f"{where} holds {text!r}; {name} makes no difference to {owner}, which has {known}"
        )
    default = getattr(section, name)
    # A text such as audio=3,visual=1 holds commas itself: several of those are parted by |.
    parted = isinstance(default, str) and ("|" in right or "=" in right)
    listed = right.split("|") if parted else words(right)
    values = [_typed(where, text, default, word.strip()) for word in listed]
    if not values or (where == "compare.set" and len(values) > 1):
        raise ConfigError(f"{where} holds {text!r}; expected a value after the =")
    return owner, name, values


def _typed(where: str, text: str, default: Any, word: str) -> Any:
    if isinstance(default, str):
        return word
    if isinstance(default, bool):
        if word not in ("true", "false"):
            raise ConfigError(f"{where} holds {text!r}; expected true or false")
        return word == "true"
    if word == "none":
        return None
    try:
        return int(word) if isinstance(default, int) else float(word)
    except ValueError:
        raise ConfigError(f"{where} holds {text!r}; {word!r} is no number") from None
