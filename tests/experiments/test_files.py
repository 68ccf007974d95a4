"""Files that are written whole, whoever else writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import IO

import pytest

from gradmod.experiments.errors import WriteError
from gradmod.experiments.files import (
    is_leftover,
    making_beside,
    temporary_beside,
    write_atomically,
    write_json,
    write_text,
)


def test_two_writers_of_one_file_never_tear_it(tmp_path: Path) -> None:
    path, together = tmp_path / "file", Barrier(2)

    def writer(letter: bytes) -> Callable[[IO[bytes]], None]:
        def write(file: IO[bytes]) -> None:
            file.write(letter * 1000)
            together.wait(30)  # both are writing
            file.write(letter * 100_000)

        return write

    for _ in range(5):
        with ThreadPoolExecutor(2) as pool:
            for done in [
                pool.submit(write_atomically, path, writer(letter)) for letter in (b"a", b"b")
            ]:
                done.result()
        content = path.read_bytes()
        assert len(content) == 101_000
        assert len(set(content)) == 1
        assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"file cannot be written: No space left on device"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [float("nan"), float("-inf")]})
    assert '"nan"' in (tmp_path / "x.json").read_text()


def name_given_elsewhere(path: Path, ending: str) -> Path:
    """The name that a process that has ended since gave to what it wrote."""
    code = "import sys; from pathlib import Path; from gradmod.experiments.files import temporary_beside as name; "
    code += "print(name(Path(sys.argv[1]), sys.argv[2]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), ending], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def test_only_what_a_dead_process_of_this_machine_left_is_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    dead, living = name_given_elsewhere(path, "tmp"), temporary_beside(path)
    assert is_leftover(dead)
    assert not is_leftover(living)
    machine, rest = dead.name.removeprefix(".last.pt.").split("-", 1)
    others = "0" * 8 if machine != "0" * 8 else "1" * 8
    for name in (
        f".last.pt.{others}-{rest}",  # of another machine, or container
        dead.name.removeprefix("."),
        dead.name.replace(".tmp", ".txt"),
        dead.name + ".tmp",
        f".last.pt.{machine}-1-{rest.split('-')[1]}",  # another user's process
        f".last.pt.{machine}-0-{rest.split('-')[1]}",
        f".last.pt.{os.getpid()}-0123abcd.tmp",
        ".last.pt.tmp",
        ".my.tmp",
    ):
        assert not is_leftover(path.with_name(name)), name


def test_a_folder_in_the_making_takes_the_place_of_none_but_a_dead_ones(tmp_path: Path) -> None:
    out = tmp_path / "data"
    left, living = name_given_elsewhere(out, "making"), temporary_beside(out, "making")
    foreign = [
        tmp_path / ".data.making",
        tmp_path / ".data.12.making",
        tmp_path / ".other.making",
        living,
    ]
    for folder in (left, *foreign):
        folder.mkdir()
        (folder / "file").touch()
    making = making_beside(out)
    assert not making.exists()
    assert sorted(tmp_path.iterdir()) == sorted(foreign)
