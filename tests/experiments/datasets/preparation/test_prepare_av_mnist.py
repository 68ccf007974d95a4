"""gradmod prepare av-mnist: the recipe step by step, reproducible to the byte, and what can be wrong."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from left_by_systems import litter
from sklearn.decomposition import PCA
from sources_files import write_sources

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.av_mnist import (
    Recipe,
    Recordings,
    as_bytes,
    find_sounds,
    mixture,
    prepare,
    principal_components,
    read_mnist,
    reduced,
    spectrograms,
)
from gradmod.experiments.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


def words(sources: Path, out: Path, *more: str) -> list[str]:
    flags = ["--train", "60", "--test", "30", "--out", str(out), *more]
    for name in ("mnist", "speech", "noise"):
        flags += [f"--{name}", str(sources / name)]
    return ["prepare", "av-mnist", *flags]


def test_what_systems_leave_beside_the_sources_changes_nothing(
    sources: Path, tmp_path: Path
) -> None:
    recipe = Recipe(60, 30)
    clean = find_sounds(sources / "speech", sources / "noise", recipe)
    shutil.copytree(sources, tmp_path / "sources")
    litter(tmp_path / "sources")
    littered = find_sounds(tmp_path / "sources" / "speech", tmp_path / "sources" / "noise", recipe)
    for split, sounds in clean.items():
        same = littered[split]
        assert [len(waves) for waves in sounds.spoken.values()] == [
            len(waves) for waves in same.spoken.values()
        ]
        for ours, theirs in zip(sounds.noises, same.noises, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_it_makes_what_the_loader_needs_the_same_every_time(sources: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert cli.main(words(sources, tmp_path / name)) == 0
    assert cli.main(words(sources, tmp_path / "other", "--seed", "1")) == 0
    files = sorted(
        path.relative_to(tmp_path / "one")
        for path in (tmp_path / "one").rglob("*")
        if path.is_file()
    )
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "audio/train_data.npy").read_bytes() != (
        tmp_path / "other" / "audio/train_data.npy"
    ).read_bytes()
    facts = inspect("av-mnist", str(tmp_path / "one"))
    assert not facts.problems
    assert not facts.doubles
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["recipe"]["train"] == 60
    assert manifest["recordings"] == {"train": 60, "test": 150}
    assert len(manifest["sha256"]) == 6
    splits = load_dataset("av-mnist", str(tmp_path / "one"), "heldout")
    assert (len(splits.train), len(splits.test or ())) == (48, 30)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_images_are_centred_as_published_or_uint8_as_asked(sources: Path, tmp_path: Path) -> None:
    for form in ("centred", "uint8"):
        more = [] if form == "centred" else ["--images", form]
        assert cli.main(words(sources, tmp_path / form, *more)) == 0
        assert (
            json.loads((tmp_path / form / "manifest.json").read_text())["recipe"]["images"] == form
        )
    pixels, _ = read_mnist(sources / "mnist")["train"]
    mean, components = principal_components(pixels, 0.25)
    for split in ("train", "test"):
        centred, grey = (
            np.load(tmp_path / form / "image" / f"{split}_data.npy")
            for form in ("centred", "uint8")
        )
        assert (centred.dtype, grey.dtype) == (np.float64, np.uint8)
        np.testing.assert_array_equal(grey, (centred + mean).round().clip(0, 255))
        # nothing but the kept components is in an image, and not the mean of the images either
        np.testing.assert_allclose((centred @ components.T) @ components, centred, atol=1e-9)
    splits = {
        form: load_dataset("av-mnist", str(tmp_path / form), "heldout")
        for form in ("centred", "uint8")
    }
    (note,) = splits["centred"].notes
    assert "centred, divided by 255 as they are" in note
    assert splits["uint8"].notes == ()
    inputs, _ = splits["centred"].train.read(range(48))
    assert inputs["visual"].min() < -0.05


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@pytest.mark.parametrize("place", ["", "MNIST/raw", "raw"])
@pytest.mark.parametrize("name", ["S", "S.gz", "D", "D.gz", "D/D", "S/S", "D/S"])
def test_mnist_under_the_names_of_those_who_hand_it_on(
    place: str, name: str, sources: Path, tmp_path: Path
) -> None:
    """S: as published; D: with a dot before idx."""
    expected = read_mnist(sources / "mnist")
    for stem in FILES:
        content = gzip.decompress((sources / "mnist" / f"{stem}.gz").read_bytes())
        path = tmp_path / place / name.replace("D", stem.replace("-idx", ".idx")).replace("S", stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = read_mnist(tmp_path)
    for split, arrays in expected.items():
        for array, other in zip(arrays, found[split], strict=True):
            np.testing.assert_array_equal(array, other)


def test_gzip_is_seen_from_the_content(sources: Path, tmp_path: Path) -> None:
    """A browser unpacks what it fetches and keeps the name."""
    for number, stem in enumerate(FILES):
        packed = (sources / "mnist" / f"{stem}.gz").read_bytes()
        if number % 2:
            (tmp_path / f"{stem}.gz").write_bytes(gzip.decompress(packed))
        else:
            (tmp_path / stem).write_bytes(packed)
    np.testing.assert_array_equal(
        read_mnist(tmp_path)["test"][1], read_mnist(sources / "mnist")["test"][1]
    )


def test_all_files_are_of_one_folder(sources: Path, tmp_path: Path) -> None:
    """Images of one folder with the labels of another would be wrong without a word."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for place, names in ((".", FILES[:3]), ("MNIST/raw", FILES)):
        for stem in names:
            (tmp_path / place / f"{stem}.gz").write_bytes(
                (sources / "mnist" / f"{stem}.gz").read_bytes()
            )
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte is missing, gzipped or not, though .* is there"
    ):
        read_mnist(tmp_path)


