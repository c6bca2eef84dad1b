"""How files say which arrays are the images, texts and labels of which split; ``data/README.md`` shows the layouts."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Mapping, Sequence, TypeVar

import numpy as np

from common.errors import InputError, listing
from formats.arrays import Array
from formats.pickles import read_pickle
from formats.reading import open_arrays
from pairs.rows import SPLITS, Rows, check_features, fields_of, read_rows, whole_numbers
from pairs.spellings import (ALL_COMMANDS, COMMANDS, EXPECTED_KEYS, EXPECTED_SPLITS, FIELD_SPELLINGS, IF_NUMBERS,
                             LAYOUTS, RAW, RENAMED, SPLIT_SPELLINGS, last_are_queries)

T = TypeVar("T")


def split_pickles(files: Sequence[Path]) -> dict[str, Path] | None:
    """The pickle of each split, by the names of the files; None if they aren't one a split."""
    splits = {SPLIT_SPELLINGS.get(file.stem): file for file in files}
    return splits if splits.keys() == set(SPLITS) and len(files) == len(SPLITS) else None


def read_pickles(files: Mapping[str, Path]) -> tuple[dict[str, Rows], list[str] | None]:
    """The rows of each split from its pickle, and the class names if any. Raises InputError."""
    rows, label_names = {}, None
    for split in SPLITS:
        file = files[split]
        arrays = read_pickle(file)
        if "label_names" in arrays:
            names = _read_names(arrays.pop("label_names"))
            if label_names not in (None, names):
                raise InputError(f"{file}: label_names: found other names than in another split; expected the same")
            label_names = names
        rows[split] = read_rows(str(file), arrays)[0]
    return rows, label_names


def read_files(where: Path, files: Sequence[Path]) -> tuple[dict[str, Rows], list[str] | None]:
    """The rows of each split from one file, or from several that hold an array each, and the class names if any.

    Args:
        where: the file, or the folder of the files, for messages.

    Raises InputError.
    """
    with contextlib.ExitStack() as stack:
        arrays = _named(where, {file: stack.enter_context(open_arrays(file)) for file in files})
        label_names = _read_names(arrays.pop("label_names")) if "label_names" in arrays else None
        layouts = [tables for pattern in LAYOUTS if (tables := _tables(arrays, pattern))]
        whole = {"image", "text"} <= {FIELD_SPELLINGS.get(key) for key in arrays}
        if len(layouts) + whole != 1:
            if not layouts:
                _refuse_raw(where, arrays)
            problem = "more than one layout" if layouts else "no layout that is known"
            raise InputError(f"{where}: {problem}: found keys {listing(arrays)}; expected {EXPECTED_KEYS}")
        if whole:
            return _read_indexed(where, arrays, last_are_queries(file.name for file in files)), label_names
        rows = read_tables(str(where), _name_splits(where, layouts[0]))
        used = {id(array) for table in layouts[0].values() for array in table.values()}
        if unused := [key for key, array in arrays.items() if id(array) not in used]:
            rows["train"].notes.append(f"{where}: {listing(unused)}: in no split, and left out")
        return rows, label_names


