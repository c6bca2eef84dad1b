"""JSON from files that others wrote: ValueError is all that a damaged or hostile one raises."""

from __future__ import annotations

import json


def parse(text: str | bytes, **hooks) -> object:
    """What a text in JSON says; ``hooks`` are those of :func:`json.loads`. Raises ValueError if it isn't JSON."""
    try:
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("nested too deep") from None
