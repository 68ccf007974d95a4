"""The methods by name: looking one up, and making it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradmod.experiments.errors import ConfigError, did_you_mean
from gradmod.experiments.import_strings import load_object
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings

if TYPE_CHECKING:
    from gradmod.methods.base import Method


def method_entry(name: str, where: str = "method.method") -> MethodEntry:
    """What is known of the method called `name`.

    Args:
        name: of the method.
        where: the setting that names it, for messages.

    Raises:
        ConfigError: there is none.
    """
    entry = METHODS.get(name)
    if entry is None:
        raise ConfigError(
            f"{where} is {name!r}; expected one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
        )
    return entry


def owners_of(setting: str) -> list[str]:
    """The methods that have a setting called so."""
    return [name for name, entry in METHODS.items() if setting in entry.setting_names]


def method_class(name: str) -> type[Method]:
    """Class of the method called `name`.

    Raises:
        ConfigError: there is none.
    """
    kind: type[Method] = load_object(method_entry(name).factory)
    return kind


def build_method(
    name: str,
    modalities: Sequence[str],
    settings: MethodSettings | None = None,
    *,
    seed: int = 0,
) -> Method:
    """Make the method called `name`.

    Args:
        name: of the method.
        modalities: names of the inputs.
        settings: its settings; None: its defaults.
        seed: of what it draws, if it draws anything.

    Raises:
        ConfigError: no such method, or it refuses a setting.
    """
    kind = method_class(name)
    settings = method_entry(name).settings() if settings is None else settings
    seeded = {"seed": seed} if "seed" in inspect.signature(kind).parameters else {}
    try:
        return kind(modalities, **settings.arguments(), **seeded)
    except ValueError as error:
        raise ConfigError(str(error)) from None
