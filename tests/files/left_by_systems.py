"""What macOS, Windows and Jupyter leave in folders, for tests of what lists them."""

from __future__ import annotations

from pathlib import Path

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(90)


def litter(folder: Path) -> None:
    """Leave it in the folder and in those below it; beside every file its `._` twin."""
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for file in [path for path in place.iterdir() if path.is_file()]:
            (place / f"._{file.name}").write_bytes(APPLE_DOUBLE)
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        for hidden in (".ipynb_checkpoints", "__MACOSX"):
            (place / hidden).mkdir(exist_ok=True)
            for suffix in ("jpg", "wav", "flv"):
                (place / hidden / f"7_ann_0.{suffix}").write_bytes(b"")
