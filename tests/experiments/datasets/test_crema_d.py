"""CREMA-D from wav and jpg files: splits, spectrograms, frames, and what can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from cremad_files import write_cremad
from left_by_systems import litter
from PIL import Image

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets import images
from gradmod.experiments.datasets.audio import log_magnitude_spectrogram, read_wave, repeat_to
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.crema_d import (
    chosen_frames,
    clips_of_files,
    read_csv,
    spectrogram,
)
from gradmod.experiments.datasets.frames import PictureFiles
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.crema_d import prepare
from gradmod.experiments.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cremad(tmp_path_factory.mktemp("cremad"))


def load(root: Path, protocol: str = "heldout", **options: object) -> object:
    return load_dataset("crema-d", str(root), protocol, 0, options)


def test_shapes_and_splits(root: Path) -> None:
    splits = load_dataset("crema-d", str(root), "heldout")
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 20,
        "validation": 2,
        "test": 12,
        "predictor": 2,
    }
    inputs, target = splits.train.read([0, 5])
    assert inputs["audio"].shape == (2, 1, 257, 188)
    assert inputs["visual"].shape == (2, 3, 224, 224)
    assert target.dtype == torch.int64
    assert splits.notes == ()
    published = load_dataset("crema-d", str(root), "published")
    assert (len(published.train), len(published.validation)) == (21, 10)
    assert published.test is None
    assert published.predictor is not None
    assert len(published.predictor) == 3 + 2


def test_labels_are_those_of_the_names(root: Path) -> None:
    clips = clips_of_files(root)
    codes = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    assert [codes[label] for label in clips.labels] == [name.split("_")[2] for name in clips.names]


def test_no_actor_is_in_two_splits_if_asked(root: Path) -> None:
    splits = load_dataset("crema-d", str(root), "heldout", 0, {"speakers": "disjoint"})
    names = clips_of_files(root).names
    actors = [{names[row].split("_")[0] for row in split.rows} for _, split in splits.items()]
    assert sum(map(len, actors)) == len(set().union(*actors)) == 6
    mixed = load_dataset("crema-d", str(root), "heldout")
    assert {names[row][:4] for row in mixed.train.rows} & {
        names[row][:4] for row in mixed.validation.rows
    }


def test_the_spectrogram_equals_librosa(root: Path) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa, the oracle, is not installed")
    path = sorted((root / "Audio").glob("*.wav"))[0]
    samples, _ = librosa.load(path, sr=22050)
    wave = np.tile(samples, 3)[: 22050 * 3].clip(-1, 1)
    # In float64: in float32 librosa itself is off by units where a clip is nearly silent.
    expected = np.log(
        np.abs(librosa.stft(wave.astype(np.float64), n_fft=512, hop_length=353)) + 1e-7
    )
    np.testing.assert_allclose(spectrogram(path), expected, atol=1e-4)


def test_the_spectrogram_equals_a_slow_one() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    ours = log_magnitude_spectrogram(wave, 512, 353, 1e-7)
    assert ours.shape == (257, 9)
    padded = np.concatenate([np.zeros(256), wave, np.zeros(256)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    for frame in range(9):
        part = padded[353 * frame : 353 * frame + 512] * window
        np.testing.assert_allclose(
            ours[:, frame], np.log(np.abs(np.fft.rfft(part)) + 1e-7), atol=1e-6
        )


def test_sounds_are_resampled_and_mixed_to_one_channel(tmp_path: Path) -> None:
    time = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, 0 * tone], 1), 16000, subtype="FLOAT")
    wave = read_wave(tmp_path / "stereo.wav", 22050)
    assert len(wave) == 22050
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    np.testing.assert_allclose(wave[500:-500], expected[500:-500], atol=1e-3)
    soundfile.write(tmp_path / "odd.wav", tone[:4155], 8000)
    # 4155 * 22050 / 8000 = 11452.2, rounded up.
    assert len(read_wave(tmp_path / "odd.wav", 22050)) == 11453
    np.testing.assert_array_equal(
        repeat_to(np.arange(3, dtype=np.float32), 7), [0, 1, 2, 0, 1, 2, 0]
    )


def test_training_draws_anew_and_evaluation_does_not(root: Path) -> None:
    splits = load_dataset("crema-d", str(root), "heldout")

    def visual(split: object, key: int | None) -> torch.Tensor:
        draws = None if key is None else np.random.default_rng(key)
        return split.read([1], draws)[0]["visual"]  # type: ignore[attr-defined, no-any-return]

    assert torch.equal(visual(splits.train, 1), visual(splits.train, 1))
    assert not torch.equal(visual(splits.train, 1), visual(splits.train, 2))
    assert torch.equal(visual(splits.validation, 1), visual(splits.validation, 2))
    assert torch.equal(visual(splits.train, None), visual(splits.train, None))


def test_evaluated_frames_are_resized_and_normalised(root: Path) -> None:
    splits = load_dataset("crema-d", str(root), "heldout", 0, {"frames": 2})
    pictures = clips_of_files(root).pictures
    assert isinstance(pictures, PictureFiles)
    files = pictures.files
    row = int(splits.validation.rows[0])
    inputs, _ = splits.validation.read([0])
    assert inputs["visual"].shape == (1, 3, 2, 224, 224)
    chosen = chosen_frames(len(files[row]), 2, False, None)
    for position, number in enumerate(chosen):
        image = (
            Image.open(files[row][number])
            .convert("RGB")
            .resize((224, 224), Image.Resampling.BILINEAR)
        )
        values = (np.asarray(image) / 255 - np.array(images.MEAN)) / np.array(images.DEVIATION)
        np.testing.assert_allclose(
            inputs["visual"][0, :, position].numpy(), values.transpose(2, 0, 1), atol=1e-5
        )


def test_which_frames() -> None:
    assert chosen_frames(1, 1, False, None) == [0]
    assert chosen_frames(5, 1, False, None) == [2]
    assert chosen_frames(9, 3, False, None) == [1, 4, 7]
    assert chosen_frames(2, 4, False, None) == [0, 1, 1, 1]
    legacy = np.random.RandomState(999).choice(7, 2, replace=False)
    for draws in (None, np.random.default_rng(3)):
        assert chosen_frames(7, 2, True, draws) == sorted(legacy)
    drawn = {tuple(chosen_frames(7, 2, False, np.random.default_rng(seed))) for seed in range(60)}
    assert len(drawn) > 10
    assert all(a < b for a, b in drawn)


def test_crops_are_within_the_image_and_of_the_right_size() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    shares = []
    for seed in range(200):
        left, top, right, bottom = images._random_box(50, 30, np.random.default_rng(seed))
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 30
        shares.append((right - left) * (bottom - top) / 1500)
        assert 0.6 < (right - left) / (bottom - top) < 1.6
    assert min(shares) < 0.15
    assert max(shares) > 0.75
    assert images.random_resized_crop(image, 20, np.random.default_rng(0)).size == (20, 20)
    assert images._random_box(1, 100, np.random.default_rng(0)) == (0, 49, 1, 50)


def test_clips_without_both_files_are_counted_and_named(tmp_path: Path) -> None:
    root = write_cremad(tmp_path, train=12, test=12)
    names = clips_of_files(root).names
    (root / "Audio" / f"{names[3]}.wav").unlink()
    for frame in (root / "Image-01-FPS" / names[15]).iterdir():
        frame.unlink()
    splits = load_dataset("crema-d", str(root), "heldout")
    assert sum(len(split) for _, split in splits.items()) == 22
    (note,) = splits.notes
    assert note == f"2 clips left out, which lack their sound or frames: {names[3]}, {names[15]}"


def write_frames(root: Path, name: str, count: int = 12) -> None:
    """In place of every clip's frames, ones whose brightness tells their number."""
    for clip in (root / "Image-01-FPS").iterdir():
        for frame in clip.iterdir():
            frame.unlink()
        for second in range(count):
            grey = np.full((32, 32, 3), 20 * second, np.uint8)
            Image.fromarray(grey).save(clip / name.format(second, clip=clip.name))


