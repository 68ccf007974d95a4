"""Paths and numbers that cannot be, and Ctrl-C at any moment: one true line and an exit code, no traceback."""

from __future__ import annotations

import errno
import inspect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from lightning_fabric.strategies import STRATEGY_REGISTRY

from gradmod.experiments import checks
from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.prepared import MANIFEST, read_manifest
from gradmod.experiments.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InterruptedRunError,
    WriteError,
)
from gradmod.experiments.methods.modulating import AGMSettings
from gradmod.experiments.runs.records import read_json, read_metrics
from gradmod.experiments.settings.config import (
    MAX_TIMEOUT,
    OptimizerConfig,
    TrainConfig,
)
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.training import conduct
from gradmod.experiments.training import run as runs
from gradmod.experiments.training.devices import make_fabric
from runs import short

LONG, DIGITS = "n" * 300, "1" * 5000
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    summary = runs.train(short(tmp_path_factory.mktemp("runs"), epochs=1, encoder="mlp"))
    assert summary is not None
    return summary.folder


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command in an empty folder beside the file FILE; what it says, which is one line."""
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("a file")

    def run(*words: str, code: int) -> str:
        assert cli.main(words) == code
        error = capsys.readouterr().err
        assert error.startswith("gradmod: error: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "compare --methods joint --out FILE",
            "FILE/compare-av-digits: Not a directory: FILE is a file; name a folder",
        ),
        (
            "compare --methods joint --out . --name FILE",
            "FILE: File exists; expected a folder, or a name that is free",
        ),
        (
            "train --device cpu --competition-every 1 --concepts FILE",
            "FILE: File exists; expected a folder",
        ),
        (
            "prepare ur-funny --root FILE --out FILE/x",
            "Not a directory: FILE is a file; name a folder",
        ),
        ("prepare crema-d --root . --out FILE/x", "Not a directory: FILE is a file; name a folder"),
        ("compare --methods joint --name LONG", "File name too long"),
        ("train --device cpu --name LONG", "File name too long"),
        (
            "train --devices 2 --timeout 1e13",
            "--timeout is 10000000000000.0; expected a number > 0 and <= 525600",
        ),
        ("train --epochs DIGITS", "--epochs: Exceeds the limit"),
        (
            f"train --seed {10**30}",
            f"--seed is {10**30}; expected a whole number >= 0 and <= {2**63 - 1}",
        ),
        ("train --device cuda:DIGITS", "--device is 'cuda:111"),
        ("train --out BYTE", r"--out is '\udcff'; expected text in UTF-8"),
        (
            "train --devices 2 --device cpu --strategy ddp_spawn",
            "--strategy is 'ddp_spawn', whose processes are",
        ),
    ],
)
def test_paths_and_numbers_that_cannot_be(
    words: str, message: str, refused: Callable[..., str]
) -> None:
    for name, text in (
        ("LONG", LONG),
        ("DIGITS", DIGITS),
        ("BYTE", "\udcff"),
    ):  # of which names of tests are not made
        words = words.replace(name, text)
    assert message in refused(*words.split(), code=2)
    assert Path("FILE").read_text() == "a file"


@pytest.mark.parametrize(
    "words",
    [
        "resume PATH",
        "evaluate PATH",
        "report PATH",
        "attribute PATH",
        "competition PATH",
        "check av-mnist PATH",
        "train --device cpu --dataset av-mnist --root PATH",
        "train --device cpu --dataset ur-funny --root PATH",
        "train --device cpu --dataset PATH.py:data",
    ],
)
@pytest.mark.parametrize("path", [LONG, "/".join([LONG] * 20)], ids=["name", "path"])
def test_a_path_that_is_too_long_for_the_system(
    words: str, path: str, refused: Callable[..., str]
) -> None:
    error = refused(*words.replace("PATH", path).split(), code=2)
    assert LONG[:100] in error
    assert len(error) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[train]\nepochs = " + "1" * 5000, "c.toml cannot be read as TOML: Exceeds the limit"),
        (
            "[train]\nepochs = 0x" + "f" * 5000,
            "train.epochs is a whole number of about 6021 digits; expected a whole",
        ),
        (
            "[train]\nname = [0x" + "f" * 5000 + "]",
            r"train.name is \[a whole number of about 6021 digits\]; expected str",
        ),
        (
            "[optimizer]\nlr = " + "1" * 400,
            "optimizer.lr is a whole number of about 400 digits; expected a number of at",
        ),
        ("a = " + DEEP, "c.toml cannot be read as TOML: its brackets are nested too deep"),
        (
            "[train]\nepochs" + ".a" * 3000 + " = 1",
            r"train.epochs is {'a': {'a': .*\.\.\..*; expected int",
        ),
        (
            '[train]\nout = "a\\u0000b"',
            r"train.out is 'a\\x00b'; expected a path, which the character 0 is in none of",
        ),
    ],
    ids=["digits", "hexadecimal", "in a list", "of a float", "brackets", "dots", "nul"],
)
def test_settings_in_toml_of_any_size_and_depth(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_integers_that_no_float_holds() -> None:
    for kind, settings in (
        (OptimizerConfig, {"lr": 10**400}),
        (AGMSettings, {"alpha": 10**400}),
        (AGMSettings, {"alpha": 10**308, "cap": 10**308}),
        (TrainConfig, {"timeout": 10**5000}),
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))}.*; expected"):
            kind(**settings)
    with pytest.raises(
        ConfigError, match=r"x is -?a whole number of about 6021 digits; expected one of a, b"
    ):
        checks.one_of("x", 16**5000, ("a", "b"))  # type: ignore[arg-type]
    assert timedelta(minutes=TrainConfig(timeout=MAX_TIMEOUT).timeout).days == 365


def test_records_and_manifests_that_are_nested_too_deep(tmp_path: Path, trained: Path) -> None:
    path = tmp_path / MANIFEST
    path.write_text(DEEP)
    with pytest.raises(CheckpointError, match="cannot be read: its brackets are nested too deep"):
        read_json(path)
    with pytest.raises(CheckpointError, match=r"manifest.json, line 1 is damaged"):
        read_metrics(path)
    # There are some that can be read and not be written, which the digest is of.
    for levels in range(850, 1000):
        path.write_text(
            json.dumps({"dataset": "mosei", "format": 1, "sha256": {}})[:-1]
            + f', "x": {"[" * levels}'
        )
        with path.open("a") as file:
            file.write("]" * levels + "}")
        with pytest.raises(DataError):
            read_manifest(tmp_path, "mosei")


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl"])
def test_a_report_of_records_that_are_nested_too_deep(
    name: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (trained / name).read_text()
    (trained / name).write_text(DEEP)
    try:
        assert cli.main(["report", str(trained)]) == 2
    finally:
        (trained / name).write_text(whole)
    assert str(trained / name) in capsys.readouterr().err


@contextmanager
def without_rights() -> Iterator[None]:
    """As a user who is not root."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    "words", ["check av-mnist PATH/data", "evaluate PATH/run", "report PATH/run", "resume PATH/run"]
)
def test_a_folder_that_must_not_be_read(
    words: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    for part in ("data/image", "run"):
        (locked / part).mkdir(parents=True)
    arguments = words.replace("PATH", str(locked)).split()
    refused(*arguments, code=2 if "run" in words else 1)  # and what it imports is imported
    locked.chmod(0)
    try:
        with without_rights():
            error = refused(*arguments, code=1)
    finally:
        locked.chmod(0o700)
    assert str(tmp_path) in error
    assert "Permission denied; allow it to this user" in error
    assert "written" not in error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "x"),
            1,
            "x: Permission denied; allow it to this user",
        ),
        (OSError(errno.EIO, "Input/output error", "x"), 1, "x: Input/output error"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "x"),
            1,
            "x: No such file; name another path, or restore it",
        ),
        (OSError(errno.EMFILE, "Too many open files"), 1, "Too many open files"),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", b"x"),
            2,
            "x: Is a directory; name a file in its place",
        ),
        (
            PermissionError("Caught it in a worker.\nTraceback ...:\n  ...\nPermissionError: 'x'"),
            1,
            "PermissionError: 'x'",
        ),
        (OSError(), 1, "OSError"),
        (
            OSError(errno.ENOSPC, "No space left", "x"),
            1,
            "x cannot be written: No space left. Make room",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "x"),
            1,
            "x cannot be written: Read-only file system. Make room",
        ),
        (WriteError("x cannot be written"), 1, "x cannot be written"),
    ],
)
def test_what_the_system_refuses(
    error: Exception, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    assert cli.guarded(fails) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert ("Make room" in said) == (getattr(error, "errno", None) in (errno.ENOSPC, errno.EROFS))


@pytest.mark.parametrize("moment", ["build_parts", "make_monitors", "_finish", "leave"])
def test_ctrl_c_outside_the_loop(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conduct, moment, interrupted)
        words = [
            "--device",
            "cpu",
            "--encoder",
            "mlp",
            "--epochs",
            "1",
            "--batch-size",
            "256",
            "--name",
            "run",
        ]
        assert cli.main(["train", *words, "--out", str(tmp_path)]) == InterruptedRunError.exit_code
    said = capsys.readouterr().err
    folder = tmp_path / "run"
    assert "what was saved before is whole" in said
    assert "nothing was written" not in said
    assert folder.exists() == (moment != "build_parts")
    if moment == "_finish":
        assert "gradmod resume" in said
        assert cli.main(["resume", str(folder)]) == 0
        assert (folder / "result.json").is_file()


@pytest.mark.parametrize("name", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_the_time_out_reaches_the_strategy(name: str) -> None:
    fabric = make_fabric(TrainConfig(device="cpu", devices=2, strategy=name, timeout=7))
    assert fabric.strategy._timeout == timedelta(minutes=7)


WAITING = {
    entry["strategy"]
    for entry in STRATEGY_REGISTRY.values()
    if "timeout" in inspect.signature(entry["strategy"]).parameters
}


@pytest.mark.parametrize("strategy", sorted(WAITING, key=str))
def test_every_strategy_that_waits_keeps_its_time_out_where_we_set_it(strategy: type) -> None:
    try:
        assert isinstance(strategy()._timeout, timedelta)  # type: ignore[attr-defined]
    except ImportError as error:  # DeepSpeed's
        pytest.skip(str(error))


def test_a_model_in_shards_is_refused_by_the_trainer() -> None:
    from types import SimpleNamespace

    from lightning_fabric.strategies.fsdp import FSDPStrategy

    from gradmod.experiments.training.devices import _expect_whole_models

    with pytest.raises(
        ConfigError, match=r"train.strategy is 'fsdp'; expected auto or ddp.*fully_shard"
    ):
        _expect_whole_models(SimpleNamespace(strategy=FSDPStrategy()), "fsdp")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_cannot_start_our_processes(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"train.strategy is '{name}', whose processes are copies of this one.*use ddp",
    ):
        make_fabric(replace(TrainConfig(device="cpu", devices=2), strategy=name))
