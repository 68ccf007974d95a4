"""The restricted unpickler reads arrays and containers, and runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod.experiments.datasets.pickles import load_pickle
from gradmod.experiments.errors import DataError
from plain_values import not_plain

PLAIN = {
    "vision": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 5)),
    "words": np.array(["one", "two"]),
    "objects": np.array([[1, "a"], [None, b"b"]], dtype=object),
    "labels": [np.float32(1.5), np.int64(3), np.bool_(True)],
    "nested": OrderedDict(a=(1, {2}, frozenset({3}), b"bytes", bytearray(b"x"), 1 + 2j)),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and np.all(a == b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b and type(a) is type(b))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    value = load_pickle(path)
    assert same(value, PLAIN)
    assert not_plain(value) == []


FUNCTION, CLASS, TYPE = (
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n(Vf4\nI0\nI1\ntR",
)
OBJECTS = (
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    b"(I1\n(I1\ntcnumpy\ndtype\n(VO\nI0\nI1\ntRI0\n(l{x}atb."
)


@pytest.mark.parametrize(
    "around",
    [
        b"{x}.",
        b"(l{x}a.",
        b"(I1\n{x}t.",
        b"(I1\n(l{x}aI2\nt.",
        b"(dVa\n(I1\n(l{x}ats.",
        b"(d{x}I1\ns.",
        b"c__builtin__\nset\n((l{x}atR.",
        b"ccollections\nOrderedDict\n(tRVa\n{x}s.",
        OBJECTS,
        b"(lp0\ng0\na{x}a.",
    ],
    ids=[
        "root",
        "list",
        "tuple",
        "tuple of many",
        "dict's value",
        "dict's key",
        "set",
        "OrderedDict",
        "array of objects",
        "list that contains itself",
    ],
)
@pytest.mark.parametrize(
    ("what", "named"),
    [
        (FUNCTION, "a function"),
        (CLASS, "the class of NumPy's arrays"),
        (TYPE, "a NumPy data type"),
    ],
    ids=["function", "class", "data type"],
)
def test_a_function_that_is_not_called_is_no_value(
    what: bytes, named: str, around: bytes, tmp_path: Path
) -> None:
    """A damaged pickle may end early, and leave what it was about to call."""
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"\x80\x02" + around.replace(b"{x}", what))
    with pytest.raises(DataError, match=rf"odd\.pkl cannot be read.*{named}"):
        load_pickle(path)
    path.write_bytes(b"\x80\x02" + around.replace(b"{x}", b"Va\n"))
    assert not_plain(load_pickle(path)) == []


def test_attributes_are_no_part_of_a_value(tmp_path: Path) -> None:
    """They could hide the methods of an OrderedDict."""
    path = tmp_path / "odd.pkl"
    path.write_bytes(b"ccollections\nOrderedDict\n(tR(dVitems\nI1\nsb.")
    with pytest.raises(DataError, match=r"odd\.pkl cannot be read.*OrderedDict .* a state"):
        load_pickle(path)


class Exploit:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "exploit",
    [
        lambda trap: Exploit(os.system, f"touch {trap}"),
        lambda trap: Exploit(eval, f"open({str(trap)!r}, 'w')"),
        lambda trap: Exploit(exec, f"open({str(trap)!r}, 'w')"),
        lambda trap: Exploit(open, str(trap), "w"),
        lambda trap: Exploit(subprocess.check_call, ["touch", str(trap)]),
        lambda trap: Exploit(getattr, "", "join"),
        lambda trap: Exploit(np.load, str(trap)),
        lambda trap: {"labels": [1, 2, np.array([Exploit(os.mkdir, str(trap))], dtype=object)]},
        lambda trap: Exploit(np.memmap, str(trap), "uint8", "w+", 0, (3,)),
    ],
    ids=range(9),
)
def test_a_pickle_that_would_run_code_is_refused(
    exploit: Any, protocol: int, tmp_path: Path
) -> None:
    trap, path = tmp_path / "trap", tmp_path / "exploit.pkl"
    path.write_bytes(pickle.dumps(exploit(trap), protocol))
    with pytest.raises(DataError, match=r"exploit\.pkl asks for .*refused, nothing of it was run"):
        load_pickle(path)
    assert not trap.exists()


def test_the_exploit_is_real(tmp_path: Path) -> None:
    """The file that is refused above does run under pickle.load."""
    trap, path = tmp_path / "trap", tmp_path / "exploit.pkl"
    path.write_bytes(pickle.dumps(Exploit(os.system, f"touch {trap}")))
    subprocess.run(
        [sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], check=True
    )
    assert trap.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nset\n(I0\ntS'b'\ntR.",
        b"c_codecs\nencode\n(Vx\nVzlib_codec\ntR.",
        b"Vpid\nQ.",
        b"cnumpy\ndtype\n(S'O'\ntRp0\ncnumpy.core.multiarray\nscalar\n(g0\nVx\ntR.",
        b"cnumpy\nndarray\n((I99999999999\nI99999999\ntS'd'\ntR.",
    ],
    ids=["set as array", "codec", "persistent", "object scalar", "huge"],
)
def test_misused_opcodes_are_errors(opcodes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(opcodes)
    with pytest.raises(DataError, match=r"odd\.pkl"):
        load_pickle(path)


class Stated:
    """Pickled as a call with a state, whatever they are."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], state: Any) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


