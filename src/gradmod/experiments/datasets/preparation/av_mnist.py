"""AV-MNIST from its sources: MNIST, the Free Spoken Digit Dataset, and a folder of noises.

Recipe: images keep the leading principal components of the training images, without their mean, as the published ones
do; each is paired with a spoken digit of its class, at a random place in one second, mixed with a random second of
noise; the sound becomes a power spectrogram in decibels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.audio import read_wave
from gradmod.experiments.datasets.folders import files_in
from gradmod.experiments.datasets.npy import GrowingArray
from gradmod.experiments.datasets.preparation.idx import find_idx, read_idx
from gradmod.experiments.datasets.prepared import making, write_manifest
from gradmod.experiments.errors import ConfigError, DataError

Array = npt.NDArray[Any]
RATE = 8000
WINDOW, HOP, SIZE = 222, 70, 112
"""Samples of the Hann window and of its step, and pixels of the spectrogram either way: 112 x 112 of one second."""
RANGE_DB = 60.0
"""What lies further below a clip's loudest point is black."""
CHUNK = 256
CENTRED, UINT8 = "centred", "uint8"
_RECORDING = re.compile(r"(\d)_(\w+)_(\d+)")
TEST_RECORDINGS = 5
"""The Free Spoken Digit Dataset's own convention: index 0 to 4 of each digit and speaker is test."""
NOISE_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Recipe:
    """What a prepared AV-MNIST is made of; written beside it.

    Attributes:
        train: samples; at most the 60,000 images of MNIST's training set.
        test: samples; at most 10,000.
        energy: share of the training images' variance that the kept principal components hold at least; the published
            recipe keeps a quarter.
        snr_db: range of the ratio of the speech's power to the noise's, drawn uniformly.
        disjoint: `recordings`: no recording is in train and test; `speakers`: no speaker is, either.
        seed: of every draw.
        images: `centred`: float64, what is left of an image minus the mean image, as published; `uint8`: with the mean
            image added back, rounded and cut to 0..255, an eighth of the size.
    """

    train: int = 60_000
    test: int = 10_000
    energy: float = 0.25
    snr_db: tuple[float, float] = (-16.0, -5.0)
    disjoint: str = "recordings"
    seed: int = 0
    images: str = CENTRED

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if getattr(self, name) < 10:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 10 samples")
        if not 0 < self.energy <= 1:
            raise ConfigError(f"energy is {self.energy}; expected a share above 0 and at most 1")
        if not (np.isfinite(self.snr_db).all() and self.snr_db[0] <= self.snr_db[1]):
            raise ConfigError(
                f"snr_db is {self.snr_db}; expected the smaller number first, both finite"
            )
        if self.disjoint not in ("recordings", "speakers"):
            raise ConfigError(f"disjoint is {self.disjoint!r}; expected recordings or speakers")
        if self.images not in (CENTRED, UINT8):
            raise ConfigError(f"images is {self.images!r}; expected {CENTRED} or {UINT8}")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected a whole number >= 0")


@dataclass(frozen=True)
class Recordings:
    """Sounds of one split: spoken digits by class, and noises."""

    spoken: dict[int, list[Array]]
    noises: list[Array]


