"""A method of the user's own, named as folder/file.py:Class: its block is read from the class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import load_object, place_of
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings
from gradmod.experiments.own_code import running, short_name

SECTIONS = ("data", "model", "method", "optimizer", "train", "monitor", "compare")
"""Of a file of settings; a test compares them with those."""
_KINDS = (int, float, bool, str, type(None))
"""What a setting may be, in a file and on the command line."""


@dataclass(frozen=True)
class UnreadSettings(MethodSettings):
    """Settings as a file has them, of a method whose code was not run, because nobody said that it may be."""

    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_table(self) -> dict[str, Any]:
        """See `MethodSettings.as_table`."""
        return dict(self.values)


def own_entry(name: str) -> MethodEntry:
    """The block of the user's method; its file is run.

    Its settings are those of its class `Settings`, a frozen dataclass, where it has one; else the arguments of its
    constructor that have a default.

    Args:
        name: "folder/file.py:Class".

    Raises:
        ConfigError: no such file or class; it is no method, or has settings that cannot be said.
        DataError: the file fails while it runs.
    """
    return _entry_of(name, load_object(name))


@lru_cache(maxsize=32)  # one type of settings for each class, however often it is asked for
def _entry_of(name: str, kind: Any) -> MethodEntry:
    from gradmod.methods.base import Method

    place = place_of(kind, name)
    if not inspect.isclass(kind) or not issubclass(kind, Method):
        raise ConfigError(
            f"{place}: {name} is no method; expected a class that is derived from gradmod.methods.Method"
        )
    if short_name(name) in (*METHODS, *SECTIONS):
        raise ConfigError(
            f"{place}: the class is called {short_name(name)}, as a table of settings of gradmod's own; rename it"
        )
    declared = getattr(kind, "Settings", None)
    settings = (
        _from_arguments(kind, place) if declared is None else _from_dataclass(declared, kind, place)
    )
    summary = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
    return MethodEntry(
        name=name,
        factory=name,
        settings=settings,
        summary=summary or "a method of your own",
        paper="",
        cost="not said",
        needs=tuple(sorted(need.value for need in kind.needs)),
        modalities=1,
        search=dict(getattr(kind, "search", {})),
    )


def _from_dataclass(declared: Any, kind: type, place: str) -> type[MethodSettings]:
    """The user's dataclass as settings of ours."""
    if not inspect.isclass(declared) or not _is_frozen(declared):
        raise ConfigError(
            f"{place}: {kind.__name__}.Settings is no frozen dataclass; write @dataclass(frozen=True) above it"
        )
    with running(place):
        hints = get_type_hints(declared)
    names = [f.name for f in fields(declared)]  # type: ignore[arg-type]
    lacking = [f.name for f in fields(declared) if _lacks_default(f)]  # type: ignore[arg-type]
    _refuse_without_default(lacking, f"{kind.__name__}.Settings", place)
    for name in names:
        hint = hints[name]
        if not _may_be_set(hint):
            raise ConfigError(
                f"{place}: the setting {name} of {kind.__name__} is of the type {hint}; expected int, float, bool, "
                "str, or one of them | None"
            )
    if issubclass(declared, MethodSettings):
        return declared
    return make_dataclass(declared.__name__, [], bases=(declared, MethodSettings), frozen=True)


def _is_frozen(kind: type) -> bool:
    parameters = getattr(kind, "__dataclass_params__", None)
    return is_dataclass(kind) and parameters is not None and parameters.frozen


def _lacks_default(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _from_arguments(kind: type, place: str) -> type[MethodSettings]:
    """The arguments of the constructor that have a default, behind the modalities; a seed is the run's."""
    with running(place):
        signature = inspect.signature(kind)
        hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    _, *parameters = signature.parameters.values()
    named = [
        one
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and one.name != "seed"
    ]
    lacking = [one.name for one in named if one.default is one.empty]
    _refuse_without_default(lacking, f"the constructor of {kind.__name__}", place)
    found = []
    for one in named:
        hint = hints.get(one.name, type(one.default))
        if _may_be_set(hint):  # others keep their default
            found.append((one.name, hint, field(default=one.default)))
    return make_dataclass(f"{kind.__name__}Settings", found, bases=(MethodSettings,), frozen=True)


def _refuse_without_default(names: list[str], whose: str, place: str) -> None:
    if names:
        raise ConfigError(
            f"{place}: {whose} has {', '.join(names)} without a default; give each one, so that a run that does not "
            "name it can be made"
        )


def _may_be_set(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return all(kind in _KINDS for kind in kinds) and kinds != (type(None),)
