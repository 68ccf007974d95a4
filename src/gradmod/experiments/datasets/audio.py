"""Sound files and their spectrograms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import check_there, unreadable

Wave = npt.NDArray[np.float32]


def read_wave(path: Path, rate: int) -> Wave:
    """Read a sound file as one channel (the mean of all), resampled to `rate`.

    Resampling is soxr's `HQ` and the length is rounded up, both as librosa does it.

    Args:
        path: wav, ogg, flac or whatever libsndfile reads.
        rate: samples per second of what is returned.

    Returns:
        [samples] float32.

    Raises:
        DataError: the file is missing, truncated, no sound, empty, or holds values that are not finite.
    """
    import soundfile

    check_there(path)
    try:
        with soundfile.SoundFile(path) as file:
            promised, own_rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(unreadable(path, "a sound file", "sound", reason)) from None
    if len(samples) == 0 or len(samples) < promised or _is_cut_off(path):
        raise DataError(
            f"{path} cannot be read: truncated (only {len(samples)} samples are there); fetch it again"
        )
    if not np.isfinite(samples).all():
        raise DataError(f"{path} holds samples that are not finite; fetch it again")
    wave = samples.mean(axis=1)
    if own_rate == rate:
        return np.asarray(wave, dtype=np.float32)
    import soxr

    resampled = np.asarray(soxr.resample(wave, own_rate, rate, quality="HQ"), dtype=np.float32)
    # Soxr rounds; librosa rounds up, with a zero at the end.
    length = math.ceil(len(wave) * rate / own_rate)
    return np.pad(resampled, (0, max(0, length - len(resampled))))[:length]


def _is_cut_off(path: Path) -> bool:
    """Whether a wav file is shorter than its header says; libsndfile reads what is there and says nothing."""
    with path.open("rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:8], "little")
    streamed = size in (0, 0xFFFFFFFF)  # written by a program that could not go back to fill it in
    return header[:4] == b"RIFF" and not streamed and size + 8 > path.stat().st_size


def log_magnitude_spectrogram(
    wave: Wave, window: int, hop: int, floor: float
) -> npt.NDArray[np.float32]:
    """log(|STFT| + floor) of centred frames under a periodic Hann window, zeros beyond the ends, as librosa's.

    Args:
        wave: [samples].
        window: samples of the window and of the Fourier transform.
        hop: samples from frame to frame.
        floor: added to the magnitude.

    Returns:
        [window // 2 + 1, samples // hop + 1] float32. Computed in float64: in float32 the logarithm of near-silence is
        off by units.
    """
    signal = torch.from_numpy(wave).double()
    spectrum: Any = torch.stft(
        signal,
        window,
        hop_length=hop,
        window=torch.hann_window(window, dtype=torch.float64),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return np.asarray(torch.log(spectrum.abs() + floor).float().numpy())


def repeat_to(wave: Wave, samples: int) -> Wave:
    """`wave`, repeated from its start and cut to `samples`."""
    return np.tile(wave, math.ceil(samples / len(wave)))[:samples]