LFS = b"version https://git-lfs.github.com/spec/v1\n"
ELSE = {
    "it is a web page": b"<!DOCTYPE html>",
    "it is a Git LFS pointer": LFS,
    "truncated, .*: it is empty": b"",
}


@pytest.mark.parametrize("what", ELSE)
def test_another_file_in_the_place_of_mnist_is_named(
    what: str, sources: Path, tmp_path: Path
) -> None:
    for stem in FILES:
        (tmp_path / f"{stem}.gz").write_bytes((sources / "mnist" / f"{stem}.gz").read_bytes())
    (tmp_path / f"{FILES[1]}.gz").write_bytes(ELSE[what])
    with pytest.raises(DataError, match=rf"train-labels-idx1-ubyte\.gz cannot be read: {what}"):
        read_mnist(tmp_path)


def test_components_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (300, 784), dtype=np.uint8)
    pixels[:, :300] = (pixels[:, :300] * rng.random((300, 1))).astype(np.uint8)
    mean, components = principal_components(pixels, 0.3)
    reference = PCA(svd_solver="full").fit(pixels.astype(float))
    kept = int(np.searchsorted(reference.explained_variance_ratio_.cumsum(), 0.3)) + 1
    assert len(components) == kept
    restored = (
        (pixels - reference.mean_) @ reference.components_[:kept].T @ reference.components_[:kept]
    )
    kept_alone = reduced(pixels, mean, components)
    assert kept_alone.dtype == np.float64
    np.testing.assert_allclose(kept_alone, restored, atol=1e-9)
    grey = as_bytes(kept_alone, mean)
    assert grey.dtype == np.uint8
    np.testing.assert_allclose(grey, (restored + reference.mean_).round().clip(0, 255), atol=1)
    assert len(principal_components(pixels, 1.0)[1]) <= 784


def test_the_mixture_has_the_ratio_that_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.2, 16000).astype(np.float32)
    speech = rng.normal(0, 0.7, 3000).astype(np.float32)
    silent = Recordings({3: [np.zeros(3000, dtype=np.float32)]}, [noise])
    for ratio in (-16.0, 0.0, 10.0):
        wave = mixture(
            3, Recordings({3: [speech]}, [noise]), (ratio, ratio), np.random.default_rng(5)
        )
        background = mixture(3, silent, (ratio, ratio), np.random.default_rng(5))
        part = wave - background
        spoken = part[np.flatnonzero(part)[0] :][: len(speech)]
        measured = 10 * np.log10(np.mean(spoken**2) / np.mean(background**2))
        assert measured == pytest.approx(ratio, abs=1e-3)
        assert np.corrcoef(spoken, speech)[0, 1] == pytest.approx(1)


def test_the_spectrogram_shows_a_tone_where_it_is() -> None:
    time = np.arange(8000) / 8000
    wave = np.sin(2 * np.pi * 1000 * time) * (time > 0.5)
    (grey,) = spectrograms(wave[None])
    assert grey.shape == (112, 112)
    assert grey.max() == 255
    row, column = np.unravel_index(grey.argmax(), grey.shape)
    assert row == round(1000 / (8000 / 222))
    assert column >= 55
    assert grey[:, :50].max() == 0  # more than 60 dB below the loudest point


