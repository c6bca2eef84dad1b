"""The data set that is made: pairs encoded and written as one HDF5 file for each choice of encoders."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import h5py
import numpy as np

from common.atomic_files import check_writable, write_atomically
from common.errors import InputError
from common.locks import alone
from extraction import captions as of_captions, chunks, encoders as known
from extraction.collection import Collection
from extraction.download import Pictures
from extraction.encoders.pictures import MAX_PIXELS
from formats.hdf5 import new_hdf5

MAX_FOLDERS = 16  # of pictures, that a file names
# What a row is called in messages: the first of these columns that there is.
NAME_COLUMNS = ("image_file", "file", "icon", "hexcode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of what encodes: ``--encoders``, which ``--clip`` is an older name of."""
    parser.add_argument("--encoders", type=known.names_in, default=[known.DEFAULT], metavar="NAME[,NAME...]",
                        help="what encodes both: packaged (default: EfficientNet-Lite0 and all-MiniLM-L6-v2), "
                             "packaged:float64 (slower, but the same on every processor), a CLIP-like model of Hugging "
                             "Face's hub, such as openai/clip-vit-base-patch32, or its folder, or one of open_clip, "
                             "such as open_clip:ViT-B-32/laion2b_s34b_b79k; several, separated by commas, encode in "
                             "one pass and make a file each, NAME-ENCODER.h5")
    parser.add_argument("--clip", type=lambda name: [name], dest="encoders", metavar="MODEL", default=argparse.SUPPRESS,
                        help="the same for a single CLIP-like model")
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, metavar="N",
                        help=f"of a picture; a JPEG of more is decoded smaller, and others are left out (default: "
                             f"{MAX_PIXELS:,}, which take 600 MB)")


