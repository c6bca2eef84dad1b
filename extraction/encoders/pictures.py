"""Pictures of all kinds, read as RGB of 8 bits a channel and turned upright.

Of an animation the first frame is taken; CMYK and palettes are converted; what is transparent is laid on white; of 16
bits a channel the upper 8 are taken. Pixels without a range (32-bit integers and floats) are refused, and so is
PostScript, which is a program. Damaged and truncated files are refused, and what is no plain file isn't opened at all.
JPEG files are decoded in full size: decoding at a half or a quarter of it, which libjpeg offers, is faster, but gives
other pixels.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError
from extraction.encoders.encoder import optional

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SIZE = 224  # pixels a side, what most encoders take
LARGE = 1 << 24  # pixels; of larger pictures only one is in memory at a time, however many threads there are
_one_large = threading.Lock()


def upright(image: Image | str | Path) -> Image:
    """A PIL image or an image file as RGB, turned upright, and on white where it is transparent. Raises InputError."""
    if isinstance(image, (str, Path)):
        with open_image(Path(image)) as opened:
            try:
                return upright(opened)
            except InputError as error:
                raise InputError(f"{image}: {error}") from None
    if image.format == "EPS":
        raise InputError("PostScript, which is a program; save it as PNG")
    if image.mode in ("I", "F"):
        raise InputError(f"pixel type {image.mode!r}; expected 8 or 16 bits a channel")
    try:
        with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
            image.load()
            return _rgb(_turned(image))
    except Exception as error:  # Pillow's readers raise whatever damaged files make them
        raise InputError(f"damaged image ({str(error) or type(error).__name__})") from None


def _turned(image: Image) -> Image:
    try:
        return optional("PIL.ImageOps").exif_transpose(image)
    except Exception:
        return image  # damaged EXIF says nothing of the orientation, and the pixels are whole


def _rgb(image: Image) -> Image:
    pil = optional("PIL.Image")
    if image.mode.startswith("I;16"):
        return pil.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image | str | Path) -> np.ndarray:
    """The middle of an image as EfficientNet-Lite0 sees it, (224, 224, 3) uint8. Raises InputError."""
    resampling = optional("PIL.Image").Resampling.BICUBIC
    return np.asarray(optional("PIL.ImageOps").fit(upright(image), (IMAGE_SIZE, IMAGE_SIZE), resampling))


def not_slim(image: Image) -> Image:
    """The image, or its middle if one side is more than twice as long as the other.

    CLIP sees only the middle square, but cuts it out after it has scaled the shorter side to 224 pixels: a slim image
    would grow huge.
    """
    width, height = image.size
    if max(width, height) <= 2 * min(width, height):
        return image
    cut_x, cut_y = max(0, width - 2 * height) // 2, max(0, height - 2 * width) // 2
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y))


def open_image(path: Path) -> Image:
    """An image file, its pixels not read yet. Raises InputError if it is none that Pillow knows, or no plain file."""
    pil = _pillow()
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for whoever writes to it
            raise InputError(f"{path}: can't be read as an image (a folder, a pipe or a device; expected a file)")
        if not found.st_size:
            raise InputError(f"{path}: can't be read as an image (the file is empty)")
        return pil.open(path)
    except InputError:
        raise
    except pil.DecompressionBombError:
        raise InputError(f"{path}: has more than {2 * pil.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow's readers raise whatever damaged files make them
        said = getattr(error, "strerror", None) or "not an image that Pillow knows"
        raise InputError(f"{path}: can't be read as an image ({said})") from None


@functools.cache
def _pillow():
    pil = optional("PIL.Image")
    # Of a large picture, of odd EXIF data and the like Pillow warns; what can be read is read, and the rest is refused.
    # Once for all, since Python's filters of warnings belong to all threads together.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return pil