@pytest.mark.parametrize(
    "name",
    ["{}.jpg", "{:03d}.jpg", "frame{}.jpg", "{clip}_{}.jpg", "1-{}-of-12.jpeg", "{}.png", "{}.JPG"],
)
@pytest.mark.parametrize("decoded_before", [False, True])
def test_frames_are_in_order_of_time(name: str, decoded_before: bool, tmp_path: Path) -> None:
    root = write_cremad(tmp_path / "raw", train=12, test=6)
    write_frames(root, name)
    if decoded_before:
        prepare(root, tmp_path / "fast")
        root = tmp_path / "fast"
    for frames, expected in ((3, [2, 6, 10]), (12, list(range(12)))):
        inputs, _ = load_dataset(
            "crema-d", str(root), "heldout", 0, {"frames": frames}
        ).validation.read([0])
        pixels = inputs["visual"][0, 0, :, 100, 100] * images.DEVIATION[0] + images.MEAN[0]
        assert (pixels * 255 / 20).round().int().tolist() == expected


def test_what_systems_leave_beside_the_files_changes_nothing(tmp_path: Path) -> None:
    root = write_cremad(tmp_path / "raw", train=12, test=6)
    clean = clips_of_files(root)
    counts = inspect("crema-d", str(root)).files
    litter(root)
    facts = inspect("crema-d", str(root))
    assert not facts.problems
    assert facts.files == counts
    littered = clips_of_files(root)
    assert (littered.names, littered.left_out, littered.pictures) == (
        clean.names,
        [],
        clean.pictures,
    )
    prepare(root, tmp_path / "fast")
    assert (tmp_path / "fast" / "manifest.json").is_file()