def multi_hot(names: Sequence[Sequence[str]],
              label_names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """The names of each row's labels as (n, c) uint8, 0 or 1, and the c names: ``label_names``, or without them those
    that any row has, in alphabetical order.
    """
    label_names = sorted({name for row in names for name in row}) if label_names is None else list(label_names)
    number = {name: column for column, name in enumerate(label_names)}
    label = np.zeros((len(names), len(label_names)), np.uint8)
    for row, of_row in enumerate(names):
        label[row, [number[name] for name in of_row]] = 1
    return label, label_names


def make_dataset(out: Path, collection: Collection, encoders: Sequence[str] = (known.DEFAULT,), captions: str = "all",
                 seed: int = 0, strict: bool = False) -> None:
    """Encode the pairs of a collection, write them to ``out`` and print a line about what is in it.

    The work is done in chunks, which lie in the folder ``out``.partial until the file is complete: after a kill or a
    full disk the same call goes on where it was. What is wrong with pictures or captions is named in a text beside the
    file, NAME.problems.txt; pictures that can't be read or have no caption are left out, with all that belongs to them.

    Args:
        out: the file to write, which ends in .h5. Of several encoders each makes a file, NAME-ENCODER.h5.
        encoders: their names, see :mod:`extraction.encoders`. A picture is decoded once for all of them.
        captions: of a picture with several captions these are taken: ``all`` as texts of their own, of which the array
            ``image_of_text`` gives the rows of their pictures; the ``mean`` of their features; the ``first``; or one at
            ``random``.
        seed: draws the caption with ``random``.
        strict: refuse the collection if anything is wrong with a picture or a caption.

    Raises InputError, as far as possible before the work begins, if the file can't be written, an encoder is missing,
    or nothing is left of a split.
    """
    if out.suffix != ".h5" or out.is_dir():
        raise InputError(f"--out {out}: found {'a folder' if out.is_dir() else f'file type {out.suffix!r}'}; "
                         "expected the name of a .h5 file")
    # A missing package or model, or a folder that can't be written to, is found before minutes of work.
    found = [known.named(name) for name in encoders]
    outs = files_of(out, encoders)
    check_writable(out.parent, "out")
    names = _row_names(collection)
    texts, problems = of_captions.readable(collection.captions, names)
    refuse_if(strict, problems)
    texts = of_captions.choose(texts, captions, seed)
    usable = np.array([bool(of_image) for of_image in texts])
    problems += (empty := [f"{names[row]}: no caption, left out" for row in np.flatnonzero(~usable)])
    refuse_if(strict, empty)
    mean = captions == "mean" and max(map(len, texts), default=0) > 1
    sources = collection.images.files if isinstance(collection.images, Pictures) else collection.images
    if not usable.all():
        sources = itertools.compress(sources, usable)
    usable_texts, usable_names = (list(itertools.compress(each, usable)) for each in (texts, names))
    with _partial(out) as partial:
        files = chunks.encode(sources, usable_texts, usable_names, found, mean, strict, partial)
        kept, of_pictures = _kept(files, usable)
        refuse_if(strict, of_pictures)
        _report(out, [*collection.problems, *problems, *of_pictures], int((~kept).sum()), len(kept))
        rows = _rows(out, collection, texts, kept, mean)
        for number, (each, path) in enumerate(zip(found, outs)):
            attributes = {**collection.attributes, **_folders(collection), "encoders": each.names, **each.attributes}
            write_atomically(path, functools.partial(_write, files, number, rows, attributes), mode="w+b")
            print(_summary(path, rows))
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """The folder of the chunks of ``out``, for one process at a time; it is removed if it stays empty."""
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(exist_ok=True)
    lock = partial / ".lock"
    with alone(lock, f"{out}: another process is making this data set; wait for it"):
        try:
            yield partial
        finally:
            if os.path.isdir(partial) and os.listdir(partial) == [lock.name]:
                shutil.rmtree(partial, ignore_errors=True)


def files_of(out: Path, encoders: Sequence[str]) -> list[Path]:
    """The file that each encoder makes: ``out``, or of several NAME-ENCODER.h5 beside it. Raises InputError."""
    if len(encoders) == 1:
        return [out]
    # Of a folder and of a name on the hub the last part; of open_clip's names the model and its weights.
    short = [re.sub(r"[^\w.-]+", "-", name.removeprefix("open_clip:") if ":" in name else Path(name).resolve().name)
             for name in encoders]
    if len(set(short)) < len(short):
        raise InputError(f"--encoders {','.join(encoders)}: two would make a file of the same name; give them one by "
                         f"one, each with an --out of its own")
    return [out.with_name(f"{out.stem}-{name}.h5") for name in short]


def refuse_if(strict: bool, problems: list[str]) -> None:
    """Raise InputError, with the first of the problems, if there are any and ``strict`` is asked for."""
    if strict and problems:
        raise InputError(f"--strict: {len(problems):,} problems, the first is {problems[0]}")


# --- rows -----------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What a file has of its n rows beside the features."""

    splits: dict[str, np.ndarray]
    captions: list[list[str]]  # of each row
    apart: bool  # captions are texts of their own
    label: tuple[np.ndarray, list[str]] | None
    columns: dict[str, list[str]]


def _folders(collection: Collection) -> dict[str, str]:
    """The attribute with the folders, a line each, that the names of the pictures are relative to; for the report."""
    names, files = collection.columns.get("image_file", ()), getattr(collection.images, "files", ())
    ends = [(file.path, name.replace("/", os.sep)) for file, name in zip(files, names)
            if file is not None and file.member is None]
    folders = sorted({os.path.abspath(path[:-len(end)]) for path, end in ends if path.endswith(os.sep + end)})
    return {"picture_folders": "\n".join(folders)} if 0 < len(folders) <= MAX_FOLDERS else {}


def _row_names(collection: Collection) -> Sequence[str]:
    for name in NAME_COLUMNS:
        if name in collection.columns:
            return list(map(str, collection.columns[name]))
    return [f"picture {row}" for row in range(len(collection))]


def _kept(files: list[Path], usable: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which rows of the collection are in the chunks, (n,) bool, and what is wrong with the pictures of others."""
    found, problems = [], []
    for file in files:
        chunk = chunks.read(file)
        found.append(chunk.kept)
        problems += chunk.problems
    kept = usable.copy()
    kept[usable] = np.concatenate(found) if found else []
    return kept, problems


def _rows(out: Path, collection: Collection, captions: list[list[str]], kept: np.ndarray, mean: bool) -> Rows:
    """All that belongs to the rows that are kept. Raises InputError if nothing is left of a split."""
    number = np.cumsum(kept, dtype=np.int32) - 1
    splits = {name: number[rows[kept[rows]]] for name, rows in collection.splits.items()}
    for name, rows in splits.items():
        if not len(rows):
            raise InputError(f"no pair of {name.removesuffix('_idx')} is left: {len(kept) - kept.sum():,} of "
                             f"{len(kept):,} pictures can't be used; {_report_of(out)} says why")
    label = None
    if collection.labels is not None:
        every, label_names = multi_hot(collection.labels, collection.label_names)
        label = every[kept], label_names
    of_kept = list(itertools.compress(captions, kept))
    several = max(map(len, of_kept), default=0) > 1
    if mean:
        of_kept = [[" | ".join(of_image)] for of_image in of_kept]
    return Rows(splits, of_kept, several and not mean, label,
                {name: list(itertools.compress(column, kept)) for name, column in collection.columns.items()})


def _report_of(out: Path) -> Path:
    return out.with_name(f"{out.stem}.problems.txt")


def _report(out: Path, problems: list[str], left_out: int, count: int) -> None:
    """Write the problems beside the data set and say how many there are; remove the report of an earlier run."""
    report = _report_of(out)
    if not problems:
        with contextlib.suppress(FileNotFoundError):
            report.unlink()
        return
    lines = "".join(f"{' '.join(problem.split())}\n" for problem in problems)
    write_atomically(report, lambda file: file.write(lines.encode("utf-8", "replace")))
    also = f"; for them {left_out:,} of {count:,} pairs are left out" if left_out else ""
    print(f"warning: {len(problems):,} problems are named in {report}{also}", file=sys.stderr)


def _summary(path: Path, rows: Rows) -> str:
    with h5py.File(path) as file:
        (_, image), (texts, text) = file["image"].shape, file["text"].shape
    query, retrieval, train = map(len, rows.splits.values())
    labels = len(rows.label[1]) if rows.label else 0
    several = f"{texts:,} captions, " if rows.apart else ""
    return (f"{path}: {len(rows.captions):,} pairs ({query:,} query, {retrieval:,} retrieval, {train:,} of them train), "
            f"{several}image {image}, text {text}, {labels or 'no'} labels")


# --- the file -------------------------------------------------------------------------------------------------------


def _write(files: list[Path], encoder: int, rows: Rows, attributes: dict[str, str], target: IO[bytes]) -> None:
    counts = np.array(list(map(len, rows.captions)))
    texts = list(itertools.chain.from_iterable(rows.captions))
    with new_hdf5(target) as file:
        file.attrs.update(attributes)
        _write_features(file, "image", len(counts), (chunks.read(each).features[encoder][0] for each in files))
        _write_features(file, "text", len(texts), (chunks.read(each).features[encoder][1] for each in files))
        for name, array in rows.splits.items():
            _write_array(file, name, array)
        if rows.apart:
            _write_array(file, "image_of_text", np.repeat(np.arange(len(counts), dtype=np.int64), counts))
        if rows.label is not None:
            _write_array(file, "label", rows.label[0])
        columns = {**rows.columns, "caption": texts, **({"label_names": rows.label[1]} if rows.label else {})}
        for name, column in columns.items():
            _write_text(file, name, column)


def _write_features(file: h5py.File, name: str, count: int, parts: Iterator[np.ndarray]) -> None:
    """Write rows that come in parts, without holding them all: in runs of as many as HDF5 compresses together."""
    parts = (part for part in parts if len(part))
    waiting, start = next(parts), 0
    dataset = _create(file, name, (count, waiting.shape[1]), waiting.dtype)
    for part in itertools.chain(parts, [None]):
        whole = len(waiting) if part is None else len(waiting) // dataset.chunks[0] * dataset.chunks[0]
        dataset[start:start + whole] = waiting[:whole]
        waiting, start = waiting[whole:] if part is None else np.concatenate([waiting[whole:], part]), start + whole
    if start != count:
        raise AssertionError(f"{name}: {start} rows in the chunks; expected {count}")


def _write_text(file: h5py.File, name: str, column: Iterable[str]) -> None:
    """Write a column of strings as UTF-8 of one length: HDF5 can hang on a damaged heap of strings of many lengths."""
    encoded = [str(text).encode("utf-8", "replace") for text in column]
    dtype = h5py.string_dtype("utf-8", max(1, max(map(len, encoded), default=1)))
    dataset = _create(file, name, (len(encoded),), dtype)
    for start in range(0, len(encoded), dataset.chunks[0]):
        dataset[start:start + dataset.chunks[0]] = np.array(encoded[start:start + dataset.chunks[0]], dtype)


def _write_array(file: h5py.File, name: str, array: np.ndarray) -> None:
    _create(file, name, array.shape, array.dtype)[...] = array


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    # Without times, so that the same arrays make the same bytes.
    return file.create_dataset(name, shape, dtype, compression=9, shuffle=True, track_times=False)
