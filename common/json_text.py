"""JSON from files that others wrote: ValueError is all that a damaged or hostile one raises.

What this project writes and reads back is sealed: its last entry, ``sha256``, is the digest of the others, which tells
when one of them has been changed since. An object without that entry is as sound as it looks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from common.errors import InputError
from common.input_files import read_text

SEAL = "sha256"


def parse(text: str | bytes, **hooks) -> object:
    """What a text in JSON says; ``hooks`` are those of :func:`json.loads`. Raises ValueError if it isn't JSON."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read(path: Path) -> object:
    """What a file in JSON says, without its seal.

    Raises:
        OSError: it can't be read; ValueError: it isn't JSON in UTF-8; InputError: it isn't what was sealed.
    """
    try:
        return unsealed(parse(read_text(path)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def sealed(content: dict) -> dict:
    """The content with its digest, to be written in this order."""
    return {**content, SEAL: _digest(content)}


def unsealed(content: object) -> object:
    """The content without its digest, if it is an object that has one. Raises InputError if that is of another."""
    if not isinstance(content, dict) or SEAL not in content:
        return content
    bare = {key: value for key, value in content.items() if key != SEAL}
    if content[SEAL] != _digest(bare):
        raise InputError(f"edited or damaged since it was written: its {SEAL} is that of other content; restore it, or "
                         f"make it again with the command that wrote it")
    return bare


def _digest(content: dict) -> str:
    try:
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    except RecursionError:
        raise ValueError("nested too deep") from None