def _named(where: Path, found: Mapping[Path, Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of all files by key, under the names that this project has for them."""
    arrays: dict[str, Array] = {}
    places: dict[str, tuple[str, Path]] = {}  # the key and the file of each array, or of each field
    for file, in_file in found.items():
        for key, array in in_file.items():
            name = RENAMED.get(key, key)
            what = FIELD_SPELLINGS.get(name, name) if _is_matrix(array) else name
            other, place = places.setdefault(what, (key, file))
            if place != file:
                raise InputError(f"{where}: found {other} in {place.name} and {key} in {file.name}; expected files "
                                 f"that are one data set together, or the path of one of them")
            arrays[name] = array
    fields = {FIELD_SPELLINGS.get(key) for key in arrays}
    if "image" not in fields and "text" not in fields:
        arrays = {IF_NUMBERS.get(key, key) if _is_matrix(array) else key: array for key, array in arrays.items()}
    return arrays


def _is_matrix(array: Array) -> bool:
    return len(array.shape) == 2 and min(array.shape) > 1 and array.dtype.kind in "iufb"


def _refuse_raw(where: Path, arrays: Mapping[str, Array]) -> None:
    """Raise InputError if the arrays are only what features are made of: it says what makes them."""
    fields = {FIELD_SPELLINGS.get(key) for key in arrays}
    raw = [what for key, what in RAW.items() if key in arrays]
    if raw and "image" not in fields and ("text" not in fields or "IAll" in arrays):
        classes = [min(arrays[key].shape) for key in ("category", "label", "LAll") if key in arrays]
        command = next((COMMANDS[count] for count in classes if count in COMMANDS), " | ".join(ALL_COMMANDS))
        raise InputError(f"{where}: found {' and '.join(raw)} (keys {listing(arrays)}), no features; expected "
                         f"features, which python extract_features.py {command} --root DIR makes of pictures in DIR")


def _read_names(array: Array) -> list[str]:
    return array.column().astype(str).tolist()


def _tables(arrays: Mapping[str, Array], pattern: re.Pattern[str]) -> dict[str, dict[str, Array]]:
    """The arrays of each split, as far as keys follow the pattern; empty if no known split is there."""
    tables: dict[str, dict[str, Array]] = {}
    for key, array in arrays.items():
        if match := pattern.fullmatch(key):
            tables.setdefault(match["split"], {})[match["field"]] = array
    fields = {split: {FIELD_SPELLINGS[key] for key in table if key in FIELD_SPELLINGS}
              for split, table in tables.items()}
    # Images make an unknown split, such as I_val, which is refused later; a single key like alt_text does not.
    tables = {split: table for split, table in tables.items()
              if "image" in fields[split] or fields[split] and split in SPLIT_SPELLINGS}
    return tables if tables.keys() & SPLIT_SPELLINGS.keys() else {}


def _name_splits(where: Path, found: Mapping[str, T]) -> dict[str, T]:
    """Train, query and retrieval by their plain names. If query is called test, train may serve as retrieval."""
    splits: dict[str, T] = {}
    for spelling, item in found.items():
        split = SPLIT_SPELLINGS.get(spelling)
        if split is None or split in splits:
            problem = "unknown" if split is None else "repeated"
            raise InputError(f"{where}: {problem} split {spelling!r}: found {listing(found)}; "
                             f"expected {EXPECTED_SPLITS}")
        splits[split] = item
    if "train" in splits and found.keys() & {"test", "te"}:
        splits.setdefault("retrieval", splits["train"])
    for split in SPLITS:
        if split not in splits:
            raise InputError(f"{where}: no {split} split: found {listing(found)}; expected {EXPECTED_SPLITS}")
    return splits


def read_tables(where: str, tables: Mapping[str, Mapping[str, Array]]) -> dict[str, Rows]:
    """The rows of each split, from a table of its own; one that is both train and retrieval is read once. Raises
    InputError.
    """
    rows = {split: read_rows(f"{where}: {split}", tables[split])[0] for split in ("train", "query")}
    if tables["retrieval"] is tables["train"]:
        return rows | {"retrieval": rows["train"]}
    return rows | {"retrieval": read_rows(f"{where}: retrieval", tables["retrieval"])[0]}


def _read_indexed(where: Path, arrays: dict[str, Array], last: int | None) -> dict[str, Rows]:
    """Whole arrays and, for each split, the numbers of its rows, counted from 0.

    Args:
        last: how many rows at the end are the queries if no row numbers are there; None if that isn't known.
    """
    image = fields_of(str(where), arrays)[0]
    check_features(image)
    given = {key.removesuffix("_idx"): arrays.pop(key) for key in list(arrays) if key.endswith("_idx") and (
        key.removesuffix("_idx") in SPLIT_SPELLINGS or arrays[key].shape != image.shape[:1])}  # else it is a column
    notes = []
    if given:
        given = _name_splits(where, given)
        numbers = {split: _row_numbers(array, image.shape[0]) for split, array in given.items()}
    elif last is not None and last < image.shape[0]:
        first = image.shape[0] - last
        rest = np.arange(first)
        numbers = {"train": rest, "query": np.arange(first, image.shape[0]), "retrieval": rest}
        notes = [f"{where}: no split is given: the last {last:,} rows are query, the others train and retrieval, as in "
                 f"UCCH's code"]
    else:
        raise InputError(f"{where}: nothing says which rows are in which split: found keys {listing(arrays)} and "
                         f"{image.shape[0]:,} rows; expected train_idx, query_idx, retrieval_idx, or train_idx, "
                         f"test_idx, in the same file or in another one of the folder, such as a split.npz")
    train, query, retrieval = (numbers[split] for split in SPLITS)
    for split in ("retrieval", "train"):
        if common := np.intersect1d(query, numbers[split]).size:
            raise InputError(f"{where}: found {common:,} rows of query_idx in {split}_idx; expected none")
    start = int(np.argmax(retrieval == train[0]))
    run = slice(start, start + len(train))
    if np.array_equal(retrieval[run], train):
        retrieval_rows, query_rows = read_rows(str(where), arrays, [retrieval, query])
        train_rows = retrieval_rows if len(train) == len(retrieval) else retrieval_rows.part(run)
    else:
        retrieval_rows, query_rows, train_rows = read_rows(str(where), arrays, [retrieval, query, train])
    train_rows.notes.extend(notes)
    return {"train": train_rows, "query": query_rows, "retrieval": retrieval_rows}


def _row_numbers(array: Array, count: int) -> np.ndarray:
    if not array.is_column() or array.dtype.kind not in "iuf" or array.shape == (0,):
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected a list of row numbers")
    numbers = whole_numbers(array, count, "row numbers")
    values, times = np.unique(numbers, return_counts=True)
    if repeated := values[times > 1].tolist():
        raise InputError(f"{array.where}: found row {repeated[0]} more than once; expected it once")
    return numbers
