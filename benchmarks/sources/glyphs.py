"""The data set of glyphs: the characters of DejaVu Sans, the font that comes with matplotlib, and their names."""

from __future__ import annotations

import collections
import io
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sources import ENCODERS
from benchmarks.sources.splits import random_split
from common.errors import InputError
from extraction.collection import Collection
from extraction.dataset_file import make_dataset
from extraction.encoders import IMAGE_SIZE

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

UNICODE = unicodedata.ucd_3_2_0  # the one version that every Python has, so that all make the same rows
HEIGHT = 128  # pixels of an em: the widest glyph is then 222 pixels wide
BASELINE = 156  # pixels from above: the highest glyph reaches 137 pixels above it, the lowest 50 below
FEWEST = 20  # characters of a category
ATTRIBUTES = {
    "source": "DejaVu Sans, the font that comes with matplotlib, https://dejavu-fonts.github.io; names and categories "
              "of Unicode 3.2, from Python's unicodedata",
    "licence": "Bitstream Vera and DejaVu licences, https://dejavu-fonts.github.io/License.html; Unicode License, "
               "https://www.unicode.org/license.txt",
    "attribution": "Fonts (c) Bitstream; DejaVu changes are in public domain; glyphs imported from Arev fonts (c) "
                   "Tavmjong Bah",
}


def make_glyphs(out: Path, archive: Path | None = None) -> None:
    """Each character of Unicode 3.2 that DejaVu Sans draws: its glyph, black on white, as image and its name as text.

    The label is its general category of two letters, as far as that has 20 characters; the column ``kind``, a finer
    one, is the category with the first word of the name: of letters their script, as in "Ll greek".
    """
    if archive is not None:
        raise InputError(f"--archive {archive}: the font of the glyphs comes with matplotlib; leave it out")
    font = read_font()
    characters = select(font)
    columns = {"character": [each.character for each in characters],
               "kind": [f"{each.category} {each.name.split()[0]}" for each in characters]}
    make_dataset(out, Collection((drawn(each.character, font) for each in characters),
                                 [[each.name] for each in characters], [[each.category] for each in characters],
                                 random_split(len(characters)), columns, ATTRIBUTES), ENCODERS)


@dataclass(frozen=True)
class Character:
    character: str
    name: str  # in lower case
    category: str


def font_file() -> Path:
    import matplotlib  # here: it takes a moment to load

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def read_font() -> FreeTypeFont:
    """DejaVu Sans from matplotlib. Raises InputError if it isn't there or is damaged."""
    from PIL import ImageFont

    path = font_file()
    try:  # of its bytes: for a path that can't be read, Pillow takes a font of that name from anywhere
        return ImageFont.truetype(io.BytesIO(path.read_bytes()), HEIGHT, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); expected DejaVu Sans; run pip install "
                         f"--force-reinstall matplotlib") from None


def select(font: FreeTypeFont) -> list[Character]:
    """The characters that the font draws, with something to see, whose category has at least 20; by number."""
    from matplotlib.ft2font import FT2Font

    found = []
    for number in sorted(FT2Font(str(font_file())).get_charmap()):
        character = chr(number)
        name = UNICODE.name(character, None)
        if name is not None and font.getmask(character).getbbox() is not None:
            found.append(Character(character, name.lower(), UNICODE.category(character)))
    sizes = collections.Counter(each.category for each in found)
    return [each for each in found if sizes[each.category] >= FEWEST]


def drawn(character: str, font: FreeTypeFont) -> Image:
    """A glyph of 128 pixels an em on 224 x 224 of white: all on one baseline, each in the middle of its line."""
    from PIL import Image, ImageDraw

    left, _, right, _ = font.getbbox(character, anchor="ls")
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    ImageDraw.Draw(image).text(((IMAGE_SIZE - left - right) // 2, BASELINE), character, "black", font, anchor="ls")
    return image
