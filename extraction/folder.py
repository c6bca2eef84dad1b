"""The layout ``folder``: your own images in a folder, and a table of their captions, with labels or without."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError
from extraction.collection import Collection
from extraction.dataset_file import split
from extraction.encoders import is_unicode, open_image

SUMMARY = "your own images and captions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder that the image names are relative to")
    parser.add_argument("--captions", type=Path, required=True,
                        help=".csv or .jsonl with image, caption and, for mAP, label (names separated by ';')")
    parser.add_argument("--query", default="0.1", help="share (below 1) or number of the pairs that are queries")
    parser.add_argument("--train", type=int, metavar="N", help="number of the other pairs to train on (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random split")


def read(images: Path, captions: Path, query: str = "0.1", train: int | None = None, seed: int = 0) -> Collection:
    """The collection of a folder of images and a table of captions. The arguments are those of the command.

    Raises InputError.
    """
    rows = read_captions(captions)
    queries = query_count(query, len(rows))
    if train is not None and not 2 <= train <= len(rows) - queries:
        raise InputError(f"--train {train}: expected 2 to {len(rows) - queries}, the pairs that are not queries")
    if seed < 0:
        raise InputError(f"--seed {seed}; expected a whole number from 0 up")
    paths = [images / row["image"] for row in rows]
    for path in paths:  # a missing image is found before minutes of work
        open_image(path).close()
    labels = [row["label"] for row in rows] if "label" in rows[0] else None
    attributes = {"source": f"{images}, {captions}",
                  "split": f"--query {query} --seed {seed}" + ("" if train is None else f" --train {train}")}
    return Collection(paths, [[row["caption"]] for row in rows], labels, split(len(rows), queries, seed, train),
                      {"image_file": [row["image"] for row in rows]}, attributes)


def query_count(query: str, count: int) -> int:
    """The number of queries among ``count`` pairs: ``--query`` is a share of them if it is below 1, else their number.

    A share is at least one query. Raises InputError.
    """
    try:
        share = float(query)
        queries = max(1, round(share * count)) if 0 < share < 1 else int(query)
    except ValueError:
        raise InputError(f"--query {query!r}; expected a share between 0 and 1 or a whole number") from None
    if not 0 < queries < count:
        raise InputError(f"--query {query}: {queries} queries of {count} pairs; expected 1 to {count - 1}")
    return queries


def read_captions(path: Path) -> list[dict]:
    """The rows of a .csv or .jsonl table: ``image`` (file name), ``caption`` and, in all rows or in none, ``label`` (a
    list of names).

    In the file the labels of a row are one string, names separated by ``;``. Each image may come only once: rows are
    split at random, and an image that is both a query and in the database would find itself. Raises InputError, which
    names the line.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: file type {path.suffix!r}; expected .csv or .jsonl")
    seen: dict[str, int] = {}
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in readers[path.suffix.lower()](file):
                where = f"{path}: line {number}"
                row = {key: _text(where, key, fields) for key in ("image", "caption")}
                misnamed = [key for key in fields if str(key).strip().casefold() in ("label", "labels")]
                if misnamed and "label" not in misnamed:
                    raise InputError(f"{where}: found {misnamed[0]!r}; expected the name 'label'")
                if "label" in (rows[0] if rows else fields):
                    row["label"] = [name.strip() for name in _text(where, "label", fields).split(";") if name.strip()]
                    if not row["label"]:
                        raise InputError(f"{where}: 'label' has no name in it; expected names separated by ';'")
                elif "label" in fields:
                    raise InputError(f"{where}: has a 'label', and the rows before it have none; expected one in every "
                                     f"row, or in none")
                if (first := seen.setdefault(os.path.normpath(row["image"]), number)) != number:
                    raise InputError(f"{where}: image {row['image']!r} is already on line {first}; "
                                     "expected each image once")
                rows.append(row)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except InputError:
        raise
    except (csv.Error, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, a number too long
        raise InputError(f"{path}: not a {path.suffix} table in UTF-8 ({error})") from None
    if len(rows) < 2:
        raise InputError(f"{path}: {len(rows)} rows; expected at least 2 of image, caption and, if wanted, label")
    return rows


def _csv_rows(file: io.TextIOBase) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(file, strict=True)
    names = reader.fieldnames or []
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{file.name}: line 1: column {repeated[0]!r} comes more than once; expected each once")
    for fields in reader:
        if None in fields:
            raise InputError(f"{file.name}: line {reader.line_num}: {len(names) + len(fields[None])} fields for "
                             f"{len(names)} columns; put double quotes around text with commas in it")
        yield reader.line_num, fields


def _jsonl_rows(file: io.TextIOBase) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, json.loads(line)


def _text(where: str, key: str, fields: object) -> str:
    if not isinstance(fields, dict) or key not in fields:
        found = ", ".join(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        raise InputError(f"{where}: no {key!r}; found {found}; expected image, caption and, if wanted, label")
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        or_none = ", or no label in any row" if key == "label" else ""
        raise InputError(f"{where}: {key!r} is {value!r}; expected text{or_none}")
    if "\0" in value or not is_unicode(value):
        raise InputError(f"{where}: {key!r} has a character that is not valid text: {value!r}")
    return value.strip()
