"""Pictures of all kinds, read as RGB of 8 bits a channel and turned upright.

Of an animation the first frame is taken; CMYK and palettes are converted; what is transparent is laid on white; of 16
bits a channel the upper 8 are taken. Pixels without a range (32-bit integers and floats) are refused. Files of other
formats than FORMATS are refused, among them PostScript, which is a program, and so are damaged and truncated files;
what is no plain file isn't opened at all. JPEG files are decoded in full size, as decoding at a half or a quarter of it,
which libjpeg offers, is faster, but gives other pixels; only those of more than ``max_pixels`` are decoded smaller.
Others of as many are refused, and so are JPEG files of more than MAX_SCANS scans, each of which goes over all pixels.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from common.errors import InputError
from extraction.encoders.encoder import optional

if TYPE_CHECKING:
    from PIL.Image import Image

# What is read. Not PostScript (EPS), for which Pillow starts Ghostscript, nor the formats whose content Pillow hands to
# whatever reader takes it (IPTC, which may hold PostScript) or to one that minds no max_pixels (ICO, ICNS, BLP).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "QOI", "PCX", "PSD", "SGI", "TGA",
           "XBM", "XPM")
POSTSCRIPT = "PostScript, which is a program; save it as PNG"
IMAGE_SIZE = 224  # pixels a side, what most encoders take
MAX_PIXELS = 100_000_000  # the default of max_pixels: 300 MB, and as much again while it is turned or converted
MAX_SCANS = 100  # of a JPEG file, as libtiff has it; a progressive one usually has about ten
LARGE = 1 << 24  # pixels; of larger pictures only one is in memory at a time, however many threads there are
# What starts a segment of a JPEG file, or ends it; among coded pixels 0xFF stands only before 0 and restarts, D0 to D7
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"
_one_large, _one_tiff = threading.Lock(), threading.Lock()
max_pixels = MAX_PIXELS  # of a picture; extract_features.py --max_pixels sets it for the process


def upright(image: Image | str | Path) -> Image:
    """A PIL image or an image file as RGB, turned upright, and on white where it is transparent. Raises InputError."""
    if isinstance(image, (str, Path)):
        with open_image(Path(image)) as opened:
            try:
                return upright(opened)
            except InputError as error:
                raise InputError(f"{image}: {error}") from None
    if image.format not in (None, "MPO", *FORMATS):  # opened elsewhere; MPO is what Pillow calls a JPEG of several
        raise InputError(POSTSCRIPT if image.format == "EPS" else f"{image.format}; expected {', '.join(FORMATS)}")
    if image.mode in ("I", "F"):
        raise InputError(f"pixel type {image.mode!r}; expected 8 or 16 bits a channel")
    _fit(image)
    try:
        if image.format in ("JPEG", "MPO") and image.tile and _scans(image.fp) > MAX_SCANS:
            raise InputError(f"a JPEG of more than {MAX_SCANS} scans, which takes long to decode; save it anew")
        with _one_large if image.width * image.height > LARGE else contextlib.nullcontext():
            with _silent() if image.format == "TIFF" else contextlib.nullcontext():
                image.load()
            return _rgb(_turned(image))
    except InputError:
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged files make them
        raise InputError(f"damaged image ({str(error) or type(error).__name__})") from None


def _fit(image: Image) -> None:
    """See to it that a picture isn't decoded to more than ``max_pixels``. Raises InputError if it can't be avoided."""
    size = image.width * image.height
    if size > max_pixels and image.format == "JPEG" and not image.info.get("progressive"):  # these need the memory anyway
        smaller = 1 << math.ceil(math.log(size / max_pixels, 4))
        image.draft("RGB", (image.width // smaller, image.height // smaller))
    if image.width * image.height > max_pixels:
        raise InputError(f"{size:,} pixels, more than {max_pixels:,}; make it smaller, or with extract_features.py "
                         f"raise --max_pixels")


def _scans(file: IO[bytes]) -> int:
    """How many scans a JPEG file has. What other segments hold, such as a preview, and what follows isn't counted."""
    file.seek(0)
    content, place, scans = file.read(), 0, 0
    while (marker := _MARKER.search(content, place)) and marker[1] != _END_OF_IMAGE:
        scans += marker[1] == _START_OF_SCAN
        place = marker.end() + int.from_bytes(content[marker.end():marker.end() + 2], "big")
    return scans


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep standard error from the TIFF library, which writes several lines there of what a file has wrong."""
    with _one_tiff:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


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
    """An image file, its pixels not read yet. Raises InputError if it is none of the FORMATS, or no plain file."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for whoever writes to it
            raise InputError(f"{path}: can't be read as an image (a folder, a pipe or a device; expected a file)")
        if not found.st_size:
            raise InputError(f"{path}: can't be read as an image (the file is empty)")
        with open(path, "rb") as file:
            start = file.read(4)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{path}: can't be read as an image ({getattr(error, 'strerror', None) or error})") from None
    return _opened(path, start, path)


def image_of(content: bytes, name: object) -> Image:
    """The image that is the content of a file, its pixels not read yet. Raises InputError, which calls it ``name``."""
    return _opened(io.BytesIO(content), content, name)


def _opened(source: Path | io.BytesIO, start: bytes, name: object) -> Image:
    if start.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):  # the second with a preview, as Windows has it
        raise InputError(f"{name}: {POSTSCRIPT}")
    pil = pillow()
    try:
        return pil.open(source, formats=[kind for kind in FORMATS if kind in pil.OPEN])  # older ones know no AVIF
    except Exception as error:  # Pillow's readers raise whatever damaged files make them
        said = getattr(error, "strerror", None) or f"expected {', '.join(FORMATS)}"
        raise InputError(f"{name}: can't be read as an image ({said})") from None


@functools.cache
def pillow():
    """Pillow's module Image, without its warnings and its own limit of pixels. Raises InputError if it is missing."""
    pil = optional("PIL.Image")
    # Of a large picture, of odd EXIF data and the like Pillow warns; what can be read is read, and the rest is refused.
    # Once for all, since Python's filters of warnings belong to all threads together.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    pil.MAX_IMAGE_PIXELS = None  # max_pixels takes its place
    pil.init()  # fills OPEN
    return pil
