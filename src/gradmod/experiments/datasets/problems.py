"""Several problems of a data set at once, and problems of one kind on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gradmod.experiments.errors import DataError

MOST_SHOWN = 5
_PLACE = re.compile(r"(?:[A-Za-z]:)?[^\s'\",;()]*[/\\][^\s'\",;()]*[^\s'\",;():.]")
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?|0x[0-9a-f]+")


class DataProblemsError(DataError):
    """A data set cannot be used, for several reasons at once.

    Attributes:
        messages: the reasons; where it is one line, the first one stands for all.
    """

    def __init__(self, *messages: str) -> None:
        more = (
            f" (and {len(messages) - 1} more: gradmod check lists them)"
            if len(messages) > 1
            else ""
        )
        super().__init__(f"{messages[0]}{more}")
        self.messages = messages


@dataclass
class Problems:
    """Reasons that are gathered, to be raised together."""

    messages: list[str] = field(default_factory=list)

    def add(self, message: object) -> None:
        """Keep a reason, or those of an error."""
        self.messages += getattr(message, "messages", (str(message),))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What the block refuses is kept, and what follows it is done, so that all is found."""
        try:
            yield
        except DataError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raise what there is.

        Raises:
            DataError: there is a reason; with several, `DataProblemsError`.
        """
        if len(self.messages) == 1:
            raise DataError(self.messages[0])
        if self.messages:
            raise DataProblemsError(*self.messages)


def by_kind(messages: Iterable[str], root: str = "") -> list[str]:
    """Messages, those of one kind on one line: how many there are, where a few of them are, and the first.

    Of one kind are messages that differ in paths, quoted names and numbers only.

    Args:
        messages: what is wrong, in each its place.
        root: of the data set, which is left out of the places.
    """
    kinds: dict[str, list[str]] = {}
    for message in dict.fromkeys(messages):
        bare = message
        for place in sorted(_places(message, root), key=len, reverse=True):
            bare = bare.replace(place, "PATH")
        kinds.setdefault(_PARTICULAR.sub("#", bare), []).append(message)
    return [_line(alike, root) for alike in kinds.values()]


def _line(alike: list[str], root: str) -> str:
    first, *others = alike
    if not others:
        return first
    shown = [
        _where(first, others[0], root),
        *(_where(message, first, root) for message in others[: MOST_SHOWN - 1]),
    ]
    more = f", and {len(alike) - len(shown)} more" if len(alike) > len(shown) else ""
    return f"{len(alike)} alike ({', '.join(shown)}{more}): {first}"


def _where(message: str, other: str, root: str) -> str:
    """What tells a message from another of its kind: its path, else its quoted names and numbers."""
    known = set(_places(other, root))
    places = [place for place in _places(message, root) if place not in known]
    if places:
        text = places[0].removeprefix(root).lstrip("/\\") if root else places[0]
        return text or places[0]
    of_other = _PARTICULAR.findall(other)
    own = [
        part for number, part in enumerate(_PARTICULAR.findall(message)) if of_other[number] != part
    ]
    return " ".join(own) or message


def _places(message: str, root: str) -> list[str]:
    """The files and folders that a message names: what begins as the root does, or at the top."""
    found = (str(place) for place in _PLACE.findall(message))
    return [
        p
        for p in found
        if p.startswith(("/", "\\", "~")) or p[1:2] == ":" or (root and p.startswith(root))
    ]
