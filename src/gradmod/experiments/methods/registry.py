"""The methods by name: looking one up, and making it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_type_hints

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError, did_you_mean
from gradmod.experiments.import_strings import load_object, place_of
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings
from gradmod.experiments.methods.own import UnreadSettings, own_entry
from gradmod.experiments.own_code import is_own, running

if TYPE_CHECKING:
    from gradmod.methods.base import Method


def method_entry(name: str, where: str = "method.method") -> MethodEntry:
    """What is known of the method called `name`; where that is code of the user's own, its file is run.

    Args:
        name: of the method, or folder/file.py:Class.
        where: the setting that names it, for messages.

    Raises:
        ConfigError: there is none.
    """
    if is_own(name):
        return own_entry(name)
    entry = METHODS.get(name)
    if entry is None:
        raise ConfigError(
            f"{where} is {name!r}; expected one of {', '.join(METHODS)}, or folder/file.py:Class for one of your "
            f"own{did_you_mean(name, METHODS)}"
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


def read_settings(name: str, settings: MethodSettings | None) -> MethodSettings:
    """The settings of a method, where they may be as a file of a method of the user's own has them, or missing.

    Raises:
        ConfigError: one that the method has not, or that it refuses.
    """
    if settings is not None and not isinstance(settings, UnreadSettings):
        return settings
    entry, values = method_entry(name), settings.as_table() if settings else {}
    kinds = get_type_hints(entry.settings)
    for key in values:
        if key not in entry.setting_names:
            raise ConfigError(f"{entry.table}.{key} is unknown; {entry.table} has {entry.flags}")
    return entry.settings().changed(
        **{key: checks.typed(f"{entry.table}.{key}", kinds[key], v) for key, v in values.items()}
    )


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
    arguments = read_settings(name, settings).arguments()
    if "seed" in inspect.signature(kind).parameters:
        arguments["seed"] = seed
    if is_own(name):
        with running(name, place_of(kind, name)):
            return kind(modalities, **arguments)
    try:
        return kind(modalities, **arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from None
