"""Import strings, by which the registries name what they do not want to import, and users name what is theirs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gradmod.errors import ConfigError


def named(path: str) -> Any:
    """What `path`, "module:name" or "folder/file.py:name", stands for; running the module if it was not imported yet.

    Raises:
        ConfigError: there is no such file, module or name.
    """
    where, _, name = path.rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_name(where)
    if not hasattr(module, name):
        raise ConfigError(f"{where} has no {name!r}")
    return getattr(module, name)


def _from_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {name!r} to import; for a file write its path, folder/file.py"
            ) from None
        raise


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist")
    name = f"gradmod_user_{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{path} cannot be imported as Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
