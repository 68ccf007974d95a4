"""Settings in TOML files: complete when written, checked when read."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from gradmod.experiments.errors import (
    UNREADABLE,
    ConfigError,
    SettingsFileError,
    did_you_mean,
    why_unreadable,
)
from gradmod.experiments.file_kinds import another_kind
from gradmod.experiments.files import write_text
from gradmod.experiments.settings.checks import is_finite, shown
from gradmod.experiments.settings.config import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NONE = "none"
"""TOML has no null: a setting that is None is written as this word, as on the command line."""


Settings = TypeVar("Settings", bound=Config)


def load_config(path: Path | str) -> Config:
    """Read the settings of a run; see `load_settings`."""
    return load_settings(path, Config())


def load_settings(path: Path | str, default: Settings) -> Settings:
    """Read settings; what the file leaves out is as in `default`.

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
    return settings_from_sections(sections, str(path), default)


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


def settings_from_sections(sections: dict[str, Any], source: str, default: Settings) -> Settings:
    """Make settings from nested dicts, as TOML gives them.

    Raises:
        ConfigError: names `source`, the section and the key.
    """
    config = default
    known = [section.name for section in fields(config)]
    try:
        for name, values in sections.items():
            if name not in known or not isinstance(values, dict):
                raise SettingsFileError(
                    f"{source}: unknown section [{name}]; expected {', '.join(f'[{section}]' for section in known)}"
                    f"{did_you_mean(name, known)}"
                )
            section = getattr(config, name)
            types = get_type_hints(type(section))
            checked = {
                key: _value(f"{source}: {name}.{key}", types, key, value)
                for key, value in values.items()
            }
            config = replace(config, **{name: replace(section, **checked)})
    except SettingsFileError:
        raise
    except ConfigError as error:
        raise SettingsFileError(f"{source}: {error}") from None
    return config


def save_config(config: Config, path: Path) -> None:
    """Write all settings, so that the file runs again as it is."""
    import tomli_w

    sections = {
        name: {key: NONE if value is None else value for key, value in section.items()}
        for name, section in asdict(config).items()
    }
    write_text(path, tomli_w.dumps(sections))


def _value(where: str, types: dict[str, Any], key: str, value: Any) -> Any:
    if key not in types:
        raise SettingsFileError(
            f"{where} is unknown; expected one of {', '.join(types)}{did_you_mean(key, types)}"
        )
    if get_origin(types[key]) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingsFileError(f"{where} is {shown(value)}; expected a list of texts")
        return tuple(value)
    allowed = get_args(types[key]) or (types[key],)
    if value == NONE and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        if not is_finite(value):
            raise SettingsFileError(
                f"{where} is {shown(value)}; expected a number of at most {sys.float_info.max:.1e}"
            )
        return float(value)
    if type(value) not in allowed:
        names = " or ".join(NONE if kind is type(None) else kind.__name__ for kind in allowed)
        raise SettingsFileError(f"{where} is {shown(value)}; expected {names}")
    return value
