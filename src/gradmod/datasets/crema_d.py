"""CREMA-D: acted emotions, one clip of sound and frames of video each (see docs/datasets/crema-d.md)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradmod.datasets.audio import log_magnitude_spectrogram, read_wave, repeat_to
from gradmod.datasets.images import normalised, random_resized_crop, read_image, resized
from gradmod.datasets.registry import PUBLISHED, dataset_info
from gradmod.datasets.samples import Indices, Split
from gradmod.datasets.splits import Splits, by_group, heldout, nine_tenths_of_both
from gradmod.errors import ConfigError, DataError

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
RATE, SECONDS = 22050, 3
WINDOW, HOP, FLOOR = 512, 353, 1e-7
PIXELS = 224
PUBLISHED_FRAME_SEED = 999


@dataclass(frozen=True)
class Clips:
    """What the two csv files list and both folders hold.

    Attributes:
        names: of the clips, those of train.csv first.
        labels: [N] classes.
        frames: the frame files of each clip, in order of time.
        train: how many are from train.csv.
        left_out: clips that lack their sound or their frames.
    """

    names: list[str]
    labels: Indices
    frames: list[list[Path]]
    train: int
    left_out: list[str]


def load(root: str, protocol: str, split_seed: int, *, frames: int = 1, speakers: str = "mixed") -> Splits:
    """Open the data set; sounds and frames are decoded when they are read.

    Inputs: `audio` [1, 257, 188], the log-magnitude spectrogram of three seconds at 22,050 Hz; `visual` [3, 224, 224],
    or [3, frames, 224, 224], normalised with ImageNet's mean and deviation. In training frames are drawn anew each
    time, cropped and mirrored at random; in evaluation they are spread evenly over the clip.

    Args:
        root: folder with `CREMAD/{train,test}.csv`, `Audio/` and `Image-01-FPS/`.
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
        raise ConfigError("data.speakers is 'disjoint', which the published protocol is not; use --protocol heldout")
    folder = Path(root).expanduser()
    if not root or not (folder / "CREMAD").is_dir():
        raise DataError(dataset_info("crema-d").where_it_looked(root))
    clips = find_clips(folder)
    audio = Sounds([folder / "Audio" / f"{name}.wav" for name in clips.names])
    visual = Frames(clips.frames, frames, pinned=protocol == PUBLISHED)
    whole = Split({"audio": audio, "visual": visual}, clips.labels)
    total, first = len(clips.names), clips.train
    note = f"{len(clips.left_out)} clips left out, which lack their sound or frames: {', '.join(clips.left_out[:5])}"
    notes = (note,) if clips.left_out else ()
    if protocol == PUBLISHED:
        train, evaluation, predictor = nine_tenths_of_both(first, total - first)
        return Splits(
            whole.subset(train, augmented=True), whole.subset(evaluation), None, whole.subset(predictor), notes
        )
    if speakers == "disjoint":
        actors = [name.split("_")[0] for name in clips.names]
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


def find_clips(folder: Path) -> Clips:
    """Read both csv files and look for the files of every clip.

    Raises:
        DataError: a csv file is missing or malformed, names a clip twice or in both, or no clip has its files.
    """
    names: list[str] = []
    labels: list[int] = []
    files: list[list[Path]] = []
    left_out: list[str] = []
    seen: dict[str, str] = {}
    train = 0
    for split in ("train", "test"):
        path = folder / "CREMAD" / f"{split}.csv"
        for name, code in _read_csv(path):
            if name in seen:
                raise DataError(f"{path}: the clip {name!r} is listed in {seen[name]} already; expected each once")
            seen[name] = path.name
            frames = sorted((folder / "Image-01-FPS" / name).glob("*.jpg"))
            if not frames or not (folder / "Audio" / f"{name}.wav").is_file():
                left_out.append(name)
                continue
            names.append(name)
            labels.append(CLASSES.index(code))
            files.append(frames)
        if split == "train":
            train = len(names)
    if not train or train == len(names):
        raise DataError(
            f"{folder}: of {len(seen)} clips in the csv files, {train} of train and {len(names) - train} of test have "
            "both Audio/<clip>.wav and Image-01-FPS/<clip>/*.jpg; expected some of each"
        )
    return Clips(names, np.array(labels, dtype=np.int64), files, train, left_out)


def _read_csv(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is missing")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as csv: {error}") from None
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or row[1].strip() not in CLASSES:
            raise DataError(f"{path}, line {number}: {','.join(row)!r}; expected a clip name and one of {CLASSES}")
    if not rows:
        raise DataError(f"{path} is empty: it lists no clip")
    return [(row[0].strip(), row[1].strip()) for row in rows]


@dataclass(frozen=True)
class Sounds:
    """Spectrograms of sound files."""

    paths: Sequence[Path]
    shape: tuple[int, ...] = (1, WINDOW // 2 + 1, RATE * SECONDS // HOP + 1)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Tensor:
        """[n, 1, 257, 188]; nothing is drawn."""
        return torch.from_numpy(np.stack([spectrogram(self.paths[row])[None] for row in rows]))


def spectrogram(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[257, 188] of a clip: three seconds, the clip repeated, clipped to -1..1."""
    wave = repeat_to(read_wave(path, RATE), RATE * SECONDS).clip(-1, 1)
    return log_magnitude_spectrogram(wave, WINDOW, HOP, FLOOR)


@dataclass(frozen=True)
class Frames:
    """Frames of clips.

    Attributes:
        files: frame files of each clip.
        count: frames that are read of each.
        pinned: always the frames that the published loader draws.
    """

    files: Sequence[Sequence[Path]]
    count: int
    pinned: bool = False

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """[3, 224, 224], or with several frames [3, T, 224, 224]."""
        return (3, PIXELS, PIXELS) if self.count == 1 else (3, self.count, PIXELS, PIXELS)

    def read(self, rows: Indices, draws: np.random.Generator | None) -> Tensor:
        """[n, *shape]; with `draws`, random frames, cropped and mirrored."""
        return torch.from_numpy(np.stack([self._clip(self.files[row], draws) for row in rows]))

    def _clip(
        self, files: Sequence[Path], draws: np.random.Generator | None
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        chosen = chosen_frames(len(files), self.count, self.pinned, draws)
        images = [read_image(files[number]) for number in chosen]
        if draws is None:
            pixels = [normalised(resized(image, PIXELS)) for image in images]
        else:
            pixels = [normalised(random_resized_crop(image, PIXELS, draws)) for image in images]
        return pixels[0] if self.count == 1 else np.stack(pixels, axis=1)


def chosen_frames(available: int, count: int, pinned: bool, draws: np.random.Generator | None) -> list[int]:
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
        return sorted(np.random.RandomState(PUBLISHED_FRAME_SEED).choice(available, count, replace=False).tolist())
    if draws is not None:
        return sorted(draws.choice(available, count, replace=False).tolist())
    return [int((number + 0.5) * available / count) for number in range(count)]
