"""Which emoji a font can show."""

import unicodedata


def shown(emoji: str) -> str:
    """The emoji, or an empty string for private-use code points, which only OpenMoji's own font can show."""
    return "" if any(unicodedata.category(character) == "Co" for character in emoji) else emoji
