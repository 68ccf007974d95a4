"""What a file is by its first bytes, to name what a download or a copy left in the place of data.

A file that cannot be read is seldom damaged. More often it is another file: the pointer that Git LFS keeps, the page of
a login, an archive that nobody unpacked. Its first bytes say so, and that helps more than the error of a parser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from gradmod.experiments.errors import DataError

HEAD = 1024
"""Bytes that are looked at; the name "ustar" of a tar archive is the last that counts, at 257."""

_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_FAILED_DOWNLOAD = (
    "a download gave this in its place (a login, a quota, an address that moved): fetch it again"
)
_UNPACK = "unpack it, and put what is in it in its place"
_ANOTHER = "put the right file in its place"


@dataclass(frozen=True)
class Kind:
    """What a file was found to be.

    Attributes:
        name: with its article, as in "a web page (HTML)".
        to_do: what helps.
        group: what readers ask for: npy, pickle, hdf5, npz, torch, sound, image, video, idx, text, json, gzip, empty;
            else "".
    """

    name: str
    to_do: str = _ANOTHER
    group: str = ""


def _image(name: str) -> Kind:
    return Kind(f"{name} image", group="image")


def _sound(name: str) -> Kind:
    return Kind(f"{name} sound file", group="sound")


def _video(name: str) -> Kind:
    return Kind(f"{name} video", group="video")


def _archive(name: str, group: str = "") -> Kind:
    return Kind(name, _UNPACK, group)


EMPTY = Kind("empty (0 bytes)", "fetch it again", "empty")
LFS = Kind("a Git LFS pointer", "fetch the file that it stands for: git lfs pull")
WEB_PAGE = Kind("a web page (HTML)", _FAILED_DOWNLOAD)
NPY = Kind("a NumPy array (.npy)", group="npy")
NPZ = Kind("a NumPy archive (.npz)", "take what is meant out of it and save that alone", "npz")
PICKLE = Kind("a pickle", group="pickle")
TORCH = Kind("a file of torch.save", "convert it with the code that made it", "torch")
HDF5 = Kind("an HDF5 file", group="hdf5")
IDX = Kind("an IDX file, as MNIST's are", group="idx")
GZIP = _archive("compressed with gzip", "gzip")

_BEGINNINGS: tuple[tuple[bytes, Kind], ...] = (
    *((beginning, LFS) for beginning in _LFS),
    (
        b"/annex/objects/",
        Kind("a git-annex pointer", "fetch the file that it stands for: git annex get"),
    ),
    (b"\x93NUMPY", NPY),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"\x1f\x8b", GZIP),
    (b"\x1f\x9d", _archive("compressed with compress (.Z)")),
    (b"\xfd7zXZ\0", _archive("compressed with xz")),
    (b"\x5d\0\0", _archive("compressed with lzma")),
    (b"\x28\xb5\x2f\xfd", _archive("compressed with zstandard")),
    (b"\x04\x22\x4d\x18", _archive("compressed with lz4")),
    (b"7z\xbc\xaf\x27\x1c", _archive("a 7z archive")),
    (b"Rar!\x1a\x07", _archive("a rar archive")),
    # Pickles of torch.save before version 1.6: a number stands before what was saved.
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", TORCH),
    *((bytes((0x80, protocol)), PICKLE) for protocol in range(2, 6)),
    (b"\xff\xd8\xff", _image("a JPEG")),
    (b"\x89PNG\r\n\x1a\n", _image("a PNG")),
    (b"GIF87a", _image("a GIF")),
    (b"GIF89a", _image("a GIF")),
    (b"II*\0", _image("a TIFF")),
    (b"MM\0*", _image("a TIFF")),
    (b"fLaC", _sound("a FLAC")),
    (b"OggS", _sound("an Ogg")),
    (b"ID3", _sound("an MP3")),
    (b"\xff\xfb", _sound("an MP3")),
    (b"\xff\xf3", _sound("an MP3")),
    (b"\xff\xf2", _sound("an MP3")),
    (b"RIFX", _sound("a WAV")),
    (b"RF64", _sound("a WAV")),
    (b"\x1a\x45\xdf\xa3", _video("a Matroska or WebM")),
    (b"FLV\x01", _video("an FLV")),
    (b"%PDF-", Kind("a PDF document")),
    (b"SQLite format 3\0", Kind("an SQLite database")),
    (b"PAR1", Kind("a Parquet table")),
    (b"ARROW1", Kind("an Arrow table")),
    (b"CDF\x01", Kind("a NetCDF file")),
    (b"CDF\x02", Kind("a NetCDF file")),
    (b"MATLAB 5.0 MAT-file", Kind("a MATLAB file")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document (.xls, .doc)")),
    (
        b"\0\x05\x16\x07",
        Kind("what macOS keeps beside a file (AppleDouble)", "take the file whose name lacks ._"),
    ),
    (b"\x7fELF", Kind("a program")),
    (b"\xff\xfe", Kind("text in UTF-16", "save it as UTF-8")),
    (b"\xfe\xff", Kind("text in UTF-16", "save it as UTF-8")),
)
_IN_RIFF = {b"WAVE": _sound("a WAV"), b"AVI ": _video("an AVI"), b"WEBP": _image("a WebP")}
_PAGE = re.compile(rb"<(!doctype html|(html|head|body|title|script|meta)[\s>])")
# A dict or a list, as json.dumps and servers begin one; no pickle begins with a bracket of either kind.
_JSON = re.compile(rb'(\{\s*["}]|\[\s*[\[{"\]])')
_TEXT_PICKLE = re.compile(rb"\((dp|lp|tp)?\d*\n|c[a-zA-Z_.]+\n[a-zA-Z_]+\n|[\]}]q[\0-\x09]")
_OF_IDX = re.compile(rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x08]")


def kind_of(path: Path) -> Kind | None:
    """What a file is by its first bytes; None where they tell nothing (or cannot be read)."""
    try:
        with path.open("rb") as file:
            return kind_of_bytes(file.read(HEAD))
    except OSError:
        return None


def kind_of_bytes(head: bytes) -> Kind | None:
    """What a file is whose first `HEAD` bytes these are; None where they tell nothing."""
    if not head:
        return EMPTY
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head[:4] == b"RIFF" and head[8:12] in _IN_RIFF:
        return _IN_RIFF[head[8:12]]
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _sound("an AIFF")
    if re.match(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)", head):
        return _archive("compressed with bzip2")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return _kind_of_zip(head)
    if head[257:262] == b"ustar":
        return _archive("a tar archive")
    if head[4:8] == b"ftyp":
        return _video("an MP4")
    if head[:6] == b"MATLAB":
        return Kind("a MATLAB file", group="hdf5")  # of version 7.3: HDF5 behind 512 bytes
    if re.match(rb"[\0-\xff]{2}[\0-\x0f]\0{5}\{\s*\"", head, re.DOTALL):
        return Kind("a safetensors file", group="torch")
    if _OF_IDX.match(head):
        return IDX
    if len(head) >= 16 and not head.strip(b"\0"):
        return Kind("zeros", "a download reserved the room and did not fill it: fetch it again")
    return _kind_of_text(head)


def _kind_of_zip(head: bytes) -> Kind:
    """A zip archive by the name of the first file in it, which stands in full behind 30 bytes."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", errors="replace")
    if head[:4] == b"PK\x05\x06":
        return Kind("an empty zip archive", "fetch it again")
    if name.endswith(".npy"):
        return NPZ
    if name.endswith(("/data.pkl", "/.format_version", "/byteorder", "/version", "/constants.pkl")):
        return Kind("a file of torch.save (a zip archive)", TORCH.to_do, TORCH.group)
    if name == "[Content_Types].xml" or name.startswith(("xl/", "_rels/")):
        return Kind("an Office document (.xlsx, .docx)", "save it in the form that is expected")
    return _archive(f"a zip archive (of {_shown(name)} ...)")