CSV = {
    "as published": "\ufeff1001_A_NEU_XX,NEU\n1002_B_ANG_XX,ANG\n",
    "a header": "name,label\n1001_A_NEU_XX,NEU\n1002_B_ANG_XX,ANG\n",
    "other words": "Clip,Emotion\n1001_A_NEU_XX,NEU\n1002_B_ANG_XX,ANG\n",
    "more columns": "file name,class,actor\n1001_A_NEU_XX,NEU,1001\n1002_B_ANG_XX,ANG,1002\n",
    "mark and header": "\ufefffileName,category\r\n1001_A_NEU_XX,NEU\r\n1002_B_ANG_XX,ANG\r\n",
    "blank lines": "\n\nname,label\n\n1001_A_NEU_XX,NEU\n  \n,\n1002_B_ANG_XX,ANG\n\n",
    "spaces": "  1001_A_NEU_XX , NEU \n1002_B_ANG_XX\t,\tANG\t\n",
    "quotes": '"name","label"\n"1001_A_NEU_XX","NEU"\n"1002_B_ANG_XX","ANG"\n',
    "endings": "1001_A_NEU_XX.wav,NEU\n1002_B_ANG_XX.WAV,ANG\n",
    "videos": "1001_A_NEU_XX.flv,NEU\n1002_B_ANG_XX.mp4,ANG\n",
    "folders": "AudioWAV/1001_A_NEU_XX.wav,NEU\nC:\\CREMA-D\\1002_B_ANG_XX.wav,ANG\n",
    "small letters": "1001_A_NEU_XX,neu\n1002_B_ANG_XX,Ang\n",
    "old Mac": "name,label\r1001_A_NEU_XX,NEU\r1002_B_ANG_XX,ANG\r",
    "no last line end": "1001_A_NEU_XX,NEU\n1002_B_ANG_XX,ANG",
}


