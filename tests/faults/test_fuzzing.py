"""Texts of any kind as settings, words and pickles: an answer or a clear refusal, never anything else."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import sys
import tracemalloc
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradmod.experiments.cli.main import main
from gradmod.experiments.datasets.pickles import load_pickle
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import NONE, load_config
from plain_values import not_plain

pytestmark = pytest.mark.slow
MANY = settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SECTIONS = {name: sorted(section) for name, section in asdict(Config()).items()}
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from([NONE, "agm", "late", "cpu", "av-digits", "1e3", "audio=3,visual=1"]),
    st.lists(st.one_of(st.integers(0, 3), st.text("ab=", max_size=4)), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)


def config_or_refusal(path: Path) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(load_config(path), Config)


@MANY
@given(st.data())
def test_settings_of_nearly_the_right_shape(tmp_path: Path, data: st.DataObject) -> None:
    document: dict[str, Any] = {}
    for section in data.draw(
        st.lists(st.sampled_from([*SECTIONS, "other"]), max_size=4, unique=True)
    ):
        keys = st.sampled_from([*SECTIONS.get(section, []), "other"])
        document[section] = data.draw(st.one_of(st.dictionaries(keys, VALUES, max_size=4), VALUES))
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    config_or_refusal(path)


@MANY
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    )
)
def test_settings_that_are_any_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    config_or_refusal(path)


@settings(MANY, max_examples=150)
@given(st.data())
def test_words_of_the_command_line(tmp_path: Path, data: st.DataObject) -> None:
    """Any flag with any value: exit code 2 and one line, or (not here: an unknown modality ends it) a run."""
    flags = [
        f"--{f.name.replace('_', '-')}"
        for section in fields(Config)
        for f in fields(section.default_factory)
    ]  # type: ignore[arg-type,misc]
    words = []
    for flag in data.draw(st.lists(st.sampled_from([*flags, "--other", "-x", "word"]), max_size=4)):
        words += [flag, *data.draw(st.lists(st.text("abc019.-=,:/é", max_size=6), max_size=2))]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(["train", *words, "--out", str(tmp_path), "--modality", "none-of-them"])
    assert code == 2
    assert "error" in error.getvalue().lower()
    assert not list(tmp_path.iterdir())


def real_pickles() -> list[bytes]:
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.array([1, 2]),
        "c": ["word", "x"],
        "d": {"e": (1.5, None)},
    }
    return [pickle.dumps(arrays, protocol=protocol) for protocol in range(6)]


@MANY
@given(st.integers(0, 5), st.integers(0, 2**32), st.integers(1, 12))
def test_pickles_with_flipped_bytes(tmp_path: Path, protocol: int, seed: int, flips: int) -> None:
    content = bytearray(real_pickles()[protocol])
    draw = random.Random(seed)
    for _ in range(flips):
        content[draw.randrange(len(content))] = draw.randrange(256)
    refused_or_plain(bytes(content), tmp_path)


@MANY
@given(st.lists(st.sampled_from([bytes([code]) for code in range(256)]), max_size=40).map(b"".join))
def test_pickles_of_random_operations(tmp_path: Path, content: bytes) -> None:
    refused_or_plain(content + b".", tmp_path)


MODULES = (
    "os",
    "posix",
    "builtins",
    "subprocess",
    "numpy",
    "numpy.core.multiarray",
    "torch",
    "gradmod.experiments.cli.main",
)
NAMES = (
    "system",
    "mkdir",
    "eval",
    "exec",
    "getattr",
    "Popen",
    "load",
    "scalar",
    "dtype",
    "main",
    "__import__",
)
CALLS = (
    b"c{m}\n{n}\n(Vtouch {s}\ntR.",
    b"(Vtouch {s}\ni{m}\n{n}\n.",
    b"\x80\x04\x8c\x02{m}\x8c\x02{n}\x93.",
)


@MANY
@given(st.sampled_from(MODULES), st.sampled_from(NAMES), st.sampled_from(CALLS))
def test_pickles_that_name_a_function(tmp_path: Path, module: str, name: str, shape: bytes) -> None:
    sentinel = tmp_path / "sentinel"
    text = (
        shape.replace(b"{m}", module.encode())
        .replace(b"{n}", name.encode())
        .replace(b"{s}", str(sentinel).encode())
    )
    refused_or_plain(text, tmp_path)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "call",
    [
        b"c__builtin__\nbytes\n(I{n}\ntR.",
        b"c__builtin__\nbytearray\n(I{n}\ntR.",
        b"cnumpy\nndarray\n((I{n}\nttR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I{n}\ntVb\ntR.",
        b"c__builtin__\nbytes\n(cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(Vi4\nI0\nI1\ntRV\x00\xc2\xeb\x0b\ntRtR.",
        b"\x80\x02Nr\x00\x00\x00\x10\x8c",  # a place of the memo far behind the last one
        b"\x80\x04\x8e\x00\x00\x00\x10\x00\x00\x00\x00x.",  # bytes, and a bytearray, longer than the file
        b"\x80\x05\x96\x00\x00\x00\x10\x00\x00\x00\x00x.",
    ],
)
def test_pickles_that_ask_for_much_memory(call: bytes, tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(call.replace(b"{n}", b"200000000"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            load_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def refused_or_plain(content: bytes, folder: Path) -> None:
    """Plain data, or DataError; nothing new was imported on the way."""
    path = folder / "data.pkl"
    path.write_bytes(content)
    imported = set(sys.modules)
    with contextlib.suppress(DataError):
        assert not_plain(load_pickle(path)) == []
    assert not {
        name for name in set(sys.modules) - imported if not name.startswith(("numpy", "encodings"))
    }
