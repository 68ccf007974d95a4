"""What a comparison may write over: its own files and runs alone. Nothing is ever removed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from gradmod.experiments.errors import UNREADABLE, ConfigError
from gradmod.experiments.runs.names import CONFIG
from gradmod.experiments.settings.config import Config, MonitorConfig
from gradmod.experiments.settings.toml import load_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = "comparison.toml"
_WRITTEN = (
    *(f"table.{ending}" for ending in ("md", "tex", "csv")),
    *(f"{name}.{ending}" for name in ("curves", "methods") for ending in ("svg", "png")),
    "comparison.json",
    "trials.json",
)


def refuse_foreign_comparison(folder: Path) -> None:
    """Refuse a folder in which files of a comparison's names lie that no comparison wrote.

    Raises:
        ConfigError: names them.
    """
    settings = folder / SETTINGS
    if settings.exists():
        try:
            ours = "compare" in tomllib.loads(settings.read_text(encoding="utf-8"))
        except UNREADABLE:
            ours = False
        foreign = [] if ours else [SETTINGS]
    else:
        foreign = [name for name in _WRITTEN if (folder / name).exists()]
    if foreign:
        raise ConfigError(
            f"{folder} holds {', '.join(foreign)}, which no comparison wrote, and which would be written over: choose "
            "another --name"
        )


def refuse_foreign_run(folder: Path, settings: Path, wanted: Config) -> None:
    """Refuse what lies where a run of a comparison would, and is not that run: a comparison mixes nothing.

    Args:
        folder: of the run.
        settings: the file that the run is started from.
        wanted: its settings.

    Raises:
        ConfigError: the folder holds a run with other settings, or no run; or the file holds no settings.
    """
    if settings.exists():
        try:
            load_config(settings)
        except ConfigError as error:
            raise ConfigError(
                f"{error}; no comparison wrote it: move it away, or choose another --name"
            ) from None
    stored = folder / CONFIG
    if stored.is_file():
        _refuse_other_settings(folder, load_config(stored), wanted)
    elif folder.is_symlink() or (
        folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise ConfigError(
            f"{folder} is no run's folder: it has no config.toml, but something else. Move it away, or choose another "
            "--name; nothing in it was touched"
        )


def _refuse_other_settings(folder: Path, there: Config, here: Config) -> None:
    there, here = _comparable(there), _comparable(here)
    theirs, ours = (
        {
            f"{section}.{key}": value
            for section, values in config.sections().items()
            for key, value in values.items()
        }
        for config in (there, here)
    )
    different = [
        f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in {**theirs, **ours}
        if theirs.get(name) != ours.get(name)
    ]
    if not different:
        return
    raise ConfigError(
        f"{folder} holds a run with other settings ({'; '.join(different[:3])}): name another --name, or remove the "
        "folder"
    )


def _comparable(config: Config) -> Config:
    """Without what makes no difference to the figures."""
    train = replace(
        config.train,
        out="",
        name="",
        workers=None,
        device="cpu",
        log_every=1,
        save_every=0,
        timeout=30.0,
    )
    return replace(config, train=train, monitor=MonitorConfig())
