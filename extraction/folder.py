"""The layout ``folder``: your own images in a folder, and a table of their captions, with labels or without."""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path

from common import json_text
from common.errors import InputError
from common.input_files import require_file
from extraction.captions import CHOICES, HELP
from extraction.collection import Collection
from extraction.download import File, Pictures
from extraction.encoders import is_unicode
from extraction.splits import Usual

SUMMARY = "your own images and captions"
OUT = None  # has to be given
USUAL = Usual()


class _Captions(argparse.Action):
    """``--captions`` takes the table, as it did before images had several captions, and the choice among them."""

    def __call__(self, parser, namespace, value, option=None):
        setattr(namespace, "captions" if value in CHOICES else "table", value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder that the image names are relative to")
    parser.add_argument("--captions", action=_Captions, required=True, metavar="FILE|all|mean|first|random",
                        help=".csv or .jsonl with image, caption and, for mAP, label (names separated by ';'), where "
                             f"further rows of an image are further captions. Given once more: {HELP}")
    parser.set_defaults(captions="all", table=None)


def read(images: Path, table: str | None) -> Collection:
    """The collection of a folder of images and a table of captions. The arguments are those of the command.

    Raises InputError.
    """
    if table is None:
        raise InputError("folder: no table of captions is given; expected --captions FILE, a .csv or .jsonl")
    rows = read_captions(Path(table))
    paths = [os.path.join(images, row["image"]) for row in rows]
    files = [File(path) if os.path.isfile(path) else None for path in paths]
    labels = [row["label"] for row in rows] if "label" in rows[0] else None
    return Collection(Pictures(files), [row["captions"] for row in rows], labels,
                      columns={"image_file": [row["image"] for row in rows]},
                      attributes={"source": f"{images}, {table}"})


def read_captions(path: Path) -> list[dict]:
    """The images of a .csv or .jsonl table, in the order in which they first come: ``image`` (file name), ``captions``
    (of each row of the image) and, in all or in none, ``label`` (a list of names).

    In the file a row has one ``caption``, and its labels are one string, names separated by ``;``, the same in all rows
    of an image. Raises InputError, which names the line.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: file type {path.suffix!r}; expected .csv or .jsonl")
    images: dict[str, dict] = {}
    first_lines: dict[str, int] = {}
    labelled = None
    try:
        require_file(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in readers[path.suffix.lower()](file):
                where = f"{path}: line {number}"
                row = {key: _text(where, key, fields) for key in ("image", "caption")}
                misnamed = [key for key in fields if str(key).strip().casefold() in ("label", "labels")]
                if misnamed and "label" not in misnamed:
                    raise InputError(f"{where}: found {misnamed[0]!r}; expected the name 'label'")
                labelled = "label" in fields if labelled is None else labelled
                if labelled:
                    row["label"] = [name.strip() for name in _text(where, "label", fields).split(";") if name.strip()]
                    if not row["label"]:
                        raise InputError(f"{where}: 'label' has no name in it; expected names separated by ';'")
                elif "label" in fields:
                    raise InputError(f"{where}: has a 'label', and the rows before it have none; expected one in every "
                                     f"row, or in none")
                name = os.path.normpath(row["image"])
                image = images.setdefault(name, row | {"captions": []})
                first = first_lines.setdefault(name, number)
                if labelled and set(row["label"]) != set(image["label"]):
                    raise InputError(f"{where}: image {row['image']!r} has other labels than on line {first}; expected "
                                     f"the same in all rows of an image")
                image["captions"].append(row["caption"])
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except InputError:
        raise
    except (csv.Error, ValueError) as error:  # ValueError: not UTF-8, not JSON, a number too long
        raise InputError(f"{path}: not a {path.suffix} table in UTF-8 ({error})") from None
    if len(images) < 2:
        raise InputError(f"{path}: {len(images)} images; expected at least 2 rows of image, caption and, if wanted, "
                         f"label, of different images")
    return list(images.values())


def _csv_rows(file: io.TextIOBase) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(2**31 - 1)  # else a caption of 131,073 bytes refuses the table; extraction/captions.py cuts it
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
            yield number, json_text.parse(line)


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
