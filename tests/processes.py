"""Processes for tests, forked from one that has imported everything already: connected ones, and commands."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gradmod.experiments.training.run", "networks", "every_import"])
PATIENCE = 280


def _process(target: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """A process that is to be forked.

    The one that it is forked from passes over what it cannot import without a word, and Python 3.11 tells it no path:
    it is started with one on which the tests' own modules are.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), before]))
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return CONTEXT.Process(target=_checked, args=(target, before, *arguments))


def _checked(target: Callable[..., Any], path: str | None, *arguments: Any) -> None:
    if "every_import" not in sys.modules:
        raise ImportError("tests/every_import.py could not be imported before forking: import it")
    os.environ.pop("PYTHONPATH", None)
    if path is not None:
        os.environ["PYTHONPATH"] = path
    target(*arguments)


def run_gradmod(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What `python -m gradmod` with these words prints, and its exit status."""
    return _command(None, words, cwd)


def run_script(
    path: Path, *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The same of a Python file."""
    return _command(path, words, cwd)


@contextlib.contextmanager
def started_gradmod(*words: str) -> Iterator[multiprocessing.process.BaseProcess]:
    """`python -m gradmod` with these words, running; killed at the end where it still does."""
    with tempfile.TemporaryDirectory() as folder, _started(None, words, None, Path(folder)) as one:
        yield one


def _command(
    path: Path | None, words: tuple[str, ...], cwd: Path | None
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        with _started(path, words, cwd, Path(folder)) as process:
            process.join(PATIENCE)
            late = process.is_alive()
        out, errors = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    assert not late, f"{words} took more than {PATIENCE} s: {errors}"
    return subprocess.CompletedProcess(words, process.exitcode or 0, out, errors)


@contextlib.contextmanager
def _started(
    path: Path | None, words: tuple[str, ...], cwd: Path | None, prints_in: Path
) -> Iterator[multiprocessing.process.BaseProcess]:
    printed = [prints_in / name for name in ("stdout", "stderr")]
    process = _process(_main, path, words, cwd or Path.cwd(), printed)
    process.start()
    try:
        yield process
    finally:  # a test that fails or is timed out leaves nothing running
        process.kill()
        process.join()


def _main(path: Path | None, words: tuple[str, ...], cwd: Path, printed: list[Path]) -> None:
    torch.set_num_threads(1)
    for number, file in enumerate(printed, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    sys.argv = [str(path or "gradmod"), *words]
    if path:
        sys.path.insert(0, str(path.parent))  # as Python does with a file
        runpy.run_path(str(path), run_name="__main__")
    else:
        runpy.run_module("gradmod", run_name="__main__", alter_sys=True)


def on_processes(function: Callable[[int], Any], world: int) -> list[Any]:
    """What `function(rank)` returns on each of `world` processes, connected by gloo; it must be a module's own.

    A process that raises ends the others, and its traceback is the test's.
    """
    return _results(function, world, connects=True)


def torchrun(processes: int = 2) -> list[str]:
    """The words before a script, or `-m module`, that start it on several processes of this machine."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *words]


def as_torchrun(function: Callable[[int], Any], world: int) -> list[Any]:
    """The same on processes that torchrun might have started, which connect by themselves."""
    return _results(function, world, connects=False)


def _results(function: Callable[[int], Any], world: int, connects: bool) -> list[Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = CONTEXT.Queue()
    processes = [
        _process(_run, function, rank, world, port, connects, results) for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        found = []
        for _ in processes:
            found.append(results.get(timeout=PATIENCE))
            assert found[-1][2] is None, found[-1][2]
        return [result for _, result, _ in sorted(found, key=lambda one: int(one[0]))]
    finally:
        for process in processes:
            process.join(1)
            process.kill()


def _run(
    function: Callable[[int], Any], rank: int, world: int, port: int, connects: bool, results: Any
) -> None:
    torch.set_num_threads(1)
    here = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
    }
    here |= {
        "LOCAL_WORLD_SIZE": world,
        "GROUP_RANK": 0,
        "GROUP_WORLD_SIZE": 1,
        "TORCHELASTIC_RUN_ID": "test",
    }
    os.environ.update({name: str(value) for name, value in here.items()})
    try:
        if connects:
            dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=PATIENCE / 2))
        result = function(rank)
        if connects:
            dist.barrier()
            dist.destroy_process_group()
    except Exception:
        results.put((rank, None, f"process {rank}: {traceback.format_exc()}"))
    else:
        results.put((rank, result, None))
