"""The public API, frozen: a change of it is a change of tests/api.txt, which a reviewer sees."""

from __future__ import annotations

import enum
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import gradmod
from conftest import ROOT

PACKAGES = ("data", "diagnosis", "methods", "metrics", "models", "testing")
"""Whose `__all__` is public as well."""
FROZEN = ROOT / "tests" / "api.txt"


def described(name: str, thing: object) -> list[str]:
    """A line for a function; for a class its own line and one for each public member that is gradmod's."""
    if inspect.isfunction(thing):
        return [f"{name}{inspect.signature(thing)}"]
    if not inspect.isclass(thing):
        return [f"{name}: {type(thing).__name__}"]
    if issubclass(thing, enum.Enum):  # its signature is Python's own, another in each version
        return [f"enum {name}: {', '.join(thing.__members__)}"]
    lines = [f"class {name}{inspect.signature(thing)}"]
    for member in sorted(dir(thing)):
        found = inspect.getattr_static(thing, member)
        value = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        function = value.fget if isinstance(value, property) else value
        if member.startswith("_") or not (getattr(function, "__module__", None) or "").startswith(
            "gradmod"
        ):
            continue
        if inspect.isfunction(value):
            lines.append(f"  {name}.{member}{inspect.signature(value)}")
        elif isinstance(value, property):
            lines.append(f"  {name}.{member} (property)")
    return lines


def public_api() -> list[str]:
    lines = []
    for name in sorted(gradmod.__all__):
        thing = getattr(gradmod, name)
        if isinstance(thing, ModuleType):
            for inner, member in sorted(vars(thing).items()):
                if (
                    inspect.isfunction(member)
                    and member.__module__ == thing.__name__
                    and not inner.startswith("_")
                ):
                    lines += described(f"{name}.{inner}", member)
        else:
            lines += described(name, thing)
    for package in PACKAGES:
        module = importlib.import_module(f"gradmod.{package}")
        for name in sorted(set(module.__all__) - set(gradmod.__all__)):
            lines += described(f"{package}.{name}", getattr(module, name))
    return lines


def test_the_lists_agree() -> None:
    """What the package and its parts both name is the same thing, and nothing is named that is not there."""
    for package in PACKAGES:
        module = importlib.import_module(f"gradmod.{package}")
        assert getattr(gradmod, package) is module
        for name in module.__all__:
            assert getattr(module, name) is getattr(gradmod, name, getattr(module, name))


def test_the_public_api_is_as_frozen() -> None:
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    now = public_api()
    gone, new = (
        [line for line in frozen if line not in now],
        [line for line in now if line not in frozen],
    )
    assert now == frozen, (
        f"gone: {gone}; new: {new}. If that is meant: `python tests/test_api.py`, and CHANGELOG.md"
    )


def test_the_frozen_list_sees_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def adapt(net: object) -> None:
        """Another signature."""

    monkeypatch.setattr("gradmod.adapters.adapt", adapt)
    assert public_api() != FROZEN.read_text(encoding="utf-8").splitlines()


def test_everything_public_says_what_it_is() -> None:
    for name in gradmod.__all__:
        thing = getattr(gradmod, name)
        assert isinstance(thing, str) or (inspect.getdoc(thing) or "").strip(), name


if __name__ == "__main__":
    Path(FROZEN).write_text("\n".join(public_api()) + "\n", encoding="utf-8")
