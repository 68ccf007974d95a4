"""What stands in the place of data is named as what it is, by every reader."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradmod.experiments.datasets.audio import read_wave
from gradmod.experiments.datasets.ave import H5Array
from gradmod.experiments.datasets.crema_d import read_csv
from gradmod.experiments.datasets.images import read_image
from gradmod.experiments.datasets.mosei import embedding_table
from gradmod.experiments.datasets.npy import open_array
from gradmod.experiments.datasets.pickles import load_pickle
from gradmod.experiments.datasets.preparation.video import seconds_of
from gradmod.experiments.datasets.prepared import MANIFEST, read_manifest
from gradmod.experiments.errors import GradmodError
from gradmod.experiments.file_kinds import HEAD, check_there, kind_of, kind_of_bytes, unreadable
from gradmod.experiments.files import read_arrays
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.runs.records import read_metrics
from gradmod.experiments.settings.toml import load_config

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


def written(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(name: str, content: bytes = b"x") -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, content)

    return written(write)


def tarred() -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("x"))

    return written(write)


def hdf5() -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with h5py.File(buffer, "w") as file:
            file["x"] = np.zeros(3)

    return written(write)


def sound() -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, 8000, 8, "NONE", ""))
            file.writeframes(bytes(16))

    return written(write)


def image(form: str) -> bytes:
    return written(lambda buffer: Image.new("RGB", (8, 8)).save(buffer, form))


def torch_saved(**how: object) -> bytes:
    return written(lambda buffer: torch.save({"train": torch.zeros(2)}, buffer, **how))  # type: ignore[arg-type]


CONTENT = pickle.dumps({"train": 1})
FORMS: dict[str, tuple[bytes, str]] = {
    "Git LFS": (LFS, "a Git LFS pointer"),
    "git-annex": (b"/annex/objects/SHA256E-s3--ab.npy\n", "a git-annex pointer"),
    "web page": (PAGE, "a web page (HTML)"),
    "web page in capitals": (b"\n <HTML lang='en'><BODY>login", "a web page (HTML)"),
    "web page with a mark": (b"\xef\xbb\xbf\r\n<!doctype HTML>", "a web page (HTML)"),
    "web page behind a comment": (b"<!-- saved from url=(0014) -->\n<html>", "a web page (HTML)"),
    "xhtml": (
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C"><html xmlns="">',
        "a web page (HTML)",
    ),
    "storage server": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "an XML document",
    ),
    "JSON": (b'{"error": {"code": 403}}', "JSON"),
    "a list in JSON": (b'[{"message": "Not Found"}]', "JSON"),
    "text": (b"404: Not Found", "text ('404: Not Found')"),
    "gzip": (gzip.compress(CONTENT), "compressed with gzip"),
    "xz": (lzma.compress(CONTENT), "compressed with xz"),
    "lzma": (lzma.compress(CONTENT, lzma.FORMAT_ALONE), "compressed with lzma"),
    "bz2": (bz2.compress(CONTENT), "compressed with bzip2"),
    "bz2 of nothing": (bz2.compress(b""), "compressed with bzip2"),
    "zip": (zipped("glove.txt"), "a zip archive (of 'glove.txt' ...)"),
    "empty zip": (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
    "tar": (tarred(), "a tar archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "a 7z archive"),
    "torch.save": (torch_saved(), "a file of torch.save (a zip archive)"),
    "torch.save of old": (
        torch_saved(_use_new_zipfile_serialization=False),
        "a file of torch.save",
    ),
    "safetensors": (len(b'{"a":1}').to_bytes(8, "little") + b'{"a":1}', "a safetensors file"),
    "npz": (written(lambda b: np.savez(b, np.zeros(3))), "a NumPy archive (.npz)"),
    "npz, compressed": (
        written(lambda b: np.savez_compressed(b, x=np.zeros(3))),
        "a NumPy archive (.npz)",
    ),
    "npy": (written(lambda b: np.save(b, np.zeros(3))), "a NumPy array (.npy)"),
    "HDF5": (hdf5(), "an HDF5 file"),
    **{
        f"pickle {n}": (pickle.dumps({"train": [1]}, n), "a pickle")
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "list pickled as text": (pickle.dumps([1, 2], 0), "a pickle"),
    "array pickled as text": (pickle.dumps(np.zeros(2), 0), "a pickle"),
    "empty": (b"", "empty (0 bytes)"),
    "zeros": (bytes(4096), "zeros"),
    "JPEG": (image("JPEG"), "a JPEG image"),
    "PNG": (image("PNG"), "a PNG image"),
    "WebP": (b"RIFF\x20\0\0\0WEBPVP8 ", "a WebP image"),
    "WAV": (sound(), "a WAV sound file"),
    "AVI": (b"RIFF\x20\0\0\0AVI LIST", "an AVI video"),
    "MP4": (b"\0\0\0\x18ftypisom" + bytes(12), "an MP4 video"),
    "IDX": (bytes((0, 0, 8, 1, 0, 0, 0, 1, 7)), "an IDX file"),
    "Excel": (zipped("[Content_Types].xml"), "an Office document (.xlsx"),
    "MATLAB": (b"MATLAB 5.0 MAT-file, Platform", "a MATLAB file"),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform", "a MATLAB file"),
    "UTF-16": ("clip,NEU".encode("utf-16"), "text in UTF-16"),
    "AppleDouble": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "what macOS keeps beside a file"),
    "PDF": (b"%PDF-1.7\n", "a PDF document"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_known(form: str) -> None:
    content, name = FORMS[form]
    kind = kind_of_bytes(content[:HEAD])
    assert kind is not None
    assert kind.name.startswith(name)
    assert kind.to_do


READERS: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "npy": (lambda path: open_array(path, (None,)), {"npy"}),
    "pickle": (load_pickle, {"pickle"}),
    "HDF5": (lambda path: H5Array(path, "x", (None,)), {"hdf5"}),
    "csv": (read_csv, {"text"}),
    "sound": (lambda path: read_wave(path, 8000), {"sound"}),
    "image": (read_image, {"image"}),
    "video": (lambda path: list(seconds_of(path)), {"video"}),
    "GloVe": (lambda path: embedding_table({"word": 2}, str(path)), {"text"}),
    "npz of a run": (lambda path: read_arrays(path, ["arr_0"]), {"npz"}),
    "checkpoint": (read_checkpoint, {"torch"}),
    "settings": (load_config, {"text", "json"}),
    "metrics": (read_metrics, {"text", "json"}),
}


FINE = {("settings", "empty"), ("metrics", "empty"), ("csv", "empty")}
"""No settings are the defaults; a run that was stopped at once has no metrics; the csv reader says it itself."""


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_what_it_found_in_the_place_of_its_file(
    reader: str, tmp_path: Path
) -> None:
    read, own = READERS[reader]
    path = tmp_path / "file"
    for form, (content, name) in FORMS.items():
        kind = kind_of_bytes(content[:HEAD])
        assert kind is not None
        if kind.group in own or (reader, form) in FINE:
            continue
        path.write_bytes(content)
        with pytest.raises(GradmodError) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message, form
        assert f"it is {name}" in message, form
        assert ("truncated" in message) == (form == "empty"), form
        assert "\n" not in message, form


@pytest.mark.parametrize("form", ["Git LFS", "web page", "JSON", "gzip", "empty"])
def test_a_manifest_that_is_another_file(form: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(FORMS[form][0])
    with pytest.raises(GradmodError, match=r"is of|it is") as caught:
        read_manifest(tmp_path, "av-mnist")
    assert form == "JSON" or FORMS[form][1] in str(caught.value)


def test_files_of_the_right_kind_are_read(tmp_path: Path) -> None:
    """The look at the first bytes refuses nothing that the readers read."""
    path = tmp_path / "file"
    for content in (
        pickle.dumps({"a": np.zeros(2), "b": [1, "x"]}, n)
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    ):
        path.write_bytes(content)
        assert load_pickle(path)["b"] == [1, "x"]
    for value in (
        {},
        [],
        (),
        "text",
        b"bytes",
        7,
        1.5,
        None,
        True,
        [1, 2],
        ["[", "{"],
        np.zeros((2, 2)),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path.write_bytes(pickle.dumps(value, protocol))
            np.testing.assert_array_equal(load_pickle(path), value)
    for lines in ("\ufeffclip,NEU\n", "clip,NEU\n", '"clip",NEU\r\n'):
        path.write_text(lines, encoding="utf-8")
        assert read_csv(path) == [("clip", 0)]
    path.write_bytes(image("PNG"))  # a frame called .jpg
    assert read_image(path).size == (8, 8)
    path.write_text("word " + " ".join(["0.5"] * 300) + "\n", encoding="utf-8")
    assert embedding_table({"word": 2}, str(path))[0][2, 0] == 0.5


@pytest.mark.parametrize("form", ["npy", "HDF5", "pickle 2", "WAV", "JPEG"])
def test_a_damaged_file_of_the_right_kind_is_called_truncated(form: str, tmp_path: Path) -> None:
    read = {"npy": "npy", "HDF5": "HDF5", "pickle 2": "pickle", "WAV": "sound", "JPEG": "image"}[
        form
    ]
    path = tmp_path / "file"
    path.write_bytes(FORMS[form][0][: -len(FORMS[form][0]) // 3])
    with pytest.raises(GradmodError, match="cannot be read: truncated"):
        READERS[read][0](path)


def test_what_is_no_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("../.git/annex/objects/x/y")
    (tmp_path / "other").symlink_to("gone")
    for name, message in (
        ("folder", "is a folder; expected a file"),
        ("link", "is missing: it is a link to .*git annex get"),
        ("other", "is missing: it is a link to gone, which is not there$"),
        ("nothing", "nothing is missing$"),
    ):
        with pytest.raises(GradmodError, match=message):
            check_there(tmp_path / name)
    assert kind_of(tmp_path / "nothing") is None
    assert kind_of(tmp_path / "folder") is None


def test_a_file_of_another_user_is_not_called_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mode itself would not do: root may read everything."""
    path = tmp_path / "file"
    path.write_bytes(FORMS["npy"][0])

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(GradmodError, match=r"file may not be read by this user; allow it"):
        open_array(path, (None,))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_get_a_kind_or_none(content: bytes) -> None:
    kind = kind_of_bytes(content)
    assert kind is None or (kind.name and "\n" not in kind.name)


@given(st.text(min_size=1, max_size=3000))
@settings(max_examples=100, deadline=None)
def test_text_cut_within_a_letter_is_the_text_that_it_was(text: str) -> None:
    """The head may end within a letter of several bytes."""
    long = "words of several languages: " + text.replace("\0", "") + "ß" * 2000
    for size in (HEAD, HEAD - 1):
        kind = kind_of_bytes(long.encode()[:size])
        printable = not any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in long[:HEAD])
        assert (kind is not None and kind.group == "text") or not printable


def test_what_only_begins_as_text_is_not_called_text() -> None:
    assert kind_of_bytes(b"a header in letters" + bytes(range(160, 256)) * 4) is None
    assert kind_of_bytes(b"a header in letters\0\0\0\1") is None


def test_the_reason_is_said_where_the_first_bytes_tell_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(128, 256)))
    assert unreadable(path, "a pickle", "pickle", "odd byte").endswith(
        "not a pickle (odd byte); fetch it again"
    )
    path.write_text(json.dumps({"message": "gone " * 100}))
    assert len(unreadable(path, "a pickle", "pickle", "odd byte")) < 400