def _kind_of_text(head: bytes) -> Kind | None:
    if _TEXT_PICKLE.match(head):
        return PICKLE
    begun = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = begun.lower()
    if lower.startswith(b"<!--"):  # a comment may stand before a page
        lower = lower.partition(b"-->")[2].lstrip()
    if _PAGE.match(lower) or (lower.startswith(b"<?xml") and b"<html" in lower):
        return WEB_PAGE
    if lower.startswith((b"<?xml", b"<error")):
        return Kind("an XML document", _FAILED_DOWNLOAD)
    try:
        text = begun.decode()
    except UnicodeDecodeError as error:
        if len(begun) - error.start >= 4:  # else a letter that the end of the head cuts
            return None
        text = begun[: error.start].decode()
    if not text or any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        return None
    if _JSON.match(begun):
        return Kind(f"JSON ({_shown(text)})", _FAILED_DOWNLOAD, "json")
    return Kind(f"text ({_shown(text)})", _FAILED_DOWNLOAD, "text")


def _shown(text: str, longest: int = 60) -> str:
    """The beginning of a text on one line, in quotes."""
    line = " ".join(text.split())
    return repr(line if len(line) <= longest else f"{line[:longest]}...")


def unreadable(
    path: Path, expected: str, groups: str, reason: str, to_do: str = "fetch it again"
) -> str:
    """What to say of a file that a reader failed on: what it is, where it is another file than the reader's.

    Args:
        path: the file.
        expected: what the reader reads, as in "an .npy file of numbers".
        groups: the `Kind.group`s that the reader reads, separated by spaces: of those, the file is damaged.
        reason: the reader's own; said where the first bytes tell no more.
        to_do: what helps against damage.
    """
    other = (
        another_kind(path, expected, groups) or f"truncated, or not {expected} ({reason}); {to_do}"
    )
    return f"{path} cannot be read: {other}"


def another_kind(path: Path, expected: str, groups: str) -> str:
    """What a file is and what to do, where it is by its first bytes another than a reader's; else "".

    Args:
        path: the file.
        expected: what the reader reads.
        groups: see `unreadable`.
    """
    kind = kind_of(path)
    if kind is None or kind.group in groups.split():
        return ""
    if kind is EMPTY:
        return f"truncated, or not {expected}: it is {kind.name}; {kind.to_do}"
    return f"it is {kind.name}, not {expected}; {kind.to_do}"


def check_kind(path: Path, expected: str, groups: str) -> None:
    """Check that a file is there, and is by its first bytes not another than a reader's.

    For readers that take anything for what they read: a csv reader finds lines in a web page, too.

    Raises:
        DataError: it is missing, or is another file.
    """
    check_there(path)
    other = another_kind(path, expected, groups)
    if other:
        raise DataError(f"{path} cannot be read: {other}")


def check_there(path: Path) -> None:
    """Check that a file is there, and that this user may read it.

    Raises:
        DataError: it is missing, a folder, a link to what is missing, or not for this user.
    """
    if path.is_file():
        try:
            path.open("rb").close()
        except PermissionError:
            raise DataError(
                f"{path} may not be read by this user; allow it, with chmod u+r"
            ) from None
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a file")
    if path.is_symlink():
        target = path.readlink()
        annex = "; git annex get fetches it" if ".git/annex/objects" in str(target) else ""
        raise DataError(f"{path} is missing: it is a link to {target}, which is not there{annex}")
    raise DataError(f"{path} is missing")
