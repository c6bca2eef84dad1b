"""How wide text is on a terminal."""

from __future__ import annotations

import unicodedata

MAX_COLUMNS = 80  # of a printed line; a path or another long word may take more


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
