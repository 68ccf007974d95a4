"""AV-Digits: what it is made of, that it is always the same, and that each modality tells the digit."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gradmod.experiments.datasets import av_digits
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.split import Split
from gradmod.experiments.datasets.splits import Splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_dataset("av-digits", "", "heldout")


def test_its_parts_are_disjoint_and_whole(splits: Splits) -> None:
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 1152,
        "validation": 143,
        "test": 359,
        "predictor": 143,
    }
    assert sorted(np.concatenate([split.rows for _, split in splits.items()])) == list(range(1797))
    for _, split in splits.items():
        assert set(split.targets) == set(range(10))


def test_split_seeds_leave_the_test_split_alone(splits: Splits) -> None:
    other = load_dataset("av-digits", "", "heldout", split_seed=7)
    assert other.test is not None
    assert splits.test is not None
    np.testing.assert_array_equal(other.test.rows, splits.test.rows)
    assert not np.array_equal(other.train.rows, splits.train.rows)


def test_it_is_always_the_same(splits: Splits) -> None:
    def digest(made: Splits) -> str:
        inputs, _ = made.train.read(range(len(made.train)))
        return hashlib.sha256(
            b"".join(inputs[m].numpy().tobytes() for m in ("audio", "visual"))
        ).hexdigest()

    assert digest(splits) == digest(load_dataset("av-digits", "", "heldout"))


def test_inputs_are_standardised(splits: Splits) -> None:
    for source in splits.train.sources.values():
        array = source.array  # type: ignore[attr-defined]
        assert abs(float(array.mean())) < 1e-5
        assert float(array.std()) == pytest.approx(1, abs=1e-5)
    inputs, _ = splits.train.read([0, 1])
    assert {m: tuple(t.shape) for m, t in inputs.items()} == {
        "audio": (2, 1, 32, 32),
        "visual": (2, 1, 8, 8),
    }


@pytest.mark.parametrize("digit", range(10))
def test_tones_are_those_of_q23(digit: int) -> None:
    quiet = np.zeros(1, dtype=np.int64) + digit

    class Silence(np.random.Generator):
        def normal(self, *arguments: object, **more: object) -> float:
            return 0.0

    wave = av_digits.keypad_waves(quiet, np.random.default_rng(3), Silence(np.random.PCG64(0)))[0]
    spectrum = np.abs(np.fft.rfft(wave, 8 * len(wave)))
    hertz = np.fft.rfftfreq(8 * len(wave), 1 / av_digits.SAMPLE_RATE)
    low = hertz[np.argmax(np.where(hertz < 1100, spectrum, 0))]
    high = hertz[np.argmax(np.where(hertz > 1100, spectrum, 0))]
    expected = {1: (697, 1209), 5: (770, 1336), 9: (852, 1477), 0: (941, 1336)}.get(
        digit, av_digits.TONES[digit]
    )
    assert (low, high) == pytest.approx(expected, abs=10)
    sounding = np.flatnonzero(wave)
    duration = (sounding[-1] - sounding[0]) / av_digits.SAMPLE_RATE
    assert av_digits.TONE_SECONDS[0] - 0.01 < duration < av_digits.TONE_SECONDS[1] + 0.01


def test_the_spectrogram_agrees_with_a_plain_one() -> None:
    waves = np.random.default_rng(0).normal(size=(2, av_digits.CLIP_SAMPLES))
    ours = av_digits.log_spectrogram(waves)
    assert ours.shape == (2, 32, 32)
    window = np.hanning(av_digits.WINDOW)
    padded = np.concatenate(
        [np.zeros(av_digits.WINDOW // 2), waves[1], np.zeros(av_digits.WINDOW // 2)]
    )
    for time in (0, 7, 31):
        frame = padded[time * av_digits.HOP : time * av_digits.HOP + av_digits.WINDOW] * window
        for row in (0, 13, 31):
            angle = (
                -2j
                * np.pi
                * (av_digits.FIRST_BIN + row)
                * np.arange(av_digits.WINDOW)
                / av_digits.WINDOW
            )
            power = abs(np.sum(frame * np.exp(angle))) ** 2
            assert ours[1, row, time] == pytest.approx(np.log(power + 1e-6), abs=1e-9)


def test_each_modality_tells_the_digit_and_both_tell_more(splits: Splits) -> None:
    """A linear classifier, scikit-learn's, as a judge that does not depend on our training."""
    assert splits.test is not None
    scores = {}
    for modalities in (("audio",), ("visual",), ("audio", "visual")):

        def flat(split: Split, chosen: tuple[str, ...] = modalities) -> np.ndarray:
            inputs, _ = split.read(range(len(split)))
            return np.concatenate([inputs[m].flatten(1).numpy() for m in chosen], axis=1)

        judge = LogisticRegression(C=0.003, max_iter=200).fit(
            flat(splits.train), splits.train.targets
        )
        scores[modalities] = judge.score(flat(splits.test), splits.test.targets)
    assert 0.3 < scores["audio",] < 0.95
    assert 0.5 < scores["visual",] < 0.95
    assert scores["audio", "visual"] > max(scores["audio",], scores["visual",])
