"""Frames of a video, through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.file_kinds import check_kind, unreadable


def seconds_of(path: Path) -> Iterator[Image.Image]:
    """The frame that is shown at second 0, 1, 2, ... of a video: the first one of each second.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: the file is missing, truncated, no video, or holds no frame.
    """
    try:
        import av
    except ImportError:
        raise ConfigError("reading videos needs PyAV: pip install av, or gradmod[video]") from None
    check_kind(path, "a video", "video sound")  # FFmpeg takes a picture for a video of one frame
    begin, seen, time = None, -1, 0.0
    try:
        with av.open(str(path)) as container:
            promised = (container.duration or 0) / av.time_base
            for frame in container.decode(video=0):
                begin = frame.time if begin is None else begin
                time = (frame.time or 0.0) - (begin or 0.0)
                if int(time + 1e-6) > seen:
                    seen = int(time + 1e-6)
                    yield Image.fromarray(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise DataError(unreadable(path, "a video", "video", str(error))) from None
    if seen < 0 or time + 1 < promised:
        raise DataError(
            f"{path} is truncated: it holds {time:.1f} of {promised:.1f} seconds; fetch it again"
        )