@pytest.mark.parametrize("kind", CSV)
def test_forms_of_the_csv_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(CSV[kind].encode())
    assert read_csv(path) == [("1001_A_NEU_XX", 0), ("1002_B_ANG_XX", 5)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,label\n", r"is empty: it lists no clip"),
        (
            "1001_A_NEW_XX,NEW\n1002_B_ANG_XX,ANG\n",
            r"line 1: '1001_A_NEW_XX,NEW'; expected a clip name",
        ),
        ("kate,happy\n1002_B_ANG_XX,ANG\n", r"line 1: 'kate,happy'; expected"),
        ("1002_B_ANG_XX,ANG\nname,label\n", r"line 2: 'name,label'; expected"),
        ("name,label\nname,label\n1002_B_ANG_XX,ANG\n", r"line 2: 'name,label'; expected"),
        ("\n\n1002_B_ANG_XX,ANG\n\n1001_A_NEU_XX,5\n", r"line 5: '1001_A_NEU_XX,5'; expected"),
        (
            "1001_A_NEU_XX;NEU\n",
            r"line 1: '1001_A_NEU_XX;NEU'; expected .* with a comma between them",
        ),
        (",NEU\n", r"line 1: ',NEU'; expected a clip name"),
        (".wav,NEU\n", r"line 1: '.wav,NEU'; expected a clip name"),
        (",name,label\n0,1001_A_NEU_XX,NEU\n", r"line 1: ',name,label'; expected"),
    ],
)
def test_other_csv_files_are_refused_with_their_line(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "train.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_csv(path)


def test_a_csv_with_a_header_is_the_same_data_set(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "raw")
    for split in ("train", "test"):
        path = tmp_path / "raw" / "CREMAD" / f"{split}.csv"
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        path.write_bytes(
            "\r\n".join(
                ["\ufeffname,label", *(line.replace(",", ".wav,") for line in lines)]
            ).encode()
        )
    ours, plain = clips_of_files(tmp_path / "raw"), clips_of_files(root)
    assert ours.names == plain.names
    assert (ours.train, ours.left_out) == (plain.train, [])
    np.testing.assert_array_equal(ours.labels, plain.labels)
    (tmp_path / "raw" / "CREMAD" / "test.csv").write_text(f"{ours.names[0]}.wav,NEU\n")
    with pytest.raises(DataError, match=rf"'{ours.names[0]}' is listed in train\.csv already"):
        clips_of_files(tmp_path / "raw")


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sounds_of_other_rates_and_types_are_the_same_sound(
    rate: int, subtype: str, tmp_path: Path
) -> None:
    def tone(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    soundfile.write(tmp_path / "a.wav", np.stack([tone(rate)] * 2, 1), rate, subtype=subtype)
    wave = read_wave(tmp_path / "a.wav", 22050)
    assert len(wave) == 22050
    # Quantised to 8 bits, a sample is off by up to 1/128.
    np.testing.assert_allclose(
        wave[500:-500], tone(22050)[500:-500], atol=1e-2 if subtype == "PCM_U8" else 1e-3
    )
    assert spectrogram(tmp_path / "a.wav").shape == (257, 188)


@pytest.mark.parametrize("samples", [1, 2, 100, 16000, 16000 * 7])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_very_short_and_silent_sounds_have_a_finite_spectrogram(
    samples: int, level: float, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(samples, level), 16000)
    values = spectrogram(tmp_path / "a.wav")
    assert values.shape == (257, 188)
    assert np.isfinite(values).all()
    assert (values >= np.float32(np.log(1e-7))).all()
    assert level or (values == np.float32(np.log(1e-7))).all()


def test_floats_that_hold_whole_numbers_are_refused_not_clipped_to_noise(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "a.wav", 1.2 * tone, 16000, subtype="FLOAT")
    # A little overdriven: clipped, as published.
    assert np.isfinite(spectrogram(tmp_path / "a.wav")).all()
    soundfile.write(tmp_path / "a.wav", 9000 * tone, 16000, subtype="FLOAT")
    with pytest.raises(
        DataError,
        match=r"a\.wav holds samples up to \d+.*; expected -1 to 1\. .*divide them by 32768",
    ):
        spectrogram(tmp_path / "a.wav")


def test_a_sound_from_a_pipe_is_read(tmp_path: Path) -> None:
    """Programs that write to a pipe cannot go back to fill in the sizes."""
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.25), 16000)
    expected = read_wave(tmp_path / "a.wav", 16000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(content)
    np.testing.assert_array_equal(read_wave(tmp_path / "a.wav", 16000), expected)


def damaged(root: Path, how: str) -> None:
    wav = sorted((root / "Audio").glob("*.wav"))
    csv = root / "CREMAD" / "train.csv"
    jpg = sorted((root / "Image-01-FPS").glob("*/*.jpg"))
    if how == "truncated wav":
        for path in wav:
            path.write_bytes(path.read_bytes()[:3000])
    elif how == "no wav":
        for path in wav:
            path.write_bytes(b"hello, this is no sound")
    elif how == "empty wav":
        for path in wav:
            soundfile.write(path, np.zeros(0), 16000)
    elif how == "nan wav":
        for path in wav:
            soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT")
    elif how == "truncated jpg":
        for path in jpg:
            path.write_bytes(path.read_bytes()[:200])
    elif how == "no jpg":
        for path in jpg:
            path.write_bytes(b"")
    elif how == "missing csv":
        csv.unlink()
    elif how == "empty csv":
        csv.write_text("")
    elif how == "wrong code":
        csv.write_text(csv.read_text(encoding="utf-8-sig").replace("ANG\n", "ANGRY\n"))
    elif how == "one column":
        csv.write_text("a\nb\n")
    elif how == "twice":
        csv.write_text(csv.read_text(encoding="utf-8-sig") * 2)
    elif how == "binary csv":
        csv.write_bytes(b"\xff\xfe\x00\x81")
    elif how == "no clips":
        for path in wav:
            path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated wav", r"\.wav cannot be read: truncated"),
        ("no wav", r"\.wav cannot be read: it is text .*, not a sound"),
        ("empty wav", r"\.wav cannot be read: truncated"),
        ("nan wav", r"\.wav holds samples that are not finite"),
        ("truncated jpg", r"\.jpg cannot be read: truncated"),
        ("no jpg", r"\.jpg cannot be read: truncated, or not an image"),
        ("missing csv", r"train\.csv is missing"),
        ("empty csv", r"train\.csv is empty"),
        ("wrong code", r"train\.csv, line 6: .*ANGRY.*; expected a clip name and one of \('NEU'"),
        ("one column", r"train\.csv, line 1: 'a'; expected"),
        ("twice", r"is listed in train\.csv already"),
        (
            "binary csv",
            r"train\.csv cannot be read: it is text in UTF-16, not a csv file; save it as UTF-8",
        ),
        ("no clips", r"of 24 clips in the csv files, 0 of train and 0 of test have both"),
    ],
)
def test_damage_is_named(how: str, message: str, tmp_path: Path) -> None:
    root = write_cremad(tmp_path, train=12, test=12)
    damaged(root, how)
    with pytest.raises(DataError, match=message):
        load_dataset("crema-d", str(root), "heldout").train.read([0])


