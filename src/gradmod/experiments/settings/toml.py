"""Settings in TOML files: complete when written, checked when read."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gradmod.experiments.checks import is_finite, shown
from gradmod.experiments.errors import (
    UNREADABLE,
    ConfigError,
    SettingsFileError,
    did_you_mean,
    why_unreadable,
)
from gradmod.experiments.file_kinds import another_kind
from gradmod.experiments.files import write_text
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.registry import owners_of
from gradmod.experiments.settings.config import Config, MethodChoice, MethodConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NONE = "none"
"""TOML has no null: a setting that is None is written as this word, as on the command line."""


Settings = TypeVar("Settings", bound=Config)
Section = TypeVar("Section")


def load_config(path: Path | str) -> Config:
    """Read the settings of a run; see `load_settings`."""
    return load_settings(path, Config())


def load_settings(path: Path | str, default: Settings, method: str = "") -> Settings:
    """Read settings; what the file leaves out is as in `default`.

    Args:
        path: of the file.
        default: what it leaves out.
        method: the method, in place of the one that the file names; empty: that one.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown section, key, or a value of the wrong type.
    """
    path = Path(path)
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsFileError(f"the configuration {path} does not exist") from None
    except UNREADABLE as error:
        why = another_kind(path, "TOML", "text json") or why_unreadable(
            error
        )  # [[name]] looks like JSON
        raise SettingsFileError(f"the configuration {path} cannot be read as TOML: {why}") from None
    return settings_from_sections(sections, str(path), default, method)


def refuse_unnamed_code(config: Config, source: Path | str, named: str) -> None:
    """Refuse a data set of the user's own, which is code, that a file names and the user does not.

    Args:
        config: settings that were read.
        source: the file.
        named: the data set that the command line, or the caller, names.

    Raises:
        ConfigError: it is another one: reading a file must not run what the file says.
    """
    dataset = config.data.dataset
    if ":" in dataset and dataset != named:
        raise ConfigError(
            f"{source} names code as its data set, {shown(dataset)}; a file cannot have code run. If it is yours, say "
            f"so: --dataset {dataset}"
        )


def settings_from_sections(
    sections: dict[str, Any], source: str, default: Settings, method: str = ""
) -> Settings:
    """Make settings from nested dicts, as TOML gives them.

    Args:
        sections: the dicts; the settings of a method stand in one of the method's name.
        source: the file, for messages.
        default: what they leave out.
        method: the method, in place of the one that they name; empty: that one.

    Raises:
        ConfigError: names `source`, the section and the key.
    """
    known = [section.name for section in fields(default)]
    tables = {entry.table: entry.settings for entry in METHODS.values()}
    choice = MethodChoice(default.method.method, default.method.coalitions)
    of_methods, changed = default.method.tables, dict[str, Any]()
    try:
        for name, values in sections.items():
            if name not in (*known, *tables) or not isinstance(values, dict):
                raise SettingsFileError(
                    f"{source}: unknown section [{name}]; expected {', '.join(f'[{s}]' for s in known)}, or of a "
                    f"method {', '.join(f'[{t}]' for t in tables)}{did_you_mean(name, (*known, *tables))}"
                )
            if name == "method":
                choice = _with(choice, name, values, source)
            elif name in known:
                changed[name] = _with(getattr(default, name), name, values, source)
            else:
                of_methods[name] = _with(
                    of_methods.get(name) or tables[name](), name, values, source
                )
        chosen = MethodConfig.from_tables(method or choice.method, choice.coalitions, of_methods)
        return replace(default, **changed, method=chosen)
    except SettingsFileError:
        raise
    except ConfigError as error:
        raise SettingsFileError(f"{source}: {error}") from None


def _with(section: Section, name: str, values: dict[str, Any], source: str) -> Section:
    """A section, or a table of a method, with values of a file."""
    types = get_type_hints(type(section))
    for key in values:
        if key not in types:
            raise SettingsFileError(
                f"{source}: {name}.{key} is unknown{_expected(name, key, types)}"
            )
    checked = {
        key: _value(f"{source}: {name}.{key}", types[key], value) for key, value in values.items()
    }
    return replace(section, **checked)  # type: ignore[type-var]


def _expected(name: str, key: str, types: dict[str, Any]) -> str:
    """What to write in place of a key that a section has not."""
    said = f"; expected one of {', '.join(types)}" if types else "; it has no settings"
    meant = did_you_mean(key, types)
    owners = [other for other in owners_of(key) if other != name]
    if not meant and owners and name in (*METHODS, "method"):
        tables = " or ".join(f"[{owner}]" for owner in owners)
        return f"{said}; {key} is a setting of {', '.join(owners)}: write it in {tables}"
    return said + meant


def save_config(config: Config, path: Path) -> None:
    """Write all settings, so that the file runs again as it is."""
    import tomli_w

    sections = {
        name: {key: NONE if value is None else value for key, value in section.items()}
        for name, section in config.sections().items()
    }
    write_text(path, tomli_w.dumps(sections))


def _value(where: str, kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingsFileError(f"{where} is {shown(value)}; expected a list of texts")
        return tuple(value)
    allowed = get_args(kind) or (kind,)
    if value == NONE and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        if not is_finite(value):
            raise SettingsFileError(
                f"{where} is {shown(value)}; expected a number of at most {sys.float_info.max:.1e}"
            )
        return float(value)
    if type(value) not in allowed:
        names = " or ".join(NONE if one is type(None) else one.__name__ for one in allowed)
        raise SettingsFileError(f"{where} is {shown(value)}; expected {names}")
    return value
