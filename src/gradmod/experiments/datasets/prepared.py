"""Folders that `gradmod prepare` makes: arrays beside a manifest that says of what they are made, and how."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod import __version__
from gradmod.experiments.datasets.folders import files_in
from gradmod.experiments.datasets.npy import open_array
from gradmod.experiments.errors import (
    UNREADABLE,
    ConfigError,
    DataError,
    WriteError,
    why_unreadable,
)
from gradmod.experiments.file_kinds import unreadable
from gradmod.experiments.files import making_beside, sync, write_json

MANIFEST = "manifest.json"
STAMP = ".verified.json"
"""Size and time of each file when it was last hashed and found to be what the manifest says."""
FORMAT = 1


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """A folder to write into, beside `out`: renamed to `out` when the block ends well, else removed.

    What a process that was killed has left of the same folder is removed, and nothing else.

    Raises:
        ConfigError: `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already; name a folder that does not, or remove it")
    folder = making_beside(out)
    folder.mkdir(parents=True)
    try:
        yield folder
        for path in folder.rglob("*"):
            sync(path)
        folder.rename(out)
        sync(out.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_manifest(folder: Path, dataset: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write down what a finished folder holds: `facts`, our version, and the hash of every file."""
    manifest: dict[str, Any] = {
        "dataset": dataset,
        "format": FORMAT,
        "gradmod": __version__,
        **facts,
    }
    files = files_in(folder, "**/*")
    manifest["sha256"] = {path.relative_to(folder).as_posix(): sha256([path]) for path in files}
    manifest["digest"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: Path, dataset: str) -> dict[str, Any] | None:
    """The manifest of a prepared folder; None where there is none, so that it is the data set as published.

    Raises:
        DataError: it is damaged, of another data set, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest = _digest(manifest) if isinstance(manifest, dict) else ""
    except UNREADABLE as error:
        reason = why_unreadable(error)
        said = unreadable(path, "JSON", "json text", reason, "prepare the data again")
        raise DataError(said) from None
    found = (
        {key: manifest.get(key) for key in ("dataset", "format")}
        if isinstance(manifest, dict)
        else {}
    )
    wanted = {"dataset": dataset, "format": FORMAT}
    if found != wanted or not isinstance(manifest.get("sha256"), dict):
        raise DataError(
            f"{path} is of {found}; expected {wanted}: prepare the data again with gradmod {__version__}"
        )
    if manifest.get("digest") != digest:
        raise DataError(
            f"{path} is not what it was when the folder was made: copy or prepare it again"
        )
    return dict(manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash of all that a manifest says, but for this hash."""
    said = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def verified_manifest(folder: Path, dataset: str) -> dict[str, Any] | None:
    """`read_manifest`, and that the files are what they were; what loaders call.

    Files are hashed when they are read for the first time, and again when one of them has another size or time.

    Raises:
        DataError: see `read_manifest`; or a file is missing or was changed.
    """
    manifest = read_manifest(folder, dataset)
    if manifest is None or _read_stamp(folder) == _stamp(folder, manifest):
        return manifest
    changed = changed_files(folder, manifest)
    if changed:
        raise DataError(
            f"{folder / changed[0]} is not what it was when the folder was made: copy or prepare it again"
        )
    return manifest


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Hash every file; those that are missing, or are not what they were when the folder was made."""
    expected: dict[str, str] = manifest["sha256"]
    stamp = _stamp(folder, manifest)
    changed = [name for name, digest in expected.items() if not _is_same(folder / name, digest)]
    if not changed:
        with suppress(WriteError):  # a read-only folder is hashed each time
            write_json(folder / STAMP, stamp)
    return changed


def _stamp(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Size and time of every file, and the hashes that they were compared with."""
    found: dict[str, Any] = {}
    for name, digest in manifest["sha256"].items():
        path = folder / name
        status = path.stat() if path.is_file() else None
        found[name] = [digest, *((status.st_size, status.st_mtime_ns) if status else ())]
    return found


def _read_stamp(folder: Path) -> Any:
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except UNREADABLE:
        return None


def sha256(paths: Iterable[Path]) -> str:
    """Hash of the contents of files, one behind the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Ragged:
    """Samples of different lengths, kept one behind the other.

    Attributes:
        values: [S, ...] all of them.
        first: [N + 1] where each begins; the last one is S.
    """

    values: npt.NDArray[Any]
    first: npt.NDArray[np.int64]

    @classmethod
    def open(cls, values: Path, first: Path, width: int) -> Ragged:
        """Memory-map [S, width] and its N + 1 beginnings.

        Raises:
            DataError: a file is missing, damaged or of another shape, or they do not go together.
        """
        array, beginnings = open_array(values, (None, width)), open_array(first, (None,))
        if beginnings[0] != 0 or beginnings[-1] != len(array) or (np.diff(beginnings) < 0).any():
            raise DataError(
                f"{first} does not go with {values}, which has {len(array)} rows; prepare the data again"
            )
        return cls(array, np.asarray(beginnings, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, sample: int) -> npt.NDArray[Any]:
        return self.values[self.first[sample] : self.first[sample + 1]]


def _is_same(path: Path, digest: str) -> bool:
    return path.is_file() and sha256([path]) == digest