def prepare(
    mnist: Path,
    speech: Path,
    noise: Path,
    out: Path,
    recipe: Recipe,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Make the data set in the original layout; chunk by chunk, so that memory stays small.

    It is made beside `out` and renamed when it is whole. The same sources and recipe give the same bytes with the same
    build of NumPy.

    Args:
        mnist: folder of the four IDX files, gzipped or not, or the one above `MNIST/raw` that torchvision makes.
        speech: folder of `{digit}_{speaker}_{index}.wav`.
        noise: folder of wav or ogg files.
        out: folder to make; it must not exist.
        recipe: sizes and difficulty.
        progress: called with (samples done, of how many).

    Returns:
        The manifest, which is also written to `out`/manifest.json.

    Raises:
        ConfigError: `out` exists.
        DataError: a source is missing or damaged, or there are too few images.
    """
    with making(out) as folder:
        images = read_mnist(mnist)
        for split, (pixels, _) in images.items():
            wanted = getattr(recipe, split)
            if wanted > len(pixels):
                raise DataError(
                    f"{wanted} {split} samples are wanted, but {mnist} has {len(pixels)} {split} images"
                )
        sounds = find_sounds(speech, noise, recipe)
        mean, components = principal_components(images["train"][0], recipe.energy)
        done = 0
        for split, (pixels, labels) in images.items():
            rng = np.random.default_rng([recipe.seed, split == "test"])
            chosen = np.sort(rng.permutation(len(pixels))[: getattr(recipe, split)])
            rng.shuffle(chosen)
            np.save(folder / f"{split}_labels.npy", labels[chosen].astype(np.int64))
            for name in ("image", "audio"):
                (folder / name).mkdir(exist_ok=True)
            dtype = np.float64 if recipe.images == CENTRED else np.uint8
            image = GrowingArray(folder / "image" / f"{split}_data.npy", dtype, (784,))
            audio = GrowingArray(folder / "audio" / f"{split}_data.npy", np.uint8, (SIZE, SIZE))
            with image, audio:
                for start in range(0, len(chosen), CHUNK):
                    rows = chosen[start : start + CHUNK]
                    kept = reduced(pixels[rows], mean, components)
                    image.append(kept if recipe.images == CENTRED else as_bytes(kept, mean))
                    draws = [
                        np.random.default_rng([recipe.seed, split == "test", start + i])
                        for i in range(len(rows))
                    ]
                    waves = [
                        mixture(int(labels[row]), sounds[split], recipe.snr_db, d)
                        for row, d in zip(rows, draws, strict=True)
                    ]
                    audio.append(spectrograms(np.stack(waves)))
                    done += len(rows)
                    if progress is not None:
                        progress(done, recipe.train + recipe.test)
        facts = {
            "recipe": asdict(recipe),
            "components": len(components),
            "recordings": {split: sum(map(len, s.spoken.values())) for split, s in sounds.items()},
            "noises": {split: len(s.noises) for split, s in sounds.items()},
        }
        return write_manifest(folder, "av-mnist", facts)


def principal_components(pixels: npt.NDArray[np.uint8], energy: float) -> tuple[Array, Array]:
    """Mean [784] of images [N, 784] and the fewest leading components [C, 784] that hold that share of the variance."""
    mean = np.zeros(pixels.shape[1])
    products = np.zeros((pixels.shape[1], pixels.shape[1]))
    for start in range(0, len(pixels), 4096):
        chunk = pixels[start : start + 4096].astype(np.float64)
        mean += chunk.sum(0)
        products += chunk.T @ chunk
    mean /= len(pixels)
    variances, vectors = np.linalg.eigh(products / len(pixels) - np.outer(mean, mean))
    variances, vectors = variances[::-1].clip(min=0), vectors[:, ::-1]
    kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), energy - 1e-12)) + 1
    return mean, vectors[:, : min(kept, len(variances))].T


def reduced(
    pixels: npt.NDArray[np.uint8], mean: Array, components: Array
) -> npt.NDArray[np.float64]:
    """[n, 784] images minus the mean image, with nothing but these components left; the mean is not added back."""
    centred = pixels.astype(np.float64) - mean
    return np.asarray((centred @ components.T) @ components)


def as_bytes(centred: npt.NDArray[np.float64], mean: Array) -> npt.NDArray[np.uint8]:
    """[n, 784] images with the mean image added back, rounded to 0..255."""
    return np.asarray((mean + centred).round().clip(0, 255), dtype=np.uint8)


def mixture(
    digit: int, sounds: Recordings, snr_db: tuple[float, float], draws: np.random.Generator
) -> Array:
    """[8000] one second: a recording of the digit at a random place, in a random second of noise."""
    speech = sounds.spoken[digit][int(draws.integers(len(sounds.spoken[digit])))][:RATE]
    noise = _second_of(sounds.noises[int(draws.integers(len(sounds.noises)))], draws)
    place = int(draws.integers(RATE - len(speech) + 1))
    ratio = 10 ** (draws.uniform(*snr_db) / 10)
    gain = np.sqrt(ratio * np.mean(noise**2) / max(float(np.mean(speech**2)), 1e-12))
    wave = noise.astype(np.float64)
    wave[place : place + len(speech)] += gain * speech
    return wave


def spectrograms(waves: Array) -> npt.NDArray[np.uint8]:
    """[n, 112, 112] of seconds [n, 8000]: rows are frequencies, low first; columns times; 255 is the loudest point."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::HOP][:, :SIZE]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * window, axis=2)[..., :SIZE]) ** 2
    decibel = 10 * np.log10(power + 1e-20)
    decibel -= decibel.max(axis=(1, 2), keepdims=True)
    grey = (decibel.clip(-RANGE_DB, 0) / RANGE_DB + 1) * 255
    return np.asarray(grey.round().swapaxes(1, 2), dtype=np.uint8)


def find_sounds(speech: Path, noise: Path, recipe: Recipe) -> dict[str, Recordings]:
    """Read the recordings and noises, and say which are of which split.

    Raises:
        DataError: a folder is missing or empty, a file is damaged, or a split lacks a digit.
    """
    paths = files_in(speech, "**/*.wav")
    named = [(path, match) for path in paths if (match := _RECORDING.fullmatch(path.stem))]
    if not named:
        raise DataError(f"{speech} holds no recordings; expected files such as 7_jackson_32.wav")
    speakers = sorted({match[2] for _, match in named})
    order = np.random.default_rng([recipe.seed, 2]).permutation(len(speakers))
    held = (
        {speakers[i] for i in order[: max(1, len(speakers) // 3)]}
        if recipe.disjoint == "speakers"
        else set()
    )
    if recipe.disjoint == "speakers" and len(speakers) < 2:
        raise DataError(f"{speech} has recordings of {speakers} alone; disjoint speakers need two")
    spoken: dict[str, dict[int, list[Array]]] = {
        s: {d: [] for d in range(10)} for s in ("train", "test")
    }
    for path, match in named:
        digit, speaker, index = int(match[1]), match[2], int(match[3])
        test = speaker in held if held else index < TEST_RECORDINGS
        spoken["test" if test else "train"][digit].append(read_wave(path, RATE))
    for split, digits in spoken.items():
        missing = [digit for digit, waves in digits.items() if not waves]
        if missing:
            raise DataError(
                f"{speech} has no recording of {missing} for the {split} split ({recipe.disjoint} disjoint)"
            )
    files = files_in(noise, "**/*", (".wav", ".ogg", ".flac"))
    if len(files) < 2:
        raise DataError(
            f"{noise} holds {len(files)} sound files; expected wav, ogg or flac, two at least"
        )
    waves = [read_wave(path, RATE) for path in files]
    order = np.random.default_rng([recipe.seed, 3]).permutation(len(waves))
    cut = max(1, round(len(waves) * NOISE_TEST_SHARE))
    noises = {
        "test": [waves[i] for i in sorted(order[:cut])],
        "train": [waves[i] for i in sorted(order[cut:])],
    }
    return {split: Recordings(spoken[split], noises[split]) for split in ("train", "test")}


def _second_of(noise: Array, draws: np.random.Generator) -> Array:
    """A random second that is not silent; one of a shorter noise is repeated. Many clips are padded with silence."""
    long = noise if len(noise) >= RATE else np.tile(noise, -(-RATE // len(noise)))
    loud = float(np.sqrt(np.mean(long**2)))
    for _ in range(20):
        start = int(draws.integers(len(long) - RATE + 1))
        second = long[start : start + RATE]
        if float(np.sqrt(np.mean(second**2))) > 0.1 * loud:
            return second
    start = max(0, min(int(np.argmax(np.abs(long))) - RATE // 2, len(long) - RATE))
    return np.asarray(long[start : start + RATE]) + np.float32(1e-6)


def read_mnist(folder: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """MNIST's images [N, 784] and labels [N] of train and test.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not go together.
    """
    stems = {
        split: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }
    paths = find_idx(folder, tuple(stem for pair in stems.values() for stem in pair))
    content = {}
    for split, (of_images, of_labels) in stems.items():
        pixels, labels = read_idx(paths[of_images], 3), read_idx(paths[of_labels], 1)
        if (
            pixels.shape[1:] != (28, 28)
            or len(pixels) != len(labels)
            or (len(labels) and labels.max() > 9)
        ):
            raise DataError(
                f"{paths[of_images].parent}: {split} images have shape {list(pixels.shape)} and labels "
                f"{list(labels.shape)}; expected [N, 28, 28] and [N] digits"
            )
        content[split] = pixels.reshape(len(pixels), 784), labels
    return content
