"""Listing files: what systems leave there is passed over, and frames are in the order of their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradmod.experiments.datasets.folders import by_number, files_in

LEFT_BY_SYSTEMS = (
    *(
        "._a.wav",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "ehthumbs.db",
        ".a.wav.swp",
        ".hidden/a.wav",
    ),
    *(
        "__MACOSX/._a.wav",
        "__MACOSX/a.wav",
        ".ipynb_checkpoints/a-checkpoint.wav",
        "@eaDir/a.wav",
        "b/._c.wav",
    ),
)


def test_what_systems_leave_is_no_file_of_the_users(tmp_path: Path) -> None:
    for name in (*LEFT_BY_SYSTEMS, "a.wav", "b/c.wav", "b/d.WAV", "e.txt", "thumbs.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def names(pattern: str, *suffixes: str) -> list[str]:
        return [
            path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path, pattern, suffixes)
        ]

    assert names("*") == ["a.wav", "e.txt", "thumbs.wav"]
    assert names("**/*") == ["a.wav", "b/c.wav", "b/d.WAV", "e.txt", "thumbs.wav"]
    assert names("**/*", ".wav") == ["a.wav", "b/c.wav", "b/d.WAV", "thumbs.wav"]
    assert names("*/*.wav") == ["b/c.wav"]
    assert files_in(tmp_path / "nothing") == []


def test_a_hidden_folder_may_be_the_root(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.wav").touch()
    assert [path.name for path in files_in(tmp_path / ".cache")] == ["a.wav"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            "{}.jpg",
            "{:05d}.jpg",
            "frame{}.jpg",
            "frame_{}.jpg",
            "{}_frame.jpg",
            "1001_IEO_NEU_XX_{}.jpg",
        ),
        *(
            "1001_IEO_NEU_XX.{}.jpg",
            "clip1-{}-of-120.jpg",
            "2_{}.jpg",
            "a b ({}).png",
            "00-{}.jpeg",
        ),
        *("frame{:02d}.jpg", "t={}s.jpg"),
    ],
)
def test_frames_are_in_the_order_of_their_numbers(name: str) -> None:
    paths = [Path(name.format(number)) for number in range(121)]
    assert by_number(sorted(paths)) == paths


def test_several_numbers_count_from_the_left() -> None:
    names = ["0-9.jpg", "0-10.jpg", "1-2.jpg", "1-11.jpg", "10-0.jpg"]
    assert [path.name for path in by_number(map(Path, sorted(names)))] == names


def test_names_around_a_number_do_not_matter() -> None:
    names = ["Frame1.jpg", "frame2.jpg", "IMG_3.jpg", "a10.jpg", "Z11.jpg"]
    assert [path.name for path in by_number(map(Path, sorted(names)))] == names
    assert [path.name for path in by_number(map(Path, ("b.jpg", "a1.jpg", "a.jpg")))] == [
        "a.jpg",
        "b.jpg",
        "a1.jpg",
    ]
