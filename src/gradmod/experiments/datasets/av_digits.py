"""AV-Digits, embedded: handwritten digits and the keypad tone of the same digit (see docs/datasets/av-digits.md)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits, heldout

Array = npt.NDArray[np.float64]

# ITU-T Q.23: each digit is a low and a high tone, in Hz.
TONES = {
    0: (941, 1336),
    1: (697, 1209), 2: (697, 1336), 3: (697, 1477),
    4: (770, 1209), 5: (770, 1336), 6: (770, 1477),
    7: (852, 1209), 8: (852, 1336), 9: (852, 1477),
}  # fmt: skip

SAMPLE_RATE = 8000
"""Hz."""
CLIP_SAMPLES = 4000
"""Half a second."""
TONE_SECONDS = (0.08, 0.20)
"""Range of the tone's duration; its onset is anywhere in the clip that leaves it room."""
SNR_DB = (-14.0, 2.0)
"""Range of the ratio of the tone's power to that of the white noise, while the tone sounds."""
PIXEL_NOISE = 4.0
"""Standard deviation of the noise on the pixels, whose values are 0 to 16."""
TEST_SHARE = 0.2

WINDOW, HOP, FIRST_BIN, BINS = 256, 125, 18, 32
"""Hann window and hop of the spectrogram, in samples, and the bins that are kept: 562 to 1,531 Hz."""

_MAKING_SEED = 20230
_GENERATOR_STREAMS = ("image noise", "tone", "sound noise", "split")


def load(root: str, protocol: str, split_seed: int) -> Splits:
    """Make the data set: 1,797 samples, the same to the bit every time.

    Inputs: `audio` [1, 32, 32], a log-power spectrogram, and `visual` [1, 8, 8], an image, both standardised;
    target: the digit. A fifth of the samples is the test split; the rest is divided as the heldout protocol says.

    Args:
        root: not used; nothing is read but scikit-learn's own data.
        protocol: `heldout`.
        split_seed: seed of the validation and predictor splits; the test split is always the same.
    """
    sounds, images, targets, order = _made()
    test, rest = np.split(order, [round(len(order) * TEST_SHARE)])
    views = {
        "audio": ArraySource(sounds, (1, BINS, CLIP_SAMPLES // HOP)),
        "visual": ArraySource(images, (1, 8, 8)),
    }
    whole = Split(views, targets)
    learnt = whole.subset(np.sort(rest))
    train, validation, predictor = heldout(len(learnt), split_seed)
    return Splits(
        learnt.subset(train),
        learnt.subset(validation),
        whole.subset(np.sort(test)),
        learnt.subset(predictor),
    )


@functools.cache
def _made() -> tuple[npt.NDArray[Any], ...]:
    """Sounds, images, targets and the order that parts the test split; read-only, as every run gets the same ones."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    streams = dict(
        zip(_GENERATOR_STREAMS, np.random.default_rng(_MAKING_SEED).spawn(4), strict=True)
    )
    images = _standardised(
        digits.images + streams["image noise"].normal(0, PIXEL_NOISE, digits.images.shape)
    )
    waves = keypad_waves(digits.target, streams["tone"], streams["sound noise"])
    sounds = _standardised(log_spectrogram(waves))
    made = sounds, images, digits.target, streams["split"].permutation(len(digits.target))
    for array in made:
        array.flags.writeable = False
    return made


def keypad_waves(
    digits: npt.NDArray[Any], tones: np.random.Generator, noise: np.random.Generator
) -> Array:
    """[N, 4000] half a second of white noise (power 1) for each digit, its keypad tone somewhere in it."""
    count = len(digits)
    seconds = tones.uniform(*TONE_SECONDS, (count, 1))
    onset = tones.uniform(0, 1, (count, 1)) * (CLIP_SAMPLES / SAMPLE_RATE - seconds)
    phases = tones.uniform(0, 2 * np.pi, (2, count, 1))
    power = 10 ** (tones.uniform(*SNR_DB, (count, 1)) / 10)
    time = np.arange(CLIP_SAMPLES) / SAMPLE_RATE
    frequencies = np.array([TONES[int(digit)] for digit in digits]).T[..., None]
    wave = np.sin(2 * np.pi * frequencies * time + phases).sum(0)  # two sines: power 1
    sounding = (time >= onset) & (time < onset + seconds)
    return np.asarray(np.sqrt(power) * wave * sounding + noise.normal(0, 1, (count, CLIP_SAMPLES)))


def log_spectrogram(waves: Array) -> Array:
    """[N, 32, 32] natural logarithm of the power at 32 frequencies (low first) and 32 times."""
    padded = np.pad(waves, ((0, 0), (WINDOW // 2, WINDOW // 2)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)[:, ::HOP][
        :, : CLIP_SAMPLES // HOP
    ]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW), axis=2)[..., FIRST_BIN : FIRST_BIN + BINS]
    return np.asarray(np.log(np.abs(spectrum) ** 2 + 1e-6).swapaxes(1, 2))


def _standardised(values: Array) -> npt.NDArray[np.float32]:
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float32)
