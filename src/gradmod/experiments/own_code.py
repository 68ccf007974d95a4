"""Code of the user's own, named as folder/file.py:name: how its functions are called, and what was named where."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import folder_of, importable, users_code


def is_own(name: str) -> bool:
    """Whether a name of a data set, network or method is one of code of the user's own."""
    return ":" in name


def short_name(name: str) -> str:
    """What stands behind the colon, of a name that has one."""
    return name.rpartition(":")[2]


@contextmanager
def running(where: str, place: str = "") -> Iterator[None]:
    """Around a call of the user's code: its neighbours can be imported, its errors become one line.

    Args:
        where: "folder/file.py:name".
        place: file and line to name where an error comes from elsewhere; empty: `where`.
    """
    folder = folder_of(where)
    with nullcontext() if folder is None else importable(folder), users_code(where, found=place):
        yield


def call_of(
    function: Any, place: str, where: str, arguments: Mapping[str, Any], written: str
) -> Callable[[], Any]:
    """What calls a function; by name where it has all the names, in whatever order, else in their order.

    Args:
        function: the function.
        place: its file and line, for messages.
        where: "folder/file.py:function", for messages.
        arguments: by name.
        written: how it is written, "load(root, protocol, split_seed)".

    Raises:
        ConfigError: it is none, or takes other arguments.
    """
    if not callable(function):
        raise ConfigError(
            f"{where} is {type(function).__name__}, no function; expected def {written} there"
        )
    wanted = f"gradmod calls it as {written}: write it so"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of code that is not Python
        return lambda: function(*arguments.values())
    parameters = signature.parameters
    if set(arguments) <= set(parameters) and all(
        parameters[name].kind is not inspect.Parameter.POSITIONAL_ONLY for name in arguments
    ):
        keywords, positional = dict(arguments), ()
    else:
        keywords, positional = {}, tuple(arguments.values())
    try:
        bound = signature.bind(*positional, **keywords)
    except TypeError as error:
        raise ConfigError(f"{place}: {where} takes {signature}, and {error}; {wanted}") from None
    for name, value in bound.arguments.items():
        given = next((known for known in arguments if arguments[known] is value), name)
        default = parameters[name].default
        if given != name and default is not inspect.Parameter.empty and name.strip("_") != given:
            # `def load(root, batch_size=32)` would take the protocol as its batch size.
            raise ConfigError(
                f"{place}: {where} takes {signature}, whose {name!r} would be the {given}; {wanted}"
            )
    return lambda: function(*positional, **keywords)
