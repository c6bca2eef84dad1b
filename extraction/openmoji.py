"""The layout ``openmoji``: drawings of the OpenMoji package, their annotations and tags, and their groups as labels."""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from common import json_text
from common.errors import InputError
from extraction import splits
from extraction.collection import Collection
from extraction.encoders import IMAGE_SIZE, optional
from extraction.npm import npm_pack, read_package

if TYPE_CHECKING:
    from PIL.Image import Image

SUMMARY = "make data/openmoji/openmoji.h5 again"
OUT = Path("data/openmoji/openmoji.h5")
USUAL = None  # its split is fixed
PACKAGE = "openmoji@17.0.0"
QUERIES = 400
ATTRIBUTES = {
    "source": f"npm package {PACKAGE}, https://openmoji.org",
    "licence": "CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/",
    "attribution": "All emojis designed by OpenMoji – the open-source emoji and icon project. "
                   "License: CC BY-SA 4.0",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--package", type=Path, help=f"npm package {PACKAGE}, folder or .tgz (default: npm pack)")


def read(package: Path | None) -> Collection:
    """The collection of the npm package (a folder or .tgz; None fetches it with npm). Raises InputError."""
    with tempfile.TemporaryDirectory() as folder:
        rows, drawings = read_drawings(package or npm_pack(PACKAGE, Path(folder), "--package"))
    columns = {"emoji": "emoji", "annotation": "annotation", "subgroup": "subgroups", "hexcode": "hexcode"}
    optional("resvg_py")  # if it is missing, that is found here and not after the texts are encoded
    return Collection(map(draw, drawings), [[caption(row)] for row in rows], [[row["group"]] for row in rows],
                      splits.draw(len(rows), QUERIES, 0),
                      {name: [row[key] for row in rows] for name, key in columns.items()},
                      ATTRIBUTES)


def select_rows(rows: list[dict]) -> list[dict]:
    """The rows without skin-tone variants, components and ``extras-unicode``, in the order of the package."""
    left_out = ("component", "extras-unicode")
    return [row for row in rows if not row["skintone"] and row["group"] not in left_out]


def caption(row: dict) -> str:
    """Annotation, tags and OpenMoji tags, each phrase once, joined by commas."""
    phrases = [row["annotation"], *row["tags"].split(","), *row["openmoji_tags"].split(",")]
    return ", ".join(dict.fromkeys(phrase.strip() for phrase in phrases if phrase.strip()))


def draw(svg: bytes) -> Image:
    """An SVG drawing as an RGB image of 224 x 224 pixels, on white."""
    png = optional("resvg_py").svg_to_bytes(svg_string=svg.decode(), width=IMAGE_SIZE, height=IMAGE_SIZE,
                                            background="white", skip_system_fonts=True)
    return optional("PIL.Image").open(io.BytesIO(png)).convert("RGB")


def read_drawings(package: Path) -> tuple[list[dict], list[bytes]]:
    """The selected rows of ``openmoji.json`` and their colour SVGs, from the npm package, a folder or .tgz.

    Raises InputError if it is damaged, incomplete or of another version.
    """
    def choose(files: dict[str, bytes]) -> tuple[list[dict], list[bytes]]:
        rows = select_rows(json_text.parse(files["data/openmoji.json"]))
        names = [f"color/svg/{row['hexcode']}.svg" for row in rows]
        if missing := [name for name in names if name not in files]:
            raise InputError(f"{package}: {len(missing)} drawings are missing, the first is {missing[0]}")
        return rows, [files[name] for name in names]

    return read_package(package, PACKAGE, r"data/openmoji\.json|color/svg/[0-9A-F-]+\.svg", choose)
