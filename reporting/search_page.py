"""Search results as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.errors import InputError
from reporting.emoji import shown


def render(title: str, results: Sequence[tuple[str, Sequence[dict]]], images: Path | None = None) -> str:
    """The page for the results of some queries.

    Args:
        results: the name of each query and its hits, dictionaries with ``rank``, ``id`` and ``distance``, and
            perhaps ``score``, ``caption``, ``emoji`` and ``image_file``.
        images: the folder that ``image_file`` is relative to; the pictures become part of the page.

    Raises:
        InputError: a picture can't be read.
    """
    rows = [(query, [{**hit, "caption": _text(hit, "caption"), "emoji": shown(_text(hit, "emoji")),
                      "picture": _picture(images, _text(hit, "image_file"))} for hit in hits])
            for query, hits in results]
    templates = Environment(loader=PackageLoader("reporting"), autoescape=True, undefined=StrictUndefined,
                            trim_blocks=True, lstrip_blocks=True)
    return templates.get_template("search_page.html").render(title=title, results=rows)


def _text(hit: dict, column: str) -> str:
    """The value of a column as text; empty if there is none."""
    return "" if hit.get(column) is None else str(hit[column])


def _picture(images: Path | None, name: str) -> str | None:
    """An image file in the folder as a data URI; None without a folder or a name."""
    if images is None or not name:
        return None
    path = images / name
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise InputError(f"{path}: not the name of an image; expected .png, .jpg or the like")
    try:
        if Path(name).is_absolute() or ".." in Path(name).parts:  # links in the folder are its owner's
            raise InputError(f"{path}: not in the folder of --images; expected a name that leads nowhere else")
        if path.exists() and not path.is_file():  # opening a named pipe would wait for whoever writes to it
            raise InputError(f"{path}: a folder, a pipe or a device; expected an image file")
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a name with a null character, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}; give the images' folder with --images") from None
