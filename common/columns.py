"""How wide text is on a terminal, and what of it may reach one."""

from __future__ import annotations

import re
import unicodedata

MAX_COLUMNS = 80  # of a printed line; a path or another long word may take more
_OBEYED = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(line: str) -> str:
    """A line with U+FFFD for each character that a terminal would obey: the controls, and those of the direction."""
    return _OBEYED.sub("\ufffd", line)


def clip(text: str, columns: int) -> str:
    """The text, cut or padded to fill a number of terminal columns."""
    width, kept = 0, ""
    for character in text:
        size = columns_of(character)
        if width + size > columns:
            break
        kept, width = kept + character, width + size
    return kept + " " * (columns - width)


def columns_of(text: str) -> int:
    """The terminal columns that a text takes: 2 for a wide character, 0 for one that joins the character before it."""
    return sum(0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else
               2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
