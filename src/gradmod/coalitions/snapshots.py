"""What an object holds that is neither a container nor an attribute in a `__dict__`, kept and put back in place.

NumPy arrays, generators of random numbers, `__slots__`: networks keep them on themselves, and a forward moves them.
"""

from __future__ import annotations

import array
import functools
import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
import torch

SMALL = 1 << 16
"""Bytes of an array up to which it is kept in every step; a larger one only for a network that is seen to change it."""
_LARGEST = 1 << 28
_MISSING = object()


class Snapshot(Protocol):
    """A thing as it was at one moment."""

    def has_changed(self) -> bool:
        """Whether it is otherwise now."""

    def put_back(self) -> None:
        """Let it be as it was."""


def snapshots_of(value: Any, everything: bool = False) -> Iterable[Snapshot]:
    """Snapshots of what `value` holds beside its `__dict__`; none for most objects.

    Args:
        value: any object.
        everything: large arrays, too.
    """
    kind = type(value)
    if issubclass(kind, np.ndarray):
        small = value.nbytes <= (_LARGEST if everything else SMALL)
        writable = value.flags.writeable and not isinstance(value, np.memmap)
        return (_Buffer(value, ..., value.copy()),) if small and writable else ()
    if kind is bytearray or issubclass(kind, array.array):
        return (_Buffer(value, slice(None), value[:]),)
    generator = _GENERATORS.get(kind)
    if generator is None and issubclass(
        kind, (random.Random, np.random.Generator, np.random.RandomState)
    ):
        generator = next(
            functions for known, functions in _GENERATORS.items() if issubclass(kind, known)
        )
    if generator is not None:
        return (GeneratorSnapshot(value, *generator),)
    slots = _slots(kind)  # type: ignore[arg-type]
    return (_Slots(value, slots),) if slots else ()


class _Buffer:
    """An array, whose contents are put back where they were."""

    def __init__(self, value: Any, everything: Any, contents: Any) -> None:
        self._value, self._everything, self._contents = value, everything, contents

    def has_changed(self) -> bool:
        """See `Snapshot`."""
        if not isinstance(self._value, np.ndarray):
            return bool(self._value != self._contents)
        if self._value.shape != self._contents.shape:
            return True
        same = self._value == self._contents
        with_itself = self._value == self._value  # NaN equals nothing
        return not bool(
            np.all(same | (~with_itself if isinstance(with_itself, np.ndarray) else False))
        )

    def put_back(self) -> None:
        """See `Snapshot`."""
        if self.has_changed():
            if isinstance(self._value, np.ndarray) and self._value.shape != self._contents.shape:
                self._value.resize(self._contents.shape, refcheck=False)
            self._value[self._everything] = self._contents


class GeneratorSnapshot:
    """A generator of random numbers."""

    def __init__(
        self, value: Any, get: Callable[[Any], Any], put: Callable[[Any, Any], None]
    ) -> None:
        self._value, self._get, self._put = value, get, put
        self._state = get(value)

    def has_changed(self) -> bool:
        """See `Snapshot`."""
        now = self._get(self._value)
        return (
            not torch.equal(now, self._state)
            if isinstance(now, torch.Tensor)
            else repr(now) != repr(self._state)
        )

    def put_back(self) -> None:
        """See `Snapshot`."""
        self._put(self._value, self._state)


def _put_bits(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    torch.Generator: (
        torch.Generator.get_state,
        lambda value, state: value.set_state(state) and None,
    ),
    random.Random: (random.Random.getstate, random.Random.setstate),
    np.random.Generator: (lambda value: value.bit_generator.state, _put_bits),
    np.random.RandomState: (np.random.RandomState.get_state, np.random.RandomState.set_state),
}


class _Slots:
    """The values in an object's `__slots__`."""

    def __init__(self, value: Any, names: tuple[str, ...]) -> None:
        self._value = value
        self.contents = {name: getattr(value, name, _MISSING) for name in names}

    def has_changed(self) -> bool:
        """See `Snapshot`."""
        return any(
            getattr(self._value, name, _MISSING) is not kept for name, kept in self.contents.items()
        )

    def put_back(self) -> None:
        """See `Snapshot`."""
        for name, kept in self.contents.items():
            if getattr(self._value, name, _MISSING) is kept:
                continue
            if kept is _MISSING:
                object.__delattr__(self._value, name)
            else:
                object.__setattr__(self._value, name, kept)


@functools.lru_cache(maxsize=1024)
def _slots(kind: type) -> tuple[str, ...]:
    """Names of what objects of this type keep in slots of their own classes, and not of a built-in type's."""
    names: list[str] = []
    for base in kind.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else tuple(own):
            mangled = (
                f"_{base.__name__.lstrip('_')}{name}"
                if name.startswith("__") and name[-2:] != "__"
                else name
            )
            if type(base.__dict__.get(mangled)).__name__ == "member_descriptor":
                names.append(mangled)
    return tuple(names)
