"""Settings of single methods as words: METHOD.setting=value,value, and METHOD alone for what it is tuned over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from gradmod.experiments.errors import ConfigError, closest
from gradmod.experiments.methods.entry import table_of
from gradmod.experiments.methods.registry import method_entry, owners_of
from gradmod.experiments.settings.config import MethodChoice, OptimizerConfig

Assigned = tuple[str, str, list[Any]]
"""Method (empty: each that has the setting), setting, values."""
COALITIONS = "coalitions"
TUNE = "compare.tune"
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


def names_of(method: str) -> tuple[str, ...]:
    """The settings that can be said for one method: its own, and those of the optimizer."""
    return (*method_entry(method).setting_names, COALITIONS, *sorted(OF_OPTIMIZER))


def assignment(where: str, text: str, methods: Sequence[str]) -> list[Assigned]:
    """`METHOD.setting=value,value`, or without METHOD, as values of the setting's type.

    To tune, the values may be left out, and the setting too: the registered ones stand in their place.

    Raises:
        ConfigError: no such method or setting, one that the method does not look at, or no value.
    """
    left, equals, right = text.partition("=")
    by_table = {table_of(method): method for method in methods}
    left = left.strip()
    alone = by_table.get(left, left)
    owner, _, name = left.rpartition(".")
    owner = by_table.get(owner, owner)
    if where == TUNE and not equals:
        if alone in methods:
            owner, name = alone, ""
        if owner in methods:
            return _registered(text, owner, name.replace("-", "_"))
    name = name.replace("-", "_")
    owners = [owner] if owner else list(methods)
    known = {other for method in owners if method in methods for other in names_of(method)}
    if owner in methods and equals and name not in known:
        meant = closest(name, known)
        raise ConfigError(
            f"{where} holds {text!r}; {name} makes no difference to {table_of(owner)}, which has "
            f"{', '.join(sorted(known))}"
            + (f"; did you mean {table_of(owner)}.{meant}?" if meant else "")
        )
    if not owner and equals and name not in known and owners_of(name):
        raise ConfigError(
            f"{where} holds {text!r}; {name} makes no difference to {', '.join(by_table)}: it is a setting of "
            f"{', '.join(owners_of(name))}"
        )
    if not equals or name not in known:
        raise ConfigError(
            f"{where} holds {text!r}; expected METHOD.setting=value, of a method {', '.join(by_table)} and a setting "
            f"of {', '.join(sorted(known or names_of(methods[0])))}"
        )
    kinds = _kinds(next(method for method in owners if name in names_of(method)), name)
    # A text such as audio=3,visual=1 holds commas itself: several of those are parted by |.
    parted = str in kinds and ("|" in right or "=" in right)
    listed = right.split("|") if parted else words(right)
    values = [_typed(where, text, kinds, word.strip()) for word in listed]
    if not values or (where == "compare.set" and len(values) > 1):
        raise ConfigError(f"{where} holds {text!r}; expected a value after the =")
    return [(owner, name, values)]


def _registered(text: str, method: str, name: str) -> list[Assigned]:
    """What a method is tuned over where no values are given: of one setting, or of all that have some."""
    search = method_entry(method).search
    found = {key: values for key, values in search.items() if name in ("", key)}
    if not found:
        has = f"it is registered for {', '.join(search)}" if search else "none is registered"
        raise ConfigError(
            f"{TUNE} holds {text!r} without values, and {has}; write {table_of(method)}.setting=value,value"
        )
    return [(method, key, list(values)) for key, values in found.items()]


def _kinds(method: str, name: str) -> tuple[Any, ...]:
    """The types that a setting may have."""
    sections = (method_entry(method).settings, MethodChoice, OptimizerConfig)
    hint = next(hints[name] for hints in map(get_type_hints, sections) if name in hints)
    return get_args(hint) or (hint,)


def _typed(where: str, text: str, kinds: tuple[Any, ...], word: str) -> Any:
    if str in kinds:
        return word
    if bool in kinds:
        if word not in ("true", "false"):
            raise ConfigError(f"{where} holds {text!r}; expected true or false")
        return word == "true"
    if word == "none":
        return None
    try:
        return float(word) if float in kinds else int(word)
    except ValueError:
        raise ConfigError(f"{where} holds {text!r}; {word!r} is no number") from None
