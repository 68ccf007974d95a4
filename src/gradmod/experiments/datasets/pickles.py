"""Reading pickles without running what is in them: plain containers and NumPy arrays only.

A pickle is a program. The data sets of UR-Funny and CMU-MOSEI are published as pickles, so they are read here, and here
alone, by an unpickler that knows no function but those that make a NumPy array.
"""

from __future__ import annotations

import codecs
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import IO, Any, ClassVar, NoReturn

import numpy as np

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import check_kind, unreadable


def load_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, sets, strings, bytes, numbers and NumPy arrays of these.

    Strings of Python 2 are read as Latin-1, as NumPy's arrays need.

    Raises:
        DataError: the file is missing, truncated, no pickle, or asks for anything else: nothing of it was run.
    """
    check_kind(path, "a pickle", "pickle text json")  # the oldest pickles look like text
    try:
        with path.open("rb") as file:
            value = _PlainUnpickler(file, path).load()
        _check_plain(value)
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(unreadable(path, "a pickle", "pickle", reason)) from None
    return value


_ATOMS = frozenset({bool, int, float, complex, str, bytes, bytearray, type(None)})


def _check_plain(root: Any) -> None:
    """Raise ValueError unless a value is plain all the way down.

    A whole pickle calls the functions that it names; a damaged one may leave such a function, or one of this module's
    stand-ins for NumPy's types, where a value should be.
    """
    seen: set[int] = set()  # a damaged list may contain itself
    left = [root]
    while left:
        value = left.pop()
        kind = type(value)
        if kind in _ATOMS or isinstance(value, np.generic) or id(value) in seen:
            continue
        seen.add(id(value))
        inner: Iterable[Any]
        if kind is dict or kind is OrderedDict:
            inner = chain(value.keys(), value.values())
        elif kind in (list, tuple, set, frozenset):
            inner = value
        elif kind is np.ndarray:
            inner = value.flat if value.dtype.hasobject else ()
        else:
            raise ValueError(f"{_NAMES.get(kind, kind.__name__)} where a value should be")
        left += (one for one in inner if type(one) not in _ATOMS)


class _Rest:
    """What is left of a file: reading makes room for as much as it is asked for, so it is asked for no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._left = file, file.seek(0, io.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        return self._taken(self._file.read(min(size, self._left)))

    def readline(self) -> bytes:
        return self._taken(self._file.readline())

    def _taken(self, part: bytes) -> bytes:
        self._left -= len(part)
        return part


class _PlainUnpickler(pickle._Unpickler):
    """The unpickler in Python: that in C makes room for whatever a damaged index or length says."""

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch}

    def __init__(self, file: IO[bytes], path: Path) -> None:
        super().__init__(_Rest(file), encoding="latin1")
        self._path = path

    def load_bytearray8(self) -> None:
        length = int.from_bytes(self.read(8), "little")  # type: ignore[attr-defined]
        content = self.read(length)  # type: ignore[attr-defined]
        if len(content) < length:
            raise EOFError("pickle data was truncated")
        self.append(bytearray(content))  # type: ignore[attr-defined]

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_build(self) -> None:
        """Arrays and data types take a state, and only one that has been checked; nothing else has one to take."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if type(target) is np.ndarray:
            target.__setstate__(_array_state(state))
        elif isinstance(target, _DType):
            target.take(state)
        else:
            name = _NAMES.get(type(target), type(target).__name__)
            raise ValueError(f"{name} that is given a state")

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        home = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        known = _KNOWN.get((home, name))
        if known is None:
            raise DataError(
                f"{self._path} asks for {module}.{name}, which is neither a plain container nor a NumPy array: "
                "refused, nothing of it was run. If you trust the file, convert it with the code that made it"
            )
        return known

    def persistent_load(self, pid: Any) -> NoReturn:
        raise DataError(f"{self._path} refers to an object outside the file ({pid!r}): refused")


def _encode(text: str, encoding: str) -> bytes:
    """What pickles of Python 3 in protocol 2 call to make bytes; no codec but this one."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}; expected latin1")
    return codecs.encode(text, "latin1")


