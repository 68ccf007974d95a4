"""Settings in TOML files: complete when written, checked when read."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from gradmod.experiments import checks
from gradmod.experiments.checks import NONE, shown
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
from gradmod.experiments.methods.entry import MethodSettings
from gradmod.experiments.methods.own import UnreadSettings
from gradmod.experiments.methods.registry import method_entry, owners_of
from gradmod.experiments.own_code import is_own, short_name
from gradmod.experiments.settings.config import Config, MethodChoice, MethodConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CODE = (
    ("data", "dataset", "data set"),
    ("model", "model", "network"),
    ("method", "method", "method"),
    ("compare", "methods", "methods"),
)
"""Settings that may name code: section, key, and what it is."""


Settings = TypeVar("Settings", bound=Config)
Section = TypeVar("Section")


def load_config(path: Path | str) -> Config:
    """Read the settings of a run; see `load_settings`."""
    return load_settings(path, Config())


def load_settings(path: Path | str, default: Settings) -> Settings:
    """Read settings; what the file leaves out is as in `default`. No code that the file names is run.

    Raises:
        ConfigError: the file is missing, not TOML, or has an unknown section, key, or a value of the wrong type; or it
            is a comparison's that names methods that are code.
    """
    sections = read_sections(path)
    if "compare" in sections:  # which knows what its methods have
        refuse_unnamed_code(sections, path, ("dataset", "model", "method"))
    return settings_from_sections(sections, str(path), default)


def read_sections(path: Path | str) -> dict[str, Any]:
    """What a file of settings holds.

    Raises:
        ConfigError: the file is missing, or not TOML.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsFileError(f"the configuration {path} does not exist") from None
    except UNREADABLE as error:
        # [[name]] looks like JSON.
        why = another_kind(path, "TOML", "text json") or why_unreadable(error)
        raise SettingsFileError(f"the configuration {path} cannot be read as TOML: {why}") from None


def refuse_unnamed_code(
    sections: Mapping[str, Any], source: Path | str, named: Collection[str]
) -> None:
    """Refuse code of the user's own (a data set, a network, methods) that a file names and the user does not.

    Args:
        sections: what the file holds.
        source: the file.
        named: the flags that the user gives again, whatever they say.

    Raises:
        ConfigError: reading a file must not run what the file says.
    """
    found: dict[str, str] = {}
    flags = []
    for section, key, what in _CODE:
        values = sections.get(section)
        name = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(name, str) and is_own(name) and key not in named:
            found[what] = name
            flags.append(f"--{key} {name}")
    if found:
        said = " and ".join(f"as its {what}, {shown(name)}" for what, name in found.items())
        raise ConfigError(
            f"{source} names code {said}; a file cannot have code run. If it is yours, say so: {' '.join(flags)}"
        )


def settings_from_sections(
    sections: dict[str, Any],
    source: str,
    default: Settings,
    method: str = "",
    *,
    code: bool = False,
) -> Settings:
    """Make settings from nested dicts, as TOML gives them.

    Args:
        sections: the dicts; the settings of a method stand in one of the method's name.
        source: the file, for messages.
        default: what they leave out.
        method: the method, in place of the one that they name; empty: that one.
        code: whether the code of a method of the user's own may be run, to know what settings it has. Else they stay as
            they are.

    Raises:
        ConfigError: names `source`, the section and the key.
    """
    known = [section.name for section in fields(default)]
    tables: dict[str, type[MethodSettings]] = {
        entry.table: entry.settings for entry in METHODS.values()
    }
    own = {short_name(name): name for name in (method, *_own_methods(sections)) if is_own(name)}
    tables.update(dict.fromkeys(own, UnreadSettings))
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
                choice = _with(choice, name, values)
            elif name in own:
                of_methods[name] = UnreadSettings(values)
            elif name in known:
                changed[name] = _with(getattr(default, name), name, values)
            else:
                of_methods[name] = _with(of_methods.get(name) or tables[name](), name, values)
        compare = changed.get("compare", getattr(default, "compare", None))
        trained = [method or choice.method] if compare is None else compare.method_names
        for name in filter(is_own, trained if code else ()):
            entry = method_entry(name)
            values = of_methods.get(entry.table, UnreadSettings()).as_table()
            of_methods[entry.table] = _with(entry.settings(), entry.table, values)
        chosen = MethodConfig.from_tables(method or choice.method, choice.coalitions, of_methods)
        return replace(default, **changed, method=chosen)
    except SettingsFileError:
        raise
    except ConfigError as error:
        raise SettingsFileError(f"{source}: {error}") from None


def _with(section: Section, name: str, values: Mapping[str, Any]) -> Section:
    """A section, or a table of a method, with values of a file."""
    types = get_type_hints(type(section))
    for key in values:
        if key not in types:
            raise ConfigError(f"{name}.{key} is unknown{_expected(name, key, types)}")
    checked = {
        key: checks.typed(f"{name}.{key}", types[key], value) for key, value in values.items()
    }
    if isinstance(section, MethodSettings):
        return cast(Section, section.changed(**checked))
    return replace(section, **checked)  # type: ignore[type-var]


def _own_methods(sections: Mapping[str, Any]) -> Iterator[str]:
    """Methods of the user's own that a file names."""
    for section, key in (("method", "method"), ("compare", "methods")):
        values = sections.get(section)
        names = values.get(key) if isinstance(values, Mapping) else ""
        if isinstance(names, str):
            yield from filter(is_own, (name.strip() for name in names.split(",")))


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
