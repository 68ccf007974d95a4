"""CREMA-D: acted emotions, one clip of sound and frames of video each (see docs/datasets/crema-d.md)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradmod.experiments.datasets.audio import log_magnitude_spectrogram, read_wave, repeat_to
from gradmod.experiments.datasets.folders import by_number, files_in
from gradmod.experiments.datasets.frames import PictureArrays, PictureFiles, Pictures
from gradmod.experiments.datasets.images import normalise_into, random_resized_crop, resized
from gradmod.experiments.datasets.npy import open_array
from gradmod.experiments.datasets.prepared import verified_manifest
from gradmod.experiments.datasets.problems import Problems
from gradmod.experiments.datasets.registry import PUBLISHED, dataset_info
from gradmod.experiments.datasets.split import ArraySource, Indices, Source, Split
from gradmod.experiments.datasets.splits import Splits, by_group, heldout, nine_tenths_of_both
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.file_kinds import check_kind

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
RATE, SECONDS = 22050, 3
WINDOW, HOP, FLOOR = 512, 353, 1e-7
SPECTROGRAM = (1, WINDOW // 2 + 1, RATE * SECONDS // HOP + 1)
PIXELS = 224
PUBLISHED_FRAME_SEED = 999
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
_MEDIA_SUFFIX = re.compile(r"\.(wav|flv|mp4|avi|mp3|jpg)$", re.IGNORECASE)
_EMOTIONS = re.compile(r"neu|hap|joy|sad|fea|dis|ang", re.IGNORECASE)
LOUDEST = 16.0
"""How far beyond -1..1 a sample may lie: resampling and mixing overshoot a little, whole numbers in floats do not."""


@dataclass(frozen=True)
class Clips:
    """The clips that there are.

    Attributes:
        names: of the clips, those of train.csv first.
        labels: [N] classes.
        train: how many are from train.csv.
        left_out: clips that lack their sound or their frames.
        sounds: their spectrograms.
        pictures: their frames.
    """

    names: list[str]
    labels: Indices
    train: int
    left_out: list[str]
    sounds: Source
    pictures: Pictures


def load(
    root: str, protocol: str, split_seed: int, *, frames: int = 1, speakers: str = "mixed"
) -> Splits:
    """Open the data set; sounds and frames are decoded when they are read, prepared ones are memory-mapped.

    Inputs: `audio` [1, 257, 188], the log-magnitude spectrogram of three seconds at 22,050 Hz; `visual` [3, 224, 224],
    or [3, frames, 224, 224], normalised with ImageNet's mean and deviation. In training frames are drawn anew each
    time, cropped and mirrored at random; in evaluation they are spread evenly over the clip.

    Args:
        root: folder with `CREMAD/{train,test}.csv`, `Audio/` and `Image-01-FPS/`, or one that `gradmod prepare` made.
        protocol: `heldout`: 80/10/10 of train.csv and the whole of test.csv. `published`: first 90 % of both, the rest
            is the predictor split; and always the same frames of a clip, as drawn there with the seed 999.
        split_seed: of `heldout`.
        frames: of each clip.
        speakers: `mixed`, as the csv files are (every actor is in both); `disjoint`: all clips, divided anew so that no
            actor is in two splits (60/10/20/10 % of the actors).

    Raises:
        ConfigError: speakers or frames is not what it can be.
        DataError: a file is missing or damaged.
    """
    if speakers not in ("mixed", "disjoint"):
        raise ConfigError(f"data.speakers is {speakers!r}; expected mixed or disjoint")
    if speakers == "disjoint" and protocol == PUBLISHED:
        raise ConfigError(
            "data.speakers is 'disjoint', which the published protocol is not; use --protocol heldout"
        )
    folder = Path(root).expanduser()
    if not root or not (folder / "CREMAD").is_dir():
        raise DataError(dataset_info("crema-d").where_it_looked(root))
    manifest = verified_manifest(folder, "crema-d")
    clips = (
        clips_of_files(folder)
        if manifest is None
        else clips_of_arrays(folder, manifest["left_out"])
    )
    visual = Frames(clips.pictures, frames, pinned=protocol == PUBLISHED)
    actors = [name.split("_")[0] for name in clips.names]
    whole = Split(
        {"audio": clips.sounds, "visual": visual},
        clips.labels,
        ids=clips.names,
        groups={"speaker": actors},
    )
    total, first = len(clips.names), clips.train
    note = f"{len(clips.left_out)} clips left out, which lack their sound or frames: {', '.join(clips.left_out[:5])}"
    notes = (note,) if clips.left_out else ()
    if protocol == PUBLISHED:
        train, evaluation, predictor = nine_tenths_of_both(first, total - first)
        return Splits(
            whole.subset(train, augmented=True),
            whole.subset(evaluation),
            None,
            whole.subset(predictor),
            notes,
        )
    if speakers == "disjoint":
        train, validation, test, predictor = by_group(actors, (0.6, 0.1, 0.2, 0.1), split_seed)
    else:
        train, validation, predictor = heldout(first, split_seed)
        test = np.arange(first, total)
    return Splits(
        whole.subset(train, augmented=True),
        whole.subset(validation),
        whole.subset(test),
        whole.subset(predictor),
        notes,
    )


@dataclass(frozen=True)
class Listed:
    """Clips of the csv files whose files are there.

    Attributes:
        names, labels, train, left_out: as in `Clips`.
        sounds: sound file of each.
        pictures: frame files of each, in order of time, or its video.
    """

    names: list[str]
    labels: list[int]
    train: int
    left_out: list[str]
    sounds: list[Path]
    pictures: list[list[Path]]


def listed_clips(folder: Path, audio: Path, pictures_of: Callable[[str], list[Path]]) -> Listed:
    """Read both csv files and look for the files of every clip.

    Args:
        folder: where `CREMAD/` lies.
        audio: folder of the wav files.
        pictures_of: gives the frame files of a clip, or its video; none if it has none.

    Raises:
        DataError: a csv file is missing or malformed, names a clip twice or in both, or no clip has its files.
    """
    listed = Listed([], [], 0, [], [], [])
    seen: dict[str, str] = {}
    rows: dict[str, list[tuple[str, int]]] = {}
    problems = Problems()
    for split in ("train", "test"):
        path = folder / "CREMAD" / f"{split}.csv"
        with problems.kept():
            rows[split] = read_csv(path)
        for name, _ in rows.get(split, []):
            if name in seen:
                problems.add(
                    f"{path}: the clip {name!r} is listed in {seen[name]} already; expected each once"
                )
            seen[name] = path.name
    problems.raise_any()
    train = 0
    for split in ("train", "test"):
        for name, label in rows[split]:
            sound, pictures = audio / f"{name}.wav", pictures_of(name)
            if not pictures or not sound.is_file():
                listed.left_out.append(name)
                continue
            listed.names.append(name)
            listed.labels.append(label)
            listed.sounds.append(sound)
            listed.pictures.append(pictures)
        if split == "train":
            train = len(listed.names)
    if not train or train == len(listed.names):
        raise DataError(
            f"{folder}: of {len(seen)} clips in the csv files, {train} of train and {len(listed.names) - train} of "
            "test have both their sound (Audio/<clip>.wav) and their frames (Image-01-FPS/<clip>/*.jpg); expected "
            "some of each"
        )
    return replace(listed, train=train)


def frames_in(folder: Path) -> Callable[[str], list[Path]]:
    """What gives the frame files of a clip in the original layout, in order of time: that of their numbers."""
    return lambda name: by_number(
        files_in(folder / "Image-01-FPS" / name, suffixes=PICTURE_SUFFIXES)
    )


def clips_of_files(folder: Path) -> Clips:
    """The data set as published: wav and jpg, decoded whenever they are read.

    Raises:
        DataError: see `listed_clips`.
    """
    listed = listed_clips(folder, folder / "Audio", frames_in(folder))
    labels = np.array(listed.labels, dtype=np.int64)
    sounds, pictures = SoundFiles(listed.sounds), PictureFiles(listed.pictures)
    return Clips(listed.names, labels, listed.train, listed.left_out, sounds, pictures)


def clips_of_arrays(folder: Path, left_out: list[str]) -> Clips:
    """The data set as `gradmod prepare` leaves it: everything decoded, memory-mapped.

    Args:
        folder: where it lies.
        left_out: of its manifest.

    Raises:
        DataError: a file is missing or damaged, or they do not go together.
    """
    rows = {split: read_csv(folder / "CREMAD" / f"{split}.csv") for split in ("train", "test")}
    listed = [*rows["train"], *rows["test"]]
    sounds = open_array(folder / "audio.npy", (None, *SPECTROGRAM))
    pictures = PictureArrays.open(folder)
    if not len(listed) == len(sounds) == len(pictures):
        raise DataError(
            f"{folder}: the csv files list {len(listed)} clips, audio.npy holds {len(sounds)} and the frames are of "
            f"{len(pictures)}; prepare the data again"
        )
    names, labels = (
        [name for name, _ in listed],
        np.array([label for _, label in listed], dtype=np.int64),
    )
    return Clips(
        names, labels, len(rows["train"]), left_out, ArraySource(sounds, SPECTROGRAM), pictures
    )


def read_csv(path: Path) -> list[tuple[str, int]]:
    """Names and classes of clips.

    A first line that is a header (`name,label`) is passed over, as are empty lines, spaces around fields, the letters'
    case of a class, and of a clip's name its folder and the ending of its file.

    Raises:
        DataError: the file is missing, empty or malformed.
    """
    check_kind(path, "a csv file", "text empty")
    rows: list[tuple[int, list[str]]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                fields = [field.strip() for field in row]
                if any(fields):
                    rows.append((reader.line_num, fields))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as csv: {error}") from None
    if rows and _is_header(rows[0][1]):
        del rows[0]
    if not rows:
        raise DataError(f"{path} is empty: it lists no clip")
    clips, problems = [], Problems()
    for number, fields in rows:
        name = _clip_name(fields[0])
        code = fields[1].upper() if len(fields) > 1 else ""
        if not name or code not in CLASSES:
            problems.add(
                f"{path}, line {number}: {','.join(fields)[:100]!r}; expected a clip name and one of "
                f"{CLASSES}, with a comma between them"
            )
            continue
        clips.append((name, CLASSES.index(code)))
    problems.raise_any()
    return clips


def _is_header(fields: Sequence[str]) -> bool:
    """Whether a first line names columns: two words or more, no number in the first, no emotion in the second.

    Clips' names hold the actor's number. So a first clip with a misspelt class is refused, not passed over.
    """
    return (
        len(fields) > 1
        and all(fields)
        and not re.search(r"\d", fields[0])
        and _EMOTIONS.match(fields[1]) is None
    )


def _clip_name(field: str) -> str:
    """The clip that a field names, which may be a file of it, in a folder."""
    return _MEDIA_SUFFIX.sub("", re.split(r"[/\\]", field)[-1]).strip()


@dataclass(frozen=True)
class SoundFiles:
    """Spectrograms of sound files."""

    paths: Sequence[Path]
    shape: tuple[int, ...] = SPECTROGRAM

    def __len__(self) -> int:
        return len(self.paths)

    def contents(self, rows: Indices) -> Iterator[bytes]:
        """The files as they are; see `datasets.contents`."""
        for row in rows:
            yield self.paths[row].read_bytes()

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Tensor:
        """[n, 1, 257, 188]; nothing is drawn."""
        return torch.from_numpy(np.stack([spectrogram(self.paths[row])[None] for row in rows]))


def spectrogram(path: Path) -> npt.NDArray[np.float32]:
    """[257, 188] of a clip: three seconds, the clip repeated, clipped to -1..1.

    Raises:
        DataError: the file is missing or damaged, or its samples are far beyond -1..1.
    """
    wave = read_wave(path, RATE)
    peak = float(np.abs(wave).max())
    if peak > LOUDEST:
        raise DataError(
            f"{path} holds samples up to {peak:g}; expected -1 to 1. Floats that hold whole numbers "
            "would be clipped to noise: divide them by 32768 (of 16 bits), or write them as integers"
        )
    wave = repeat_to(wave, RATE * SECONDS).clip(-1, 1)
    return log_magnitude_spectrogram(wave, WINDOW, HOP, FLOOR)


@dataclass(frozen=True)
class Frames:
    """Frames of clips, as the network takes them.

    Attributes:
        pictures: where they come from.
        count: frames that are read of each.
        pinned: always the frames that the published loader draws.
    """

    pictures: Pictures
    count: int
    pinned: bool = False

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def shape(self) -> tuple[int, ...]:
        """[3, 224, 224], or with several frames [3, T, 224, 224]."""
        return (3, PIXELS, PIXELS) if self.count == 1 else (3, self.count, PIXELS, PIXELS)

    def contents(self, rows: Indices) -> Iterator[bytes]:
        """All frames, of which `read` takes a few; see `datasets.contents`."""
        for clip in rows:
            yield repr([self.count, self.pinned, self.pictures.count(clip)]).encode()
            for number in range(self.pictures.count(clip)):
                yield self.pictures.content(clip, number)

    def read_all(self, rows: Indices) -> None:
        """Decode every frame of these clips, of which `read` takes a few.

        Raises:
            DataError: one of them is damaged.
        """
        for clip in rows:
            for number in range(self.pictures.count(clip)):
                self.pictures.image(clip, number)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Tensor:
        """[n, *shape]; with `draws`, random frames, cropped and mirrored."""
        values = np.empty((len(rows), self.count, 3, PIXELS, PIXELS), dtype=np.float32)
        for clip, frames in zip(rows, values, strict=True):
            chosen = chosen_frames(self.pictures.count(clip), self.count, self.pinned, draws)
            for number, frame in zip(chosen, frames, strict=True):
                image = self.pictures.image(clip, number)
                part = (
                    resized(image, PIXELS)
                    if draws is None
                    else random_resized_crop(image, PIXELS, draws)
                )
                normalise_into(part, frame)
        in_order = values[:, 0] if self.count == 1 else np.ascontiguousarray(values.swapaxes(1, 2))
        return torch.from_numpy(in_order)


def chosen_frames(
    available: int, count: int, pinned: bool, draws: np.random.Generator | None
) -> list[int]:
    """Which frames of a clip are read, in order of time; where there are too few, the last one is repeated.

    Args:
        available: frames that the clip has.
        count: frames that are wanted.
        pinned: those that NumPy's legacy generator, seeded with 999, draws, as in the published loader.
        draws: random ones; None: spread evenly.
    """
    if count >= available:
        return [min(number, available - 1) for number in range(count)]
    if pinned:
        return sorted(
            np.random.RandomState(PUBLISHED_FRAME_SEED)
            .choice(available, count, replace=False)
            .tolist()
        )
    if draws is not None:
        return sorted(draws.choice(available, count, replace=False).tolist())
    return [int((number + 0.5) * available / count) for number in range(count)]
