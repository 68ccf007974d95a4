"""Reading pickles without running what is in them: plain containers and NumPy arrays only.

A pickle is a program. The data sets of UR-Funny and CMU-MOSEI are published as pickles, so they are read here, and here
alone, by an unpickler that knows no function but those that make a NumPy array.
"""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gradmod.errors import DataError


def load_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, tuples, sets, strings, bytes, numbers and NumPy arrays of these.

    Strings of Python 2 are read as Latin-1, as NumPy's arrays need.

    Raises:
        DataError: the file is missing, truncated, no pickle, or asks for anything else: nothing of it was run.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, path).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read: truncated, or not a pickle ({reason}); fetch it again") from None


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

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


def _dtype(of: Any, align: Any = False, copy: Any = False) -> np.dtype[Any]:
    """How NumPy writes a data type down: its flags as 0 and 1; anything else is damage, which NumPy only warns of."""
    if align not in (0, 1) or copy not in (0, 1):
        raise ValueError(f"the data type {of!r} with the flags {align!r} and {copy!r}")
    dtype: np.dtype[Any] = np.dtype(of, align=bool(align), copy=bool(copy))
    return dtype


def _bytes(*content: Any) -> bytes:
    return bytes(*map(_no_size, content[:1]), *content[1:])


def _bytearray(*content: Any) -> bytearray:
    return bytearray(*map(_no_size, content[:1]), *content[1:])


def _no_size(content: Any) -> Any:
    if isinstance(content, int):
        raise ValueError(f"{content} bytes of nothing")
    return content


_NDARRAY = object()
"""What the name of NumPy's array class stands for: it cannot be called, so that no array is made of a mere size."""


def _reconstruct(subtype: object, shape: tuple[int, ...], dtype: Any) -> Any:
    if subtype is not _NDARRAY or shape != (0,):
        raise ValueError(
            f"an array of type {subtype!r} and shape {shape!r}; expected an empty numpy.ndarray, to be filled"
        )
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _scalar(dtype: np.dtype[Any], data: Any = None) -> Any:
    if dtype.hasobject:
        raise ValueError("a NumPy scalar that holds a Python object")
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, 1)[0]


def _from_buffer(buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: str) -> Any:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if order == "F" else "C")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "bytes"): _bytes,
    ("builtins", "complex"): complex,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
