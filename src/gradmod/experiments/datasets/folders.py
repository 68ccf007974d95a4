"""Listing the files of a folder: without what systems leave there, and in the order of their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_LEFT_BY_SYSTEMS = frozenset(
    {"__macosx", "@eadir", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
"""Folders and files of macOS' archives, Synology and Windows, in lower case."""
_NUMBER = re.compile(r"[0-9]+")


def files_in(folder: Path, pattern: str = "*", suffixes: Iterable[str] = ()) -> list[Path]:
    """The files below a folder that match, sorted by their paths; none where the folder does not exist.

    What systems and programs leave beside the files of a user is left out: whatever begins with a dot (the `._*` of
    macOS' AppleDouble, which have the name and the ending of a real file but hold something else; `.DS_Store`;
    `.ipynb_checkpoints/`), `__MACOSX/`, `Thumbs.db`, `desktop.ini`, `@eaDir/`.

    Args:
        folder: where to look.
        pattern: of `Path.glob`.
        suffixes: endings with their dot, in lower case, of which a file must have one, in whatever case; none: any.
    """
    wanted = set(suffixes)
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(_is_left_by_a_system(part) for part in path.relative_to(folder).parts)
        and (not wanted or path.suffix.lower() in wanted)
        and path.is_file()
    )


def by_number(paths: Iterable[Path]) -> list[Path]:
    """Files in the order of the numbers in their names: frame 10 behind frame 9, padded with zeros or not.

    Where a name holds several numbers, those on the left come first; where the numbers are equal, the name decides.
    Numbers are whole: `1.10` stands behind `1.9`.
    """
    return sorted(
        paths, key=lambda path: ([int(number) for number in _NUMBER.findall(path.stem)], path.name)
    )


def _is_left_by_a_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFT_BY_SYSTEMS
