"""The wheel and the source distribution: built, installed alone, and imported."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import gradmod
from conftest import ROOT


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the wheel and the source distribution, made from what git tracks."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith(("docs/", "benchmarks/results/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_says_what_it_is(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"gradmod-{gradmod.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(
            archive.read(f"gradmod-{gradmod.__version__}.dist-info/METADATA").decode()
        )
    package = ROOT / "src" / "gradmod"
    for path in package.rglob("*"):
        if path.suffix in (".py", ".toml", ".j2", ".typed") or path.name == "py.typed":
            assert f"gradmod/{path.relative_to(package).as_posix()}" in names
    assert not [name for name in names if not name.startswith("gradmod")]
    assert metadata["Name"] == "gradmod"
    assert metadata["License-Expression"] == "MIT"
    assert any("2308.07686" in url for url in metadata.get_all("Project-URL", []))
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(line.split(">")[0] for line in needed) == ["numpy", "torch"]


@pytest.mark.slow
def test_the_source_distribution_holds_the_sources_and_the_licence(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/gradmod/__init__.py"} <= names


@pytest.mark.slow
def test_installed_with_torch_and_numpy_alone(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    listed = run(python, "-m", "pip", "list", "--format", "freeze").lower()
    for absent in ("lightning", "rich", "tyro", "matplotlib", "scikit-learn", "pandas"):
        assert absent not in listed
    script = """
import torch, gradmod
net = gradmod.adapt(torch.nn.Bilinear(4, 3, 2), call=lambda net, x: net(x["audio"], x["visual"]))
model = gradmod.ModulatedModel(net, gradmod.AGM(("audio", "visual")))
target = torch.randint(2, (8,))
logits = model({"audio": torch.randn(8, 4), "visual": torch.randn(8, 3)}, target)
torch.nn.functional.cross_entropy(logits, target).backward()
print(model.last_step.coefficients.shape, gradmod.__version__)
"""
    assert run(python, "-c", script, cwd=tmp_path).split() == [
        "torch.Size([2])",
        gradmod.__version__,
    ]
    assert (
        run(python, "-m", "gradmod", "--version", cwd=tmp_path)
        == f"gradmod {gradmod.__version__}\n"
    )
    train = [python, "-m", "gradmod", "train", "--dataset", "av-digits"]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "pip install" in done.stderr
    assert "gradmod[train]" in done.stderr
