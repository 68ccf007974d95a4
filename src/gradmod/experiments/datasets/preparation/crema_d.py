"""CREMA-D, decoded once: spectrograms and frames in memory-mapped arrays."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradmod.experiments.datasets.crema_d import (
    CLASSES,
    FLOOR,
    HOP,
    RATE,
    SECONDS,
    SPECTROGRAM,
    WINDOW,
    Listed,
    frames_in,
    listed_clips,
    spectrogram,
)
from gradmod.experiments.datasets.folders import files_in
from gradmod.experiments.datasets.frames import PictureWriter
from gradmod.experiments.datasets.images import read_image, shrunk
from gradmod.experiments.datasets.npy import GrowingArray
from gradmod.experiments.datasets.preparation.video import seconds_of
from gradmod.experiments.datasets.prepared import making, sha256, write_manifest
from gradmod.experiments.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

VIDEO_SUFFIXES = (
    ".flv",
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".ogv",
)


def prepare(
    root: Path,
    out: Path,
    *,
    audio: Path | None = None,
    videos: Path | None = None,
    shorter_side: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Decode every clip once. `out` is then a root of the data set, and needs nothing of `root`.

    With `shorter_side` 0 what is read from it equals what is decoded from the files, bit for bit.

    Args:
        root: folder with `CREMAD/{train,test}.csv`.
        out: folder to make; it must not exist.
        audio: folder of the wav files; None: `root`/Audio.
        videos: folder of the data set's videos, of which the frame of every full second is taken; None: the frames
            are in `root`/Image-01-FPS.
        shorter_side: pixels that larger frames are shrunk to; 0: they stay as they are.
        progress: called with (clips done, of how many).

    Returns:
        The manifest, which is also written.

    Raises:
        ConfigError: `out` exists, or `shorter_side` is not what it can be.
        DataError: a file is missing or damaged.
    """
    if shorter_side < 0 or 0 < shorter_side < 32:
        raise ConfigError(
            f"shorter_side is {shorter_side}; expected 0, for frames as they are, or at least 32 pixels"
        )
    with making(out) as folder:
        sounds_in = audio or root / "Audio"
        listed = listed_clips(
            root, sounds_in, frames_in(root) if videos is None else videos_in(videos)
        )

        write_csv(folder, listed)
        frames_of = frames_of_files if videos is None else frames_of_video
        sounds, pictures = (
            GrowingArray(folder / "audio.npy", np.float32, SPECTROGRAM),
            PictureWriter(folder),
        )
        with sounds, pictures:
            for number, (sound, paths) in enumerate(
                zip(listed.sounds, listed.pictures, strict=True), 1
            ):
                sounds.append(spectrogram(sound)[None, None])
                pictures.append(shrunk(image, shorter_side) for image in frames_of(paths))
                if progress is not None:
                    progress(number, len(listed.names))
        files = [*listed.sounds, *(path for paths in listed.pictures for path in paths)]
        facts = {
            "left_out": listed.left_out,
            "sound": {
                "rate": RATE,
                "seconds": SECONDS,
                "window": WINDOW,
                "hop": HOP,
                "floor": FLOOR,
            },
            "frames": {"from": "jpg" if videos is None else "video", "shorter_side": shorter_side},
            "source": {"files": len(files), "sha256": sha256(files)},
        }
        return write_manifest(folder, "crema-d", facts)


def frames_of_files(paths: list[Path]) -> Iterator[Image]:
    """The frames of a clip, each in its file."""
    return map(read_image, paths)


def frames_of_video(paths: list[Path]) -> Iterator[Image]:
    """The frames of a clip, one a second of its video."""
    return seconds_of(paths[0])


def videos_in(folder: Path) -> Callable[[str], list[Path]]:
    """What gives the video of a clip, of whatever kind.

    Raises:
        DataError: the folder holds none, or two of one clip.
    """
    by_name: dict[str, Path] = {}
    for path in files_in(folder, suffixes=VIDEO_SUFFIXES):
        other = by_name.setdefault(path.stem, path)
        if other != path:
            raise DataError(
                f"{folder} holds {other.name} and {path.name}; expected one video of a clip: remove one"
            )
    if not by_name:
        raise DataError(
            f"{folder} holds no videos; expected <clip>.flv, or one of {', '.join(VIDEO_SUFFIXES)}"
        )
    return lambda name: [by_name[name]] if name in by_name else []


def write_csv(folder: Path, listed: Listed) -> None:
    """The clips that there are, in the files of the original layout."""
    (folder / "CREMAD").mkdir()
    rows = [(name, CLASSES[label]) for name, label in zip(listed.names, listed.labels, strict=True)]
    for split, part in (("train", rows[: listed.train]), ("test", rows[listed.train :])):
        with (folder / "CREMAD" / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(part)
