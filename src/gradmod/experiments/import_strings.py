"""Import strings, by which the registries name what they do not want to import, and users name what is theirs."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gradmod.experiments.errors import ConfigError, DataError, GradmodError

_OURS = "gradmod"
_PREFIX = "gradmod_user_"
_LONGEST = 300
_READ: dict[str, tuple[Path, bytes]] = {}
"""Name of the module that a file of the user's became, to the file and the hash of what stood in it."""


def load_object(path: str) -> Any:
    """What `path`, "module:name" or "folder/file.py:name", stands for; running the module if it was not imported yet.

    Raises:
        ConfigError: there is no such file, module or name.
        DataError: the user's module fails while it runs; names the line.
    """
    where, _, name = path.rpartition(":")
    module = (
        _from_file(Path(where).expanduser()) if where.endswith(".py") else _from_name(where, name)
    )
    if not name or not hasattr(module, name):
        raise ConfigError(f"{where} has no {name!r}{_meant(name, module)}")
    return getattr(module, name)


def place_of(thing: Any, where: str) -> str:
    """The file, and the line where a function or class begins, for messages; else `where`."""
    try:
        return f"{inspect.getsourcefile(thing) or where}, line {inspect.getsourcelines(thing)[1]}"
    except (TypeError, OSError):
        return where


@contextmanager
def users_code(where: str, found: str = "") -> Iterator[None]:
    """Whatever the user's code raises becomes one line, with the file, the line and the reason.

    Args:
        where: the code, "folder/file.py:function" or "module:function".
        found: file and line to name where the error comes from elsewhere; empty: `where`.

    Raises:
        DataError: of any error but ours, which keep their kind, and Ctrl-C.
    """
    try:
        yield
    except GradmodError as error:
        raise type(error)(f"{_line(error, where) or found or where}: {error}") from error
    except SystemExit as error:
        raise DataError(
            f"{_line(error, where) or found or where}: it ended the program (exit {error.code}); what a script does "
            'by itself belongs below: if __name__ == "__main__":'
        ) from error
    except ModuleNotFoundError as error:
        raise DataError(
            f"{_line(error, where) or found or where}: there is no module {error.name!r} to import: install it, or put "
            f"{error.name}.py beside the file"
        ) from error
    except SyntaxError as error:
        place = f"{error.filename}, line {error.lineno}" if error.filename else found or where
        raise DataError(f"{place}: it is no Python: {error.msg}") from error
    except Exception as error:
        text = " ".join(str(error).split())
        reason = f": {text[:_LONGEST]}{'...' if len(text) > _LONGEST else ''}" if text else ""
        raise DataError(
            f"{_line(error, where) or found or where}: {type(error).__name__}{reason}"
        ) from error


def is_users(thing: Any) -> bool:
    """Whether a class or function is not of this package."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] != _OURS


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder can be imported, before all others; afterwards they still can, behind all others.

    So a file of the user's finds its neighbours as in a script of theirs, also in what runs later (an import in a
    function, a process that reads ahead), and hides nothing that is installed from who does not ask for it.
    """
    text = str(folder)
    importlib.invalidate_caches()
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path.remove(text)
        if text not in sys.path:
            sys.path.append(text)


def folder_of(where: str) -> Path | None:
    """The folder of "folder/file.py:function"; None where it is a module's name."""
    path = where.rpartition(":")[0]
    return Path(path).expanduser().resolve().parent if path.endswith(".py") else None


