"""Settings that come with the package, a TOML file each: the authors' for each data set and fusion, and small ones."""

from __future__ import annotations

from pathlib import Path

from gradmod.experiments.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent


def presets() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def preset_names() -> str:
    """What to say where the name of a preset is missing."""
    return f"--preset needs a name: one of {', '.join(presets())}"


def preset_path(name: str) -> Path:
    """File of the preset called `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in presets():
        hint = did_you_mean(name, presets())
        raise ConfigError(
            f"there is no preset {name!r}; expected one of {', '.join(presets())}{hint}"
        )
    return FOLDER / f"{name}.toml"
