"""Vectors of words in a text file: GloVe's, and those that word2vec and fastText write."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError

_LOOKED_AT = 1000
"""Lines at the start that must show how many numbers a vector has."""

Vector = npt.NDArray[np.float32]


def word_vectors(path: Path, words: Container[str], width: int) -> Iterator[tuple[str, Vector]]:
    """The vectors of some words, in the order of the file.

    A line is a token and its numbers, with spaces or tabs between them. The numbers are the LAST `width` fields: some
    tokens of glove.840B hold spaces (". . .", "at name@domain.com"), and their first part is a word with a line of its
    own. A first line of the number of lines and of dimensions, as word2vec and fastText write it, is passed over.

    Args:
        path: the file.
        words: which are wanted; none of them holds a space.
        width: of a vector.

    Yields:
        A word and its vector [width]. A word that the file has twice is given twice.

    Raises:
        DataError: the file is missing, its vectors are of another width, or a wanted line is malformed.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        start = list(islice(file, _LOOKED_AT))
        first = 1 if start and _is_header(start[0]) else 0
        _check_width(path, start[first:], width)
        for number, line in enumerate(chain(start[first:], file), 1 + first):
            word = line.replace("\t", " ").partition(" ")[0]
            if word not in words:
                continue
            token, *fields = _fields(line).rsplit(" ", width)
            if len(fields) == width and " " in token.rstrip():
                continue
            vector = _numbers(fields)
            if len(vector) != width or not np.isfinite(vector).all():
                raise DataError(
                    f"{path}, line {number}: expected a word and {width} finite numbers"
                )
            yield word, vector


def _fields(line: str) -> str:
    return line.replace("\t", " ").strip(" \r\n")


def _is_header(line: str) -> bool:
    fields = _fields(line).split()
    return len(fields) == 2 and all(field.isdecimal() for field in fields)


def _check_width(path: Path, lines: list[str], width: int) -> None:
    """Check that some line is one word and `width` numbers.

    Raises:
        DataError: there is none; names how many numbers most lines have.
    """
    widths = Counter(_width(line) for line in lines)
    if widths[width]:
        return
    most = max((w for w in widths if w), key=lambda w: widths[w], default=0)
    found = (
        f"its vectors have {most} numbers"
        if most
        else "no line near its start is a word and numbers"
    )
    raise DataError(
        f"{path}: {found}; expected a text file with a word and {width} numbers a line, as GloVe's are"
    )


def _width(line: str) -> int:
    """Numbers behind the first field; 0 where something else stands there."""
    fields = _fields(line).split(" ")[1:]
    return len(fields) if len(_numbers(fields)) == len(fields) else 0


def _numbers(fields: list[str]) -> Vector:
    """[n] the fields as numbers; empty where one of them is none."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return np.empty(0, dtype=np.float32)
    largest = float(np.finfo(np.float32).max)
    return np.array([v if abs(v) <= largest else math.nan for v in values], dtype=np.float32)
