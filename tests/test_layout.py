"""That the library stays light. The direction of imports is in pyproject.toml, for import-linter."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradmod
from conftest import ROOT

PACKAGE = Path(gradmod.__file__).parent
APPLICATION = {"__main__", "data", "experiments"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if layer(p) not in APPLICATION],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_library_needs_torch_and_numpy_alone(path: Path) -> None:
    allowed = {"torch", "numpy", "gradmod", *sys.stdlib_module_names}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


def test_importing_the_package_imports_no_torch_until_it_is_used() -> None:
    script = """
import sys, gradmod
assert "torch" not in sys.modules
assert "AGM" in dir(gradmod)
gradmod.AGM
assert "torch" in sys.modules
extra = {"lightning_fabric", "tyro", "rich", "matplotlib", "sklearn"} & set(sys.modules)
assert not extra, extra
for name in gradmod.__all__:
    getattr(gradmod, name)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_map_names_every_room_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    around, application = text.split("## Around a model")[1].split("## The application")
    for part, folder in (
        (around, PACKAGE),
        (application.split("## Where")[0], PACKAGE / "experiments"),
    ):
        lines = [line.partition(":")[0] for line in part.splitlines() if line.startswith("- ")]
        named = {name.strip("/") for line in lines for name in re.findall(r"`([^`]+)`", line)}
        rooms = {
            path.name for path in folder.iterdir() if not path.name.startswith(("_", "py.typed"))
        }
        assert named == rooms - {"experiments"}
