"""Files that are written whole, whoever else writes them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import IO

import pytest

from gradmod.errors import WriteError
from gradmod.files import write_atomically, write_json, write_text


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
            for done in [pool.submit(write_atomically, path, writer(letter)) for letter in (b"a", b"b")]:
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
