"""How files say which arrays are the images, texts and labels of which split; ``data/README.md`` shows the layouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Mapping, TypeVar

import numpy as np

from common.errors import InputError, listing
from formats.arrays import Array
from formats.pickles import read_pickle
from formats.reading import open_arrays
from pairs.rows import FIELD_SPELLINGS, SPLITS, Rows, check_features, pick, read_rows, whole_numbers

T = TypeVar("T")
SPLIT_SPELLINGS = {"train": "train", "tr": "train", "query": "query", "test": "query", "te": "query",
                   "retrieval": "retrieval", "db": "retrieval"}
LAYOUTS = (  # how a single file names the arrays of its splits: train/image, train_image, I_tr
    re.compile(r"(?P<split>[^/]+)/(?P<field>[^/]+)"),
    re.compile(r"(?P<split>[^/_]+)_(?P<field>[^/]+)"),
    re.compile(r"(?P<field>[ITL])_(?P<split>[^/_]+)"),
)
EXPECTED_KEYS = ("I_tr, T_tr, L_tr, I_te, T_te, L_te, or image, text, label with train_idx, query_idx, "
                 "retrieval_idx, or train/image, train/text, ... (with labels or without)")
EXPECTED_SPLITS = "train, query, retrieval, or train, test"


def read_pickles(folder: Path) -> tuple[dict[str, Rows], list[str] | None]:
    """The rows of each split from ``train.pkl``, ``query.pkl`` and ``retrieval.pkl``, and the class names if any.

    Raises InputError.
    """
    rows, label_names = {}, None
    for split in SPLITS:
        file = folder / f"{split}.pkl"
        arrays = read_pickle(file)
        if "label_names" in arrays:
            names = _read_names(arrays.pop("label_names"))
            if label_names not in (None, names):
                raise InputError(f"{file}: label_names: found other names than in another split; expected the same")
            label_names = names
        rows[split] = read_rows(str(file), arrays)[0]
    return rows, label_names


def read_file(path: Path) -> tuple[dict[str, Rows], list[str] | None]:
    """The rows of each split from one file, and its class names if it has any. Raises InputError."""
    with open_arrays(path) as arrays:
        label_names = _read_names(arrays.pop("label_names")) if "label_names" in arrays else None
        layouts = [tables for pattern in LAYOUTS if (tables := _tables(arrays, pattern))]
        whole = any(FIELD_SPELLINGS.get(key) == "image" for key in arrays)
        if len(layouts) + whole != 1:
            problem = "more than one layout" if layouts else "no layout that is known"
            raise InputError(f"{path}: {problem}: found keys {listing(arrays)}; expected {EXPECTED_KEYS}")
        if whole:
            return _read_indexed(path, arrays), label_names
        rows = read_tables(str(path), _name_splits(path, layouts[0]))
        used = {id(array) for table in layouts[0].values() for array in table.values()}
        if unused := [key for key, array in arrays.items() if id(array) not in used]:
            rows["train"].left_out.append(f"{path}: {listing(unused)}: in no split, and left out")
        return rows, label_names


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


def _name_splits(path: Path, found: Mapping[str, T]) -> dict[str, T]:
    """Train, query and retrieval by their plain names. If query is called test, train may serve as retrieval."""
    splits: dict[str, T] = {}
    for spelling, item in found.items():
        split = SPLIT_SPELLINGS.get(spelling)
        if split is None or split in splits:
            problem = "unknown" if split is None else "repeated"
            raise InputError(f"{path}: {problem} split {spelling!r}: found {listing(found)}; "
                             f"expected {EXPECTED_SPLITS}")
        splits[split] = item
    if "train" in splits and found.keys() & {"test", "te"}:
        splits.setdefault("retrieval", splits["train"])
    for split in SPLITS:
        if split not in splits:
            raise InputError(f"{path}: no {split} split: found {listing(found)}; expected {EXPECTED_SPLITS}")
    return splits


def read_tables(where: str, tables: Mapping[str, Mapping[str, Array]]) -> dict[str, Rows]:
    """The rows of each split, from a table of its own; one that is both train and retrieval is read once. Raises
    InputError.
    """
    rows = {split: read_rows(f"{where}: {split}", tables[split])[0] for split in ("train", "query")}
    if tables["retrieval"] is tables["train"]:
        return rows | {"retrieval": rows["train"]}
    return rows | {"retrieval": read_rows(f"{where}: retrieval", tables["retrieval"])[0]}


def _read_indexed(path: Path, arrays: dict[str, Array]) -> dict[str, Rows]:
    """Whole arrays and, for each split, the numbers of its rows, counted from 0."""
    image = pick(str(path), arrays, "image")
    check_features(image)
    given = {key.removesuffix("_idx"): arrays.pop(key) for key in list(arrays) if key.endswith("_idx") and (
        key.removesuffix("_idx") in SPLIT_SPELLINGS or arrays[key].shape != image.shape[:1])}  # else it is a column
    if not given:
        raise InputError(f"{path}: nothing says which rows are in which split: found keys {listing(arrays)}; expected "
                         f"train_idx, query_idx, retrieval_idx, or train_idx, test_idx")
    given = _name_splits(path, given)
    numbers = {split: _row_numbers(array, image.shape[0]) for split, array in given.items()}
    train, query, retrieval = (numbers[split] for split in SPLITS)
    for split in ("retrieval", "train"):
        if common := np.intersect1d(query, numbers[split]).size:
            raise InputError(f"{path}: found {common:,} rows of query_idx in {split}_idx; expected none")
    start = int(np.argmax(retrieval == train[0]))
    run = slice(start, start + len(train))
    if np.array_equal(retrieval[run], train):
        retrieval_rows, query_rows = read_rows(str(path), arrays, [retrieval, query])
        train_rows = retrieval_rows if len(train) == len(retrieval) else retrieval_rows.part(run)
    else:
        retrieval_rows, query_rows, train_rows = read_rows(str(path), arrays, [retrieval, query, train])
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