def test_options_belong_to_their_data_set(root: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.frames is 3, but AV-Digits does not take it: it has no options"
    ):
        load_dataset("av-digits", "", "heldout", 0, {"frames": 3})
    with pytest.raises(
        ConfigError, match=r"data\.aligned is False, but CREMA-D .*it has frames, speakers"
    ):
        load_dataset("crema-d", str(root), "heldout", 0, {"aligned": False})
    with pytest.raises(ConfigError, match=r"'disjoint', which the published protocol is not"):
        load_dataset("crema-d", str(root), "published", 0, {"speakers": "disjoint"})
    with pytest.raises(DataError, match=r"CREMA-D: .*Looked for .*Image-01-FPS"):
        load_dataset("crema-d", str(root / "Audio"), "heldout")


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["late", "early"])
def test_it_trains_from_the_command_line_and_workers_change_nothing(
    fusion: str,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        "crema-d",
        "--root",
        str(root),
        "--fusion",
        fusion,
        "--encoder",
        "resnet18",
    ]
    words += [
        "--width",
        "2",
        "--epochs",
        "2",
        "--batch-size",
        "10",
        "--device",
        "cpu",
        "--frames",
        "2",
    ]
    results = []
    for workers in ("0", "2"):
        assert cli.main([*words, "--workers", workers, "--name", f"workers{workers}"]) == 0
        results.append(
            json.loads((tmp_path / "runs" / f"workers{workers}" / "result.json").read_text())
        )
    assert results[0]["splits"] == results[1]["splits"]
    assert results[0]["class_counts"]["test"] == {str(c): 2 for c in range(6)}
    assert "train: 20 samples; by class: 0:" in capsys.readouterr().err


def test_a_damaged_file_met_in_a_worker_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cremad(tmp_path / "data", train=12, test=12)
    damaged(root, "truncated jpg")
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "--dataset",
        "crema-d",
        "--root",
        str(root),
        "--width",
        "2",
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    assert cli.main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gradmod: error: ")
    assert ".jpg cannot be read: truncated" in last
