"""Search results as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from common.columns import clip, columns_of, printable
from reporting.emoji import shown


def result_lines(hits: Sequence[dict], width: int) -> list[str]:
    """A line for each hit of one query, at most ``width`` columns: rank, distance, score if there is one, id, and emoji
    and caption if the item has them.

    Args:
        hits: dictionaries as :meth:`indexing.index.Index.rows` gives them.
    """
    if not hits:
        return ["  nothing found"]
    scored = "score" in hits[0]
    digits = max(2, *(len(str(hit["id"])) for hit in hits))
    lines = ["rank  distance  " + "   score  " * scored + f"{'id':>{digits}}"]
    for hit in hits:
        score = f"{hit['score']:8.4f}  " if scored else ""
        words = " ".join((shown(str(hit.get("emoji") or "")), str(hit.get("caption") or "")))
        line = f"{hit['rank']:4}  {hit['distance']:8}  {score}{hit['id']:>{digits}}  {' '.join(words.split())}"
        lines.append(shortened(line.rstrip(), width))
    return lines


def shortened(line: str, width: int) -> str:
    """The line as it may be printed, cut where it takes more than ``width`` columns of a terminal."""
    line = printable(line)
    return line if columns_of(line) <= width else clip(line, width - 1).rstrip() + "…"