@dataclass(frozen=True)
class UsersFiles:
    """Files of the user's that are imported; unpickled in another process, they can be imported there.

    Pickled before what they define, they make it known to a process that was not forked from this one. A file is run
    there when something that is unpickled asks for it, and no other file.
    """

    paths: tuple[str, ...]

    @classmethod
    def imported(cls) -> UsersFiles:
        """Those that this process has imported."""
        return cls(tuple(str(path) for path, _ in _READ.values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_known, (self.paths,)


def _make_known(paths: Sequence[str]) -> UsersFiles:
    _FINDER.files.update({_module_name(Path(path)): Path(path) for path in paths})
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)
    return UsersFiles(tuple(paths))


class _UsersFinder(importlib.abc.MetaPathFinder):
    """Finds the files that another process had imported, by the names that their modules have."""

    def __init__(self) -> None:
        self.files: dict[str, Path] = {}

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        file = self.files.get(name)
        if file is None or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(name, file, loader=_UsersLoader(file))


class _UsersLoader(importlib.abc.Loader):
    def __init__(self, file: Path) -> None:
        self._file = file

    def exec_module(self, module: ModuleType) -> None:
        _run(module, self._file)


_FINDER = _UsersFinder()


def _from_name(name: str, wanted: str) -> ModuleType:
    if not name or name.startswith("."):
        raise ConfigError(f"{name + ':' + wanted!r} names no module; write folder/file.py:function")
    if name.partition(".")[0] == _OURS:
        return importlib.import_module(name)
    beside = Path(f"{name}.py")
    hint = (
        f"; did you mean {beside}:{wanted}?"
        if beside.is_file()
        else "; for a file write its path, folder/file.py"
    )
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        # There is no such package; or the module has no spec.
        found = sys.modules.get(name)  # type: ignore[assignment]
    if found is None:
        raise ConfigError(f"there is no module {name!r} to import{hint}")
    with users_code(f"{name}:{wanted}"):
        return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"{path} {kind}{_beside(path)}")
    path = path.resolve()
    name = _module_name(path)
    if name in sys.modules and _READ.get(name) == (path, _content(path)):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    _forget_namesakes(path.parent)
    sys.modules[name] = module
    try:
        _run(module, path)
    except BaseException:
        del sys.modules[name]  # half of it has run
        raise
    return module


def _module_name(path: Path) -> str:
    """Of the whole path, hashed: /a_b/c.py and /a/b_c.py are two files."""
    return f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _run(module: ModuleType, path: Path) -> None:
    """Run a file of the user's as this module."""
    _READ.pop(module.__name__, None)
    content = _content(path)
    with importable(path.parent), users_code(str(path)):
        # Compiled here: a bytecode file is chosen by the time and size of the source, which an edit may leave.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    _READ[module.__name__] = path, content


def _forget_namesakes(folder: Path) -> None:
    """Forget neighbours of other files of the user's that are called as a neighbour here is: `utils`, say."""
    others = {path.parent for path, _ in _READ.values()} - {folder}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." in name or not file or name.startswith(_PREFIX):
            continue
        lies_in = (
            Path(file).parent.parent if Path(file).name == "__init__.py" else Path(file).parent
        )
        if lies_in in others and ((folder / f"{name}.py").is_file() or (folder / name).is_dir()):
            for inside in [
                other for other in sys.modules if other == name or other.startswith(f"{name}.")
            ]:
                del sys.modules[inside]


def _line(error: BaseException, where: str) -> str:
    """The innermost line of the user's that an error passed through: of the file named, or of one beside it."""
    path = where.rpartition(":")[0] if not where.endswith(".py") else where
    module = sys.modules.get(path)
    file = path if path.endswith(".py") else getattr(module, "__file__", None) or ""
    if not file:
        return ""
    folder = Path(file).expanduser().resolve().parent
    lines = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if folder in (parents := Path(frame.filename).parents)
        and Path(__file__).parents[1] not in parents
        and "site-packages" not in Path(frame.filename).parts
    ]
    return f"{lines[-1][0]}, line {lines[-1][1]}" if lines else ""


def _meant(name: str, module: ModuleType) -> str:
    """What could have been meant by a name that a module has not."""
    own = [
        known
        for known, value in vars(module).items()
        if callable(value)
        and not known.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    close = difflib.get_close_matches(name, own, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it has {', '.join(own[:8])}" if own else "; it defines no function"


def _beside(path: Path) -> str:
    """What could have been meant by a file that is not there."""
    names = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