ODD: tuple[Any, ...] = (
    None,
    -1,
    2**40,
    7,
    "x",
    "",
    b"",
    (),
    (1,),
    [],
    [None],
    {},
    {"a": 1},
    0.5,
    np.dtype("f4"),
)
RECONSTRUCT = np.zeros(0).__reduce__()[0]


@pytest.mark.parametrize("of", ["f4", "O", "U3", "M8", "V4", ">i8"])
def test_a_data_type_with_any_state_is_no_crash(of: str, tmp_path: Path) -> None:
    whole = (3, "<", None, None, None, -1, -1, 0)
    states = [(*whole[:at], odd, *whole[at + 1 :]) for at in range(8) for odd in ODD]
    states += [whole[:n] for n in range(8)] + [
        (*whole, {}),
        (*whole[:2], None, ("a",), {"a": (np.dtype("f4"), 0)}, 4, 1, 0),
    ]
    for state in states:
        odd = Stated(np.dtype, (of, False, True), state)
        none_crashes((1, (1,), odd, False, b"1234"), tmp_path)
        none_crashes((1, (1,), odd, False, [None]), tmp_path)


def test_an_array_with_any_state_is_no_crash(tmp_path: Path) -> None:
    shapes = (
        *ODD,
        (2, 3),
        (-1,),
        (0,),
        (2**31, 2**31, 4),
        (True,),
        ((2,),),
        (2**62,) * 3,
        (0, 2**62, 2**62),
        (1,) * 70,
    )
    for dtype in (np.dtype("f4"), np.dtype("O"), np.dtype("U2")):
        for shape in shapes:
            for data in (*ODD, b"12345678", [None, None], "12345678"):
                none_crashes((1, shape, dtype, False, data), tmp_path)
    for of in ODD:
        none_crashes((1, (1,), of, False, b"1234"), tmp_path)


def none_crashes(state: Any, folder: Path) -> None:
    """An array with that state is an array or an error; a crash of NumPy would end the process of the tests."""
    path = folder / "odd.pkl"
    path.write_bytes(pickle.dumps(Stated(RECONSTRUCT, (np.ndarray, (0,), b"b"), state)))
    try:
        array = load_pickle(path)
    except DataError:
        return
    assert isinstance(array, np.ndarray)
    array.tolist()


@pytest.mark.parametrize(
    "state", [{"x": 1}, (None, {"__defaults__": (1,)}), (None, {"_make": 1}), 5]
)
@pytest.mark.parametrize(
    "name", ["numpy dtype", "numpy.core.multiarray scalar", "builtins set", "numpy ndarray"]
)
def test_what_a_pickle_may_call_cannot_be_changed_by_it(
    name: str, state: Any, tmp_path: Path
) -> None:
    path = tmp_path / "odd.pkl"
    named = f"c{name.replace(' ', chr(10))}\n".encode()
    path.write_bytes(named + pickle.dumps(state, protocol=0).removesuffix(b".") + b"b.")
    with pytest.raises(DataError, match=r"odd\.pkl cannot be read"):
        load_pickle(path)


def test_missing_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    with pytest.raises(DataError, match=r"data\.pkl is missing"):
        load_pickle(path)
    whole = pickle.dumps(PLAIN)
    for keep in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(DataError, match=r"data\.pkl cannot be read: truncated"):
            load_pickle(path)


# CPython prints a SystemError of its own when a damaged length makes it ask for a bytearray larger than the memory.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@given(st.binary(max_size=200), st.integers(0, 10**6), st.integers(0, 255))
def test_any_bytes_give_a_value_or_a_clear_error(junk: bytes, where: int, value: int) -> None:
    file = bytearray(pickle.dumps(PLAIN))
    file[where % len(file)] = value
    for content in (junk, bytes(file)):

        class InMemory:
            def is_file(self) -> bool:
                return True

            def open(self, mode: str, data: bytes = content) -> io.BytesIO:
                return io.BytesIO(data)

            def __str__(self) -> str:
                return "memory.pkl"

        try:
            load_pickle(InMemory())  # type: ignore[arg-type]
            message = "memory.pkl"
        except DataError as error:
            message = str(error)
        assert "memory.pkl" in message


def test_nothing_else_in_the_package_unpickles() -> None:
    import ast

    import gradmod

    package = Path(gradmod.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names
        }
        names |= {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and node.module
            and [a.name for a in node.names] != ["PicklingError"]
        }
        if path.name != "pickles.py":
            assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, (
                path
            )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "load"
            ):
                keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                owner = getattr(node.func.value, "id", "")
                assert owner != "torch" or keywords.get("weights_only") is True, path
                assert (
                    owner != "np" or keywords.get("allow_pickle") is False or path.suffix == ".npz"
                ), path