def _bytes(*content: Any) -> bytes:
    return bytes(*map(_no_size, content[:1]), *content[1:])


def _bytearray(*content: Any) -> bytearray:
    return bytearray(*map(_no_size, content[:1]), *content[1:])


def _no_size(content: Any) -> Any:
    if not isinstance(content, (str, bytes, list)):  # a number, NumPy's too, would be how many
        raise ValueError(f"bytes of {type(content).__name__}")
    return content


class _DType:
    """What the name of NumPy's data types makes. NumPy's own would take any state, and crash on a damaged one."""

    def __init__(self, of: str, align: object = False, copy: object = False) -> None:
        if not (
            isinstance(of, str)
            and re.fullmatch(r"[biufcSUO]\d{0,9}", of)
            and {align, copy} <= {0, 1}
        ):
            raise ValueError(f"the data type {of!r} with the flags {align!r} and {copy!r}")
        self.dtype: np.dtype[Any] = np.dtype(of)

    def take(self, state: tuple[Any, ...]) -> None:
        """Set the byte order, the only thing that a plain data type has in its state."""
        _, byte_order, *fields, size, alignment, _ = state
        plain = fields == [None] * 3 and byte_order in ("<", ">", "|", "=")
        if (
            not plain
            or size not in (-1, self.dtype.itemsize)
            or alignment not in (-1, self.dtype.alignment)
        ):
            raise ValueError(f"the data type {self.dtype} with the state {state!r}")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _ArrayClass:
    """What the name of NumPy's array class stands for: it cannot be called, so that no array is made of a mere size."""


_NDARRAY = _ArrayClass()


def _array_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The state of an array for NumPy, which would crash on a damaged one."""
    _, shape, of, fortran, data = state
    if not (
        isinstance(of, _DType)
        and isinstance(shape, tuple)
        and all(type(n) is int and n >= 0 for n in shape)
    ):
        raise ValueError(f"an array of type {of!r} and shape {shape!r}")
    raw = data.encode("latin1") if isinstance(data, str) else data
    of_objects = of.dtype.hasobject
    expected = math.prod(shape) * (1 if of_objects else of.dtype.itemsize)
    if type(raw) is not (list if of_objects else bytes) or len(raw) != expected:
        raise ValueError(f"an array of type {of.dtype} and shape {shape!r} with other content")
    return 1, shape, of.dtype, bool(fortran), raw


def _reconstruct(subtype: object, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    if subtype is not _NDARRAY or shape != (0,):
        raise ValueError(
            f"an array of type {subtype!r} and shape {shape!r}; expected an empty numpy.ndarray, to be filled"
        )
    return np.ndarray(shape, np.int8)


def _scalar(of: _DType, data: Any = None) -> Any:
    if of.dtype.hasobject:
        raise ValueError("a NumPy scalar that holds a Python object")
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, of.dtype, 1)[0]


def _from_buffer(buffer: Any, of: _DType, shape: tuple[int, ...], order: str) -> Any:
    return np.frombuffer(buffer, dtype=of.dtype).reshape(shape, order="F" if order == "F" else "C")


class _Constructor:
    """A function that a pickle may call, and can do nothing else with."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)


_NAMES: dict[type, str] = {
    _Constructor: "a function",
    _ArrayClass: "the class of NumPy's arrays",
    _DType: "a NumPy data type",
}
"""Of what must not be in a file's value, for messages."""

_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Constructor(_reconstruct),
    ("numpy.core.multiarray", "scalar"): _Constructor(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Constructor(_from_buffer),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Constructor(_DType),
    ("_codecs", "encode"): _Constructor(_encode),
    ("collections", "OrderedDict"): _Constructor(OrderedDict),
    ("builtins", "bytearray"): _Constructor(_bytearray),
    ("builtins", "bytes"): _Constructor(_bytes),
    ("builtins", "complex"): _Constructor(complex),
    ("builtins", "set"): _Constructor(set),
    ("builtins", "frozenset"): _Constructor(frozenset),
}
