"""Image files, and the augmentation of photographs that is usual with ResNets."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradmod.experiments.errors import DataError
from gradmod.experiments.file_kinds import check_there, unreadable

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of ImageNet, by channel."""


def read_image(path: Path) -> Image:
    """Decode a colour image.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    from PIL import Image, UnidentifiedImageError

    check_there(path)
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        reason = " ".join(str(error).split())
        raise DataError(unreadable(path, "an image", "image", reason)) from None


def resized(image: Image, size: int) -> Image:
    """The whole image as `size` x `size` pixels, bilinear."""
    from PIL.Image import Resampling

    return image.resize((size, size), Resampling.BILINEAR)


def shrunk(image: Image, shorter_side: int) -> Image:
    """The image, its shorter side no longer than that many pixels, bilinear; 0: as it is."""
    from PIL.Image import Resampling

    scale = shorter_side / min(image.size)
    if not 0 < scale < 1:
        return image
    return image.resize(
        (round(image.width * scale), round(image.height * scale)), Resampling.BILINEAR
    )


def random_resized_crop(image: Image, size: int, draws: np.random.Generator) -> Image:
    """A random part of the image as `size` x `size` pixels, mirrored half of the time.

    The part covers 8 to 100 % of the area, with 3:4 to 4:3 sides; after ten draws that do not fit, the largest central
    part of such sides: torchvision's RandomResizedCrop and RandomHorizontalFlip.
    """
    from PIL.Image import Resampling, Transpose

    part = image.crop(_random_box(image.width, image.height, draws)).resize(
        (size, size), Resampling.BILINEAR
    )
    return part.transpose(Transpose.FLIP_LEFT_RIGHT) if draws.random() < 0.5 else part


def normalise_into(image: Image, out: npt.NDArray[np.float32]) -> None:
    """Write an RGB image to `out` [3, H, W], with ImageNet's mean taken off, divided by its deviation."""
    for levels, row, channel in zip(image.split(), _table(), out, strict=True):
        # In this mode NumPy writes without a copy.
        np.take(row, np.asarray(levels), out=channel, mode="clip")


@cache
def _table() -> npt.NDArray[np.float32]:
    """[3, 256] what each level of each channel becomes: looking it up is several times faster than computing it."""
    shares = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, deviation = (np.array(values, dtype=np.float32)[:, None] for values in (MEAN, DEVIATION))
    return np.asarray((shares - mean) / deviation, dtype=np.float32)


def _random_box(width: int, height: int, draws: np.random.Generator) -> tuple[int, int, int, int]:
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = width * height * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws.integers(width - w + 1)), int(draws.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * 4 / 3))
    h = min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