def test_recordings_and_speakers_are_kept_apart(sources: Path) -> None:
    by_recording = find_sounds(sources / "speech", sources / "noise", Recipe(60, 30))
    assert all(len(waves) == 6 for waves in by_recording["train"].spoken.values())
    assert all(len(waves) == 15 for waves in by_recording["test"].spoken.values())
    by_speaker = find_sounds(
        sources / "speech", sources / "noise", Recipe(60, 30, disjoint="speakers")
    )
    assert all(len(waves) == 14 for waves in by_speaker["train"].spoken.values())
    assert all(len(waves) == 7 for waves in by_speaker["test"].spoken.values())
    assert (len(by_speaker["train"].noises), len(by_speaker["test"].noises)) == (4, 1)


def test_what_cannot_be_made(sources: Path, tmp_path: Path) -> None:
    mnist, speech, noise, out = (
        sources / "mnist",
        sources / "speech",
        sources / "noise",
        tmp_path / "out",
    )
    cases: list[tuple[type[Exception], str, tuple[Path, Path, Path, Path], Recipe]] = [
        (ConfigError, "exists already", (mnist, speech, noise, tmp_path), Recipe(60, 30)),
        (
            DataError,
            r"90 train samples are wanted, but .* has 80",
            (mnist, speech, noise, out),
            Recipe(90, 30),
        ),
        (
            DataError,
            "-ubyte is missing, gzipped or not: looked in",
            (speech, speech, noise, out),
            Recipe(60, 30),
        ),
        (DataError, "holds no recordings", (mnist, noise, noise, out), Recipe(60, 30)),
        (DataError, "holds 0 sound files", (mnist, speech, mnist, out), Recipe(60, 30)),
    ]
    for kind, message, (m, s, n, o), recipe in cases:
        with pytest.raises(kind, match=message):
            prepare(m, s, n, o, recipe)
    assert list(tmp_path.iterdir()) == []
    for settings, message in (
        ({"energy": 0.0}, "energy is 0"),
        ({"train": 3}, "train is 3"),
        ({"snr_db": (3.0, 1.0)}, "snr_db is"),
        ({"disjoint": "noises"}, "disjoint is 'noises'"),
        ({"seed": -1}, "seed is -1"),
        ({"images": "grey"}, "images is 'grey'; expected centred or uint8"),
    ):
        with pytest.raises(ConfigError, match=message):
            Recipe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["truncated gzip", "short", "no idx", "labels"])
def test_damaged_mnist_is_named(how: str, sources: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for path in (sources / "mnist").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    content = gzip.decompress(images.read_bytes())
    damage = {
        "truncated gzip": images.read_bytes()[:500],
        "short": gzip.compress(content[:-5]),
        "no idx": gzip.compress(b"x" * 99),
    }
    images.write_bytes(damage.get(how, images.read_bytes()))
    if how == "labels":
        labels.write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(DataError, match=r"images-idx3-ubyte|train images have shape"):
        prepare(folder, sources / "speech", sources / "noise", tmp_path / "out", Recipe(60, 30))


def test_a_failure_leaves_nothing_behind(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradmod.experiments.datasets.preparation import av_mnist

    def broken(waves: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(av_mnist, "spectrograms", broken)
    assert cli.main(words(sources, tmp_path / "out")) == 130
    assert list(tmp_path.iterdir()) == []


def test_from_the_real_sources(shared_data: Path, tmp_path: Path) -> None:
    raw = shared_data / "raw"
    if not raw.is_dir():
        pytest.skip(f"{raw} is not there")
    flags = [
        "--mnist",
        raw / "mnist",
        "--speech",
        raw / "fsdd",
        "--noise",
        raw / "noise",
        "--out",
        tmp_path / "made",
    ]
    assert (
        cli.main(["prepare", "av-mnist", "--train", "200", "--test", "100", *map(str, flags)]) == 0
    )
    manifest = json.loads((tmp_path / "made" / "manifest.json").read_text())
    assert manifest["components"] == 4  # 28 % of the energy
    assert manifest["recordings"] == {"train": 2700, "test": 300}
    assert not inspect("av-mnist", str(tmp_path / "made")).problems
