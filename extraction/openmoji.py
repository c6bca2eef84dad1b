"""The layout ``openmoji``: drawings of the OpenMoji package, their annotations and tags, and their groups as labels."""

from __future__ import annotations

import argparse
import io
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from common import json_text
from common.errors import InputError
from common.input_files import require_file
from extraction import splits
from extraction.collection import Collection
from extraction.encoders import IMAGE_SIZE, optional
from extraction.npm import npm_pack

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
        rows, drawings = read_package(package or npm_pack(PACKAGE, Path(folder), "--package"))
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


def read_package(package: Path) -> tuple[list[dict], list[bytes]]:
    """The selected rows of ``openmoji.json`` and their colour SVGs, from the npm package, a folder or .tgz.

    Raises InputError if it is damaged, incomplete or of another version.
    """
    wanted = re.compile(r"(?:package/)?(package\.json|data/openmoji\.json|color/svg/[0-9A-F-]+\.svg)")
    try:
        if package.is_dir():
            paths = [package / "package.json", package / "data/openmoji.json"]
            paths += (package / "color/svg").glob("*.svg")
            files = {path.relative_to(package).as_posix(): path.read_bytes() for path in paths}
        else:
            require_file(package)
            with tarfile.open(package) as archive:
                files = {match[1]: archive.extractfile(member).read() for member in archive
                         if member.isfile() and (match := wanted.fullmatch(member.name))}
        about = json_text.parse(files["package.json"])
        found = f"{about['name']}@{about['version']}"
        rows = select_rows(json_text.parse(files["data/openmoji.json"]))
        names = [f"color/svg/{row['hexcode']}.svg" for row in rows]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{package}: can't be read ({getattr(error, 'strerror', None) or error}); "
                         f"expected the npm package {PACKAGE}, a folder or .tgz") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{package}: not the npm package {PACKAGE} ({reason})") from None
    if found != PACKAGE:
        raise InputError(f"{package}: {found}; expected {PACKAGE}")
    if missing := [name for name in names if name not in files]:
        raise InputError(f"{package}: {len(missing)} drawings are missing, the first is {missing[0]}")
    return rows, [files[name] for name in names]
