"""Search results as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from common.errors import InputError
from reporting.gallery import shown

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
  :root { color-scheme: light dark; --line: #8884; --soft: #8881 }
  body { font: 16px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem }
  h1 { font-size: 1.2rem } h2 { font-size: 1rem; margin: 2rem 0 .5rem }
  ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem; padding: 0;
       margin: 0; list-style: none }
  li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; background: var(--soft);
       overflow-wrap: anywhere; font-size: .85rem }
  img { width: 100%; aspect-ratio: 1; object-fit: contain; background: white; border-radius: .25rem }
  .sign { font-size: 3rem; line-height: 1.2; text-align: center }
  .caption { display: -webkit-box; -webkit-line-clamp: 4; -webkit-box-orient: vertical; overflow: hidden }
  .numbers { opacity: .7; margin: .3rem 0 0; font-variant-numeric: tabular-nums }
  p { margin: 0 }
</style>
<h1>{{ title }}</h1>
{% for query, hits in results %}
<h2>{{ query }}</h2>
{% if not hits %}<p>nothing found</p>{% endif %}
<ol>
{% for hit in hits %}
  <li>
    {% if hit.picture %}
    <img src="{{ hit.picture }}" alt="">
    {% elif hit.emoji %}
    <p class="sign">{{ hit.emoji }}</p>
    {% endif %}
    <p class="caption" title="{{ hit.caption }}">{{ hit.caption }}</p>
    <p class="numbers">{{ hit.rank }}. distance {{ hit.distance }}
      {%- if hit.score is defined %}, score {{ "%.1f" | format(hit.score) }}{% endif %}, id {{ hit.id }}</p>
  </li>
{% endfor %}
</ol>
{% endfor %}
</html>
"""


def render(title: str, results: Sequence[tuple[str, Sequence[dict]]], images: Path | None = None) -> str:
    """The page for the results of some queries.

    Args:
        results: for each query its name and its hits, dictionaries with ``rank``, ``id`` and ``distance``, and
            perhaps ``score``, ``caption``, ``emoji`` and ``image_file``.
        images: the folder that ``image_file`` is relative to; the pictures become part of the page.

    Raises:
        InputError: a picture can't be read.
    """
    rows = [(query, [{**hit, "caption": _text(hit, "caption"), "emoji": shown(_text(hit, "emoji")),
                      "picture": _picture(images, _text(hit, "image_file"))} for hit in hits]) for query, hits in results]
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(_PAGE).render(title=title, results=rows)


def _text(hit: dict, column: str) -> str:
    """What a column holds, a number as well as words; nothing where there is none."""
    return "" if hit.get(column) is None else str(hit[column])


def _picture(images: Path | None, name: str) -> str | None:
    """The picture of this name as a data URI."""
    if images is None or not name:
        return None
    path = images / name
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise InputError(f"{path}: not the name of an image; expected .png, .jpg or the like")
    try:
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {reason}; give the images' folder with --images") from None
