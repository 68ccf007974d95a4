"""gradmod prepare crema-d: the same numbers as decoding, from jpg or from the videos, and what can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cremad_files import write_cremad
from left_by_systems import litter
from PIL import Image

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets import prepared
from gradmod.experiments.datasets.check import inspect
from gradmod.experiments.datasets.crema_d import clips_of_files
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.crema_d import prepare, videos_in
from gradmod.experiments.datasets.preparation.video import seconds_of
from gradmod.experiments.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_cremad(tmp_path_factory.mktemp("cremad") / "raw")
    clip = sorted((root / "Image-01-FPS").iterdir())[0]
    for frame in clip.iterdir():  # one clip of another size
        Image.open(frame).resize((61, 40)).save(frame)
    (root / "Audio" / f"{sorted((root / 'Image-01-FPS').iterdir())[3].name}.wav").unlink()
    return root


@pytest.fixture(scope="module")
def fast(root: Path) -> Path:
    fast = root.parent / "fast"
    assert cli.main(["prepare", "cremad", "--root", str(root), "--out", str(fast)]) == 0
    return fast


@pytest.mark.parametrize("protocol", ["heldout", "published"])
@pytest.mark.parametrize("frames", [1, 2])
def test_what_is_read_equals_what_is_decoded(
    root: Path, fast: Path, protocol: str, frames: int
) -> None:
    options = {"frames": frames} if frames > 1 else {}
    decoded = dict(load_dataset("crema-d", str(root), protocol, 1, options).items())
    stored = dict(load_dataset("crema-d", str(fast), protocol, 1, options).items())
    assert decoded.keys() == stored.keys()
    for name, split in decoded.items():
        assert len(split) == len(stored[name])
        for draws in (None, 3):
            batches = [
                part.read(range(len(part)), None if draws is None else np.random.default_rng(draws))
                for part in (split, stored[name])
            ]
            for modality in ("audio", "visual"):
                assert torch.equal(batches[0][0][modality], batches[1][0][modality])
            assert torch.equal(batches[0][1], batches[1][1])


def test_it_stands_alone_and_says_what_it_is(root: Path, fast: Path) -> None:
    manifest = json.loads((fast / "manifest.json").read_text())
    assert len(manifest["left_out"]) == 1
    assert manifest["frames"] == {"from": "jpg", "shorter_side": 0}
    assert manifest["source"]["files"] > 70
    assert (
        load_dataset("crema-d", str(fast), "heldout").notes
        == load_dataset("crema-d", str(root), "heldout").notes
    )
    assert not inspect("crema-d", str(fast)).problems
    command = [
        "train",
        "--dataset",
        "crema-d",
        "--root",
        str(fast),
        "--encoder",
        "small-cnn",
        "--epochs",
        "1",
    ]
    assert cli.main([*command, "--out", str(fast.parent / "runs"), "--device", "cpu"]) == 0


def test_larger_frames_are_shrunk_if_asked(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path / "small", shorter_side=32)
    sizes = np.load(tmp_path / "small" / "frame_sizes.npy")
    assert (sizes.min(axis=1) == 32).all()
    assert {tuple(size) for size in sizes.tolist()} == {(32, 43), (32, 49)}
    with pytest.raises(ConfigError, match="shorter_side is 5"):
        prepare(root, tmp_path / "smaller", shorter_side=5)
    with pytest.raises(ConfigError, match="small exists already"):
        prepare(root, tmp_path / "small")


def write_video(path: Path, seconds: float, rate: int = 10) -> None:
    """A video whose brightness tells the second: 40, 80, 120, ..."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1" if path.suffix == ".flv" else "mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(int(seconds * rate)):
            grey = np.full((48, 64, 3), 40 * (1 + number // rate), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("suffix", [".flv", ".mp4"])
def test_one_frame_a_second_of_a_video(suffix: str, tmp_path: Path) -> None:
    for seconds, frames in ((0.5, 1), (1.0, 1), (2.3, 3)):
        path = tmp_path / f"{seconds}{suffix}"
        write_video(path, seconds)
        levels = [float(np.asarray(image).mean()) for image in seconds_of(path)]
        assert levels == pytest.approx([40 * (1 + n) for n in range(frames)], abs=4)


def test_from_the_original_videos(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "VideoFlash"
    videos.mkdir()
    for clip in (root / "Image-01-FPS").iterdir():
        write_video(videos / f"{clip.name}.flv", 1.5)
    sorted(videos.iterdir())[5].unlink()
    out = tmp_path / "fast"
    assert (
        cli.main(
            ["prepare", "crema-d", "--root", str(root), "--videos", str(videos), "--out", str(out)]
        )
        == 0
    )
    assert "2 clips left out" in capsys.readouterr().out
    splits = load_dataset("crema-d", str(out), "heldout")
    assert sum(len(split) for _, split in splits.items()) == 34
    assert np.load(out / "frame_sizes.npy").tolist() == [[48, 64]] * 68
    assert json.loads((out / "manifest.json").read_text())["frames"]["from"] == "video"


def test_only_videos_are_taken_for_videos(tmp_path: Path) -> None:
    root = write_cremad(tmp_path / "raw", train=2, test=2)
    for clip in (root / "Image-01-FPS").iterdir():
        for name in (
            f"{clip.name}.flv",
            f"{clip.name}.txt",
            f"{clip.name}.srt",
            f"{clip.name}.json",
        ):
            (tmp_path / "videos" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "videos" / name).write_bytes(b"")
    litter(tmp_path / "videos")
    clip = clips_of_files(root).names[1]
    (tmp_path / "videos" / f"{clip}.flv").rename(tmp_path / "videos" / f"{clip}.MP4")
    video_of = videos_in(tmp_path / "videos")
    assert [path.name for path in video_of(clip)] == [f"{clip}.MP4"]
    other = clips_of_files(root).names[0]
    assert [path.name for path in video_of(other)] == [f"{other}.flv"]
    assert video_of("._" + other) == []
    (tmp_path / "videos" / f"{other}.mp4").touch()
    with pytest.raises(
        DataError, match=rf"holds {other}\.flv and {other}\.mp4; expected one video of a clip"
    ):
        videos_in(tmp_path / "videos")


def test_damaged_videos_are_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.flv"
    write_video(whole, 4)
    for keep, message in (
        (0, "cannot be read"),
        (40, "cannot be read|truncated"),
        (0.5, "cannot be read: truncated|truncated"),
    ):
        path = tmp_path / "cut.flv"
        content = whole.read_bytes()
        path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
        with pytest.raises(DataError, match=rf"cut\.flv (is )?({message})"):
            list(seconds_of(path))
    with pytest.raises(DataError, match=r"nothing\.flv is missing"):
        list(seconds_of(tmp_path / "nothing.flv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no videos"):
        prepare(root, tmp_path / "out", videos=tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="needs PyAV"):
        list(seconds_of(whole))
    assert not (tmp_path / "out").exists()


def test_a_damaged_clip_leaves_nothing_behind(tmp_path: Path) -> None:
    root = write_cremad(tmp_path / "raw", train=12, test=6)
    frame = sorted((root / "Image-01-FPS").rglob("*.jpg"))[7]
    frame.write_bytes(frame.read_bytes()[:100])
    with pytest.raises(DataError, match=frame.name):
        prepare(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    "file", ["audio.npy", "frames.npy", "frame_sizes.npy", "first_frames.npy", "CREMAD/test.csv"]
)
@pytest.mark.parametrize("how", ["missing", "cut", "other"])
def test_damaged_folders_are_refused(file: str, how: str, fast: Path, tmp_path: Path) -> None:
    for path in fast.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(fast)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(fast)).write_bytes(path.read_bytes())
    path = tmp_path / file
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:-7])
    elif file.endswith(".csv"):
        path.write_bytes(content.split(b"\n", 1)[1])
    else:
        np.save(path, np.load(path)[1:])
    with pytest.raises(DataError, match=tmp_path.name):
        load_dataset("crema-d", str(tmp_path), "heldout")
    assert inspect("crema-d", str(tmp_path)).problems


def test_check_sees_a_changed_file(fast: Path, tmp_path: Path) -> None:
    for path in fast.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(fast)).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(fast)).write_bytes(path.read_bytes())
    sounds = np.load(tmp_path / "audio.npy")
    sounds[3, 0, 5, 5] += 1
    np.save(tmp_path / "audio.npy", sounds)
    (problem,) = inspect("crema-d", str(tmp_path)).problems
    assert problem == f"{tmp_path / 'audio.npy'} is not what it was when the folder was made"
    with pytest.raises(
        DataError,
        match=r"audio\.npy is not what it was when the folder was made: copy or prepare it",
    ):
        load_dataset("crema-d", str(tmp_path), "heldout")


def test_files_are_hashed_once_and_again_when_they_were_touched(
    fast: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(fast, folder)
    hashed: list[str] = []
    real = prepared.sha256
    monkeypatch.setattr(
        prepared, "sha256", lambda paths: (hashed.extend(p.name for p in paths), real(paths))[1]
    )
    os.utime(folder / "audio.npy", ns=(2, 2))  # copied without its time
    load_dataset("crema-d", str(folder), "heldout")
    assert "audio.npy" in hashed
    hashed.clear()
    load_dataset("crema-d", str(folder), "heldout")
    assert not hashed
    os.utime(folder / "audio.npy", ns=(1, 1))
    load_dataset("crema-d", str(folder), "heldout")
    assert "audio.npy" in hashed
