"""Data sets of image-text pairs: read, checked, and held once as contiguous tensors.

A data set is a folder ``data/<name>/`` with ``train.pkl``, ``query.pkl`` and ``retrieval.pkl``, or with one
``.h5``, ``.mat`` or ``.npz`` file; ``data/README.md`` describes the layouts and key names.
``python load_data.py NAME`` checks a data set and prints what is in it; ``--convert OUT.h5`` also writes it
as one HDF5 file.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Callable, Iterable, Mapping, Sequence, TypeVar

import h5py
import numpy as np
import torch

from formats.arrays import Array, block_rows, library_errors, wrap
from formats.pickles import read_pickle
from formats.reading import READERS, open_arrays
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import write_atomically

T = TypeVar("T")
SPLITS = ("train", "query", "retrieval")
SPLIT_SPELLINGS = {"train": "train", "tr": "train", "query": "query", "test": "query", "te": "query",
                   "retrieval": "retrieval", "db": "retrieval"}
FIELDS = ("image", "text", "label")
FIELD_SPELLINGS = {"image": "image", "images": "image", "I": "image",
                   "text": "text", "texts": "text", "tags": "text", "T": "text",
                   "label": "label", "labels": "label", "L": "label"}
LAYOUTS = (  # how a single file names the arrays of its splits: train/image, train_image, I_tr
    re.compile(r"(?P<split>[^/]+)/(?P<field>[^/]+)"),
    re.compile(r"(?P<split>[^/_]+)_(?P<field>[^/]+)"),
    re.compile(r"(?P<field>[ITL])_(?P<split>[^/_]+)"),
)
EXPECTED_KEYS = ("I_tr, T_tr, L_tr, I_te, T_te, L_te, or image, text, label with train_idx, query_idx, "
                 "retrieval_idx, or train/image, train/text, ... (with labels or without)")
EXPECTED_SPLITS = "train, query, retrieval, or train, test"
MAPPED_BYTES = 1 << 30  # float32 features from this size on stay in their HDF5 file, if they lie there uncompressed
LARGEST = 1e17  # of a feature: the sum of their squares must fit float32
MAX_CLASSES = 10_000  # a label column with more values than this holds ids, not classes


# --- what a caller gets ---------------------------------------------------------------------------


@dataclass
class Split:
    """The pairs of one split: row i of every member belongs to the same pair."""

    image: torch.Tensor  # (n, d_i) float32, contiguous
    text: torch.Tensor  # (n, d_t) float32, contiguous
    label: torch.Tensor  # (n, c) uint8, 0 or 1, contiguous; (n, 0) without labels
    index: np.ndarray  # (n,) int64, the row's number in its file
    meta: dict[str, np.ndarray]  # the file's further columns by name, each (n,)

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Dataset:
    """A data set that passed every check. Train rows that are a run of retrieval's share their memory."""

    name: str
    path: Path | None  # the file or folder it came from; None if it was made from arrays
    train: Split
    query: Split
    retrieval: Split
    label_names: list[str] | None
    warnings: list[str] = field(default_factory=list)  # what is odd but stops nothing, with counts

    @property
    def image_dim(self) -> int:
        return self.train.image.shape[1]

    @property
    def text_dim(self) -> int:
        return self.train.text.shape[1]

    @property
    def num_classes(self) -> int:
        """0 if the data set has no labels."""
        return self.train.label.shape[1]

    def require_labels(self, why: str) -> None:
        """Raise InputError if there are none; ``why`` says what they are for."""
        if not self.num_classes:
            raise InputError(f"{self.path or self.name}: found no labels; {why}, which needs a label array in every "
                             f"split (ICMR.py trains and tests hash codes without them)")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shapes and bytes of all features and labels, whatever file they came in."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for key in FIELDS:
                array = getattr(getattr(self, split), key).numpy()
                digest.update(f"{split}/{key} {array.shape} {array.dtype}\n".encode())
                digest.update(array)
        return digest.hexdigest()


def load_dataset(name_or_path: str | Path, data_dir: str | Path = "data") -> Dataset:
    """Load and check a data set: a folder of ``data_dir`` by its name, or any folder or file by its path.

    Raises InputError, one line with file, key, found and expected, for whatever is not a sound data set.
    """
    path = _locate(str(name_or_path), Path(data_dir))
    with library_errors(str(path)):
        if path.is_dir():
            name, inside = path.resolve().name, sorted(path.iterdir())
        else:
            name, inside = path.stem, [path]
    files = [file for file in inside if file.suffix.lower() in READERS]
    pickles = [file for file in inside if file.suffix.lower() == ".pkl"]
    if len(files) == 1 and not pickles:
        return _finish(name, files[0], *_read_file(files[0]))
    if files or [file.name for file in pickles] != sorted(f"{split}.pkl" for split in SPLITS):
        found = _listing(file.name for file in pickles + files or inside)
        raise InputError(f"{path}: found {found}; expected a folder with train.pkl, query.pkl, retrieval.pkl "
                         f"or with exactly one {', '.join(READERS)} file, or the path of such a file")
    rows, label_names = {}, None
    for split in SPLITS:
        file = path / f"{split}.pkl"
        arrays = read_pickle(file)
        if "label_names" in arrays:
            names = _read_names(arrays.pop("label_names"))
            if label_names not in (None, names):
                raise InputError(f"{file}: label_names: found other names than in another split; expected the same")
            label_names = names
        rows[split] = _read_rows(str(file), arrays)[0]
    return _finish(name, path, rows, label_names)


def dataset_from_arrays(train: Mapping[str, object], query: Mapping[str, object],
                        retrieval: Mapping[str, object], label_names: list[str] | None = None,
                        name: str = "arrays") -> Dataset:
    """A data set from arrays in memory, checked like one from a file.

    Each split maps ``image`` to (n, d_i), ``text`` to (n, d_t), ``label`` to (n, c) or (n,), and any further
    column to (n,); ``label`` may be missing from all three. The same object as ``train`` and ``retrieval`` is held
    once. Raises InputError.
    """
    tables = {split: wrap(f"{name}: {split}", table) for split, table in (("train", train), ("query", query))}
    tables["retrieval"] = tables["train"] if retrieval is train else wrap(f"{name}: retrieval", retrieval)
    return _finish(name, None, _read_tables(name, tables), label_names)


def _locate(name: str, data_dir: Path) -> Path:
    with library_errors(str(data_dir)):
        names = sorted(item.name for item in data_dir.iterdir() if item.is_dir()) if data_dir.is_dir() else []
    same = [other for other in names if other.casefold() == name.casefold()]
    if name in names or len(same) == 1:
        return data_dir / (name if name in names else same[0])
    if name and os.path.exists(name):
        return Path(name)
    close = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise InputError(f"no data set {name!r}: found {_listing(names)} in {data_dir.absolute()}; "
                     f"expected one of these, a path, or another folder with --data_dir{hint}")


def _listing(names: Iterable[object]) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:20]) + ", ..." * (len(shown) > 20) if shown else "nothing"


# --- from the arrays of a table to checked rows ---------------------------------------------------


@dataclass
class _Rows:
    """A split as read; its labels are not yet in the form that all splits share."""

    image: np.ndarray  # (n, d_i) float32
    text: np.ndarray  # (n, d_t) float32
    label: np.ndarray  # (n, c) uint8 multi-hot, or (n,) int64 class numbers
    index: np.ndarray
    meta: dict[str, np.ndarray]
    left_out: list[str]  # arrays that are not a column of the table, in words
    found: str  # where the table is and the keys in it, in words

    def run(self, part: slice) -> _Rows:
        return _Rows(self.image[part], self.text[part], self.label[part], self.index[part],
                     {key: column[part] for key, column in self.meta.items()}, self.left_out, self.found)


def _read_rows(where: str, arrays: Mapping[str, Array],
               selections: Sequence[np.ndarray | None] = (None,)) -> list[_Rows]:
    """Read each array of a table once, and deal its rows out to the selections (None: all rows, in order)."""
    labelled = any(FIELD_SPELLINGS.get(key) == "label" for key in arrays)
    image, text, *label = fields = [_pick(where, arrays, name) for name in FIELDS if name != "label" or labelled]
    for array in (image, text):
        _check_features(array)
    count = image.shape[0]
    for array in fields[1:]:
        if array.shape[:1] != (count,):
            raise InputError(f"{array.where}: found shape {array.shape}; "
                             f"expected {count:,} rows, as {image.where} has")
    if count == 0:
        raise InputError(f"{image.where}: found 0 rows; expected at least one pair")
    columns, left_out = {}, []
    for key, array in arrays.items():
        if array in fields:
            continue
        if array.is_column() and max(array.shape) == count and array.dtype.kind in "iufbSU":
            columns[key] = _checked_text(array, array.column())
        else:
            left_out.append(f"{array.where}: {array.dtype} of shape {array.shape} is no column of the {count:,} rows "
                            f"and is left out")
    indices = [np.arange(count) if rows is None else rows for rows in selections]
    # Labels first: those of a pickle, in int64, are let go before the features are copied.
    labels = (_read_labels(*label, selections) if labelled else
              [np.empty((len(rows), 0), np.uint8) for rows in indices])
    images, texts = (_deal(array, selections, np.float32, _check_finite) for array in (image, text))
    metas = [{key: column[index] for key, column in columns.items()} for index in indices]
    found = f"{where}: found keys {_listing(arrays)}"
    return [_Rows(*parts, left_out, found) for parts in zip(images, texts, labels, indices, metas)]


def _checked_text(array: Array, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "U" and column.dtype.itemsize:
        signs = np.ascontiguousarray(column).view(f"{column.dtype.byteorder}u4").reshape(len(column), -1)
        bad = ((signs >= 0xD800) & (signs <= 0xDFFF) | (signs > 0x10FFFF)).any(axis=1)
        if bad.any():
            raise InputError(f"{array.where}: row {bad.argmax()} is not valid text; expected whole characters")
    return column


def _pick(where: str, arrays: Mapping[str, Array], name: str) -> Array:
    """The array of a field. Where several spellings of it are there, the plain one is meant."""
    spelled = [key for key in arrays if FIELD_SPELLINGS.get(key) == name]
    if name in spelled or len(spelled) == 1:
        return arrays[name if name in spelled else spelled[0]]
    problem = f"several {name} arrays" if spelled else f"no {name} array"
    raise InputError(f"{where}: {problem}: found keys {_listing(spelled or arrays)}; expected one {name!r}")


def _check_features(array: Array) -> None:
    if len(array.shape) != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected numbers, (rows, features)")


def _deal(array: Array, selections: Sequence[np.ndarray | None], dtype: type,
          check: Callable[[np.ndarray, Array, int], None]) -> list[np.ndarray]:
    """Stream ``array`` through ``check`` and return the rows of each selection as one contiguous array.

    A large array that lies in its file as it would in memory stays there, if every selection is a run of its rows.
    """
    count, width = array.shape
    runs = [slice(0, count) if rows is None else _as_run(rows) for rows in selections]
    if array.place and array.dtype == dtype and count * width * array.dtype.itemsize >= MAPPED_BYTES and all(runs):
        start = 0
        for block in array.blocks():
            check(block, array, start)
            start += len(block)
        return [array.map()[run] for run in runs]
    try:
        outs = [np.empty((count if rows is None else len(rows), width), dtype) for rows in selections]
    except MemoryError:
        raise InputError(f"{array.where}: found shape {array.shape}; "
                         f"expected what fits into memory as {np.dtype(dtype)}") from None
    places = [np.full(count, -1) for _ in selections]  # where each row of the file goes; -1: nowhere
    for rows, place in zip(selections, places):
        if rows is not None:
            place[rows] = np.arange(len(rows))
    start = 0
    for block in array.blocks():
        stop = start + len(block)
        if block.dtype == bool:
            block = block.view(np.uint8)  # the bool of a damaged file may be neither 0 nor 1
        if dtype == np.float32:
            with np.errstate(over="ignore"):  # the check finds the infinity
                block = block.astype(np.float32, copy=False)
        check(block.T if array.transposed else block, array, 0 if array.transposed else start)
        for rows, place, out in zip(selections, places, outs):
            if array.transposed:
                out[:, start:stop] = block.T if rows is None else block.T[rows]
            elif rows is None:
                out[start:stop] = block
            else:
                kept = place[start:stop] >= 0
                out[place[start:stop][kept]] = block[kept]
        start = stop
    array.stream = None  # it is read once; this lets go of what was in memory
    return outs


def _as_run(rows: np.ndarray) -> slice | None:
    return slice(int(rows[0]), int(rows[0]) + len(rows)) if (np.diff(rows) == 1).all() else None


def _check_finite(block: np.ndarray, array: Array, first_row: int) -> None:
    sound = np.abs(block) <= LARGEST  # not so for NaN
    if not sound.all():
        row, column = np.argwhere(~sound)[0]
        raise InputError(f"{array.where}: found {block[row, column]} in row {first_row + row}; "
                         f"expected finite float32 numbers, at most {LARGEST:g} in size")


def _check_multi_hot(block: np.ndarray, array: Array, first_row: int) -> None:
    good = (block == 0) | (block == 1)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise InputError(f"{array.where}: found {block[row, column]} in row {first_row + row}; "
                         "expected 0 or 1 (or a single column of class numbers)")


def _read_labels(array: Array, selections: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Several columns are multi-hot. One column holds class numbers, even if all of them are 0 or 1."""
    if array.dtype.kind in "fiub" and len(array.shape) == 2 and array.shape[1] > 1:
        return _deal(array, selections, np.uint8, _check_multi_hot)
    if array.dtype.kind not in "fiub" or not array.is_column():
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected 0 and 1, (rows, classes), or class numbers, (rows,)")
    numbers = _whole_numbers(array, 2**31, "class numbers")
    return [numbers if rows is None else numbers[rows] for rows in selections]


def _whole_numbers(array: Array, limit: int, meaning: str) -> np.ndarray:
    """A column of whole numbers from 0 to ``limit - 1``, as int64; MATLAB keeps them as doubles."""
    numbers = array.column().astype(np.float64)
    bad = np.flatnonzero(~((numbers >= 0) & (numbers < limit) & (numbers == np.floor(numbers))))
    if bad.size:
        raise InputError(f"{array.where}: found {numbers[bad[0]]:g} in row {bad[0]}; "
                         f"expected {meaning}, whole and from 0 to {limit - 1}"
                         + (", counted from 0" if numbers[bad[0]] == limit and numbers.min() == 1 else ""))
    return numbers.astype(np.int64)


# --- the layouts of a single file -----------------------------------------------------------------


def _read_file(path: Path) -> tuple[dict[str, _Rows], list[str] | None]:
    """The rows of each split of one file, and its class names if it has any."""
    with open_arrays(path) as arrays:
        label_names = _read_names(arrays.pop("label_names")) if "label_names" in arrays else None
        layouts = [tables for pattern in LAYOUTS if (tables := _tables(arrays, pattern))]
        whole = any(FIELD_SPELLINGS.get(key) == "image" for key in arrays)
        if len(layouts) + whole != 1:
            problem = "more than one layout" if layouts else "no layout that is known"
            raise InputError(f"{path}: {problem}: found keys {_listing(arrays)}; expected {EXPECTED_KEYS}")
        if whole:
            return _read_indexed(path, arrays), label_names
        rows = _read_tables(str(path), _name_splits(path, layouts[0]))
        used = {id(array) for table in layouts[0].values() for array in table.values()}
        if unused := [key for key, array in arrays.items() if id(array) not in used]:
            rows["train"].left_out.append(f"{path}: {_listing(unused)}: in no split, and left out")
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
    # Images make an unknown split, such as I_val, which is refused later; a lone key like alt_text does not.
    tables = {split: table for split, table in tables.items()
              if "image" in fields[split] or fields[split] and split in SPLIT_SPELLINGS}
    return tables if tables.keys() & SPLIT_SPELLINGS.keys() else {}


def _name_splits(path: Path, found: Mapping[str, T]) -> dict[str, T]:
    """Train, query and retrieval by their plain names. With test for query, train can serve as retrieval."""
    splits: dict[str, T] = {}
    for spelling, item in found.items():
        split = SPLIT_SPELLINGS.get(spelling)
        if split is None or split in splits:
            problem = "unknown" if split is None else "repeated"
            raise InputError(f"{path}: {problem} split {spelling!r}: found {_listing(found)}; "
                             f"expected {EXPECTED_SPLITS}")
        splits[split] = item
    if "train" in splits and found.keys() & {"test", "te"}:
        splits.setdefault("retrieval", splits["train"])
    for split in SPLITS:
        if split not in splits:
            raise InputError(f"{path}: no {split} split: found {_listing(found)}; expected {EXPECTED_SPLITS}")
    return splits


def _read_tables(where: str, tables: Mapping[str, Mapping[str, Array]]) -> dict[str, _Rows]:
    rows = {split: _read_rows(f"{where}: {split}", tables[split])[0] for split in ("train", "query")}
    if tables["retrieval"] is tables["train"]:
        return rows | {"retrieval": rows["train"]}
    return rows | {"retrieval": _read_rows(f"{where}: retrieval", tables["retrieval"])[0]}


def _read_indexed(path: Path, arrays: dict[str, Array]) -> dict[str, _Rows]:
    """Whole arrays and, for each split, the numbers of its rows, counted from 0."""
    image = _pick(str(path), arrays, "image")
    _check_features(image)
    given = {key.removesuffix("_idx"): arrays.pop(key) for key in list(arrays) if key.endswith("_idx") and (
        key.removesuffix("_idx") in SPLIT_SPELLINGS or arrays[key].shape != image.shape[:1])}  # else it is a column
    if not given:
        raise InputError(f"{path}: nothing says which rows are in which split: found keys {_listing(arrays)}; expected "
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
        database, asked = _read_rows(str(path), arrays, [retrieval, query])
        learn = database if len(train) == len(retrieval) else database.run(run)
    else:
        database, asked, learn = _read_rows(str(path), arrays, [retrieval, query, train])
    return {"train": learn, "query": asked, "retrieval": database}


def _row_numbers(array: Array, count: int) -> np.ndarray:
    if not array.is_column() or array.dtype.kind not in "iuf" or array.shape == (0,):
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected a list of row numbers")
    numbers = _whole_numbers(array, count, "row numbers")
    values, times = np.unique(numbers, return_counts=True)
    if repeated := values[times > 1].tolist():
        raise InputError(f"{array.where}: found row {repeated[0]} more than once; expected it once")
    return numbers


# --- from rows to a data set ----------------------------------------------------------------------


def _finish(name: str, path: Path | None, rows: Mapping[str, _Rows],
            label_names: list[str] | None) -> Dataset:
    where = str(path or name)
    for key in ("image", "text"):
        _check_widths(where, f"{key} features", {split: getattr(rows[split], key) for split in SPLITS})
    label_names = _unify_labels(where, rows, label_names)
    learn, database = rows["train"], rows["retrieval"]
    if learn is not database:  # UCMFH's train file repeats the start of its retrieval file: hold it once
        start = database.run(slice(len(learn.index)))
        if all(np.array_equal(getattr(learn, key), getattr(start, key)) for key in FIELDS):
            learn.image, learn.text, learn.label = start.image, start.text, start.label
    splits = {split: _to_split(rows[split]) for split in SPLITS}
    if learn is database:
        splits["retrieval"] = splits["train"]
    left_out = dict.fromkeys(line for part in rows.values() for line in part.left_out)
    return Dataset(name, path, **splits, label_names=label_names, warnings=[*left_out, *_oddities(splits)])


def _to_split(rows: _Rows) -> Split:
    tensors = (torch.from_numpy(array) for array in (rows.image, rows.text, rows.label))
    return Split(*tensors, rows.index, rows.meta)


def _check_widths(where: str, what: str, arrays: Mapping[str, np.ndarray]) -> None:
    widths = {split: array.shape[1] for split, array in arrays.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{width} in {split}" for split, width in widths.items())
        raise InputError(f"{where}: {what} differ in number: found {found}; expected as many in every split")


def _unify_labels(where: str, rows: Mapping[str, _Rows], label_names: list[str] | None) -> list[str] | None:
    """Make class numbers one-hot over the classes that occur in any split; return the names of these."""
    parts = {id(part): part for part in rows.values()}.values()
    without = [split for split in SPLITS if rows[split].label.shape[1:] == (0,)]
    if 0 < len(without) < len(SPLITS):
        raise InputError(f"{rows[without[0]].found}, hence no label array in {', '.join(without)}; expected one in "
                         f"every split, or in none")
    if without and label_names is not None:
        raise InputError(f"{where}: found label_names, but no label array; expected both, or none")
    if len({part.label.ndim for part in parts}) > 1:
        raise InputError(f"{where}: label: found class numbers in one split and several columns in another; "
                         "expected one form")
    if rows["train"].label.ndim == 1:
        classes = np.unique(np.concatenate([part.label for part in parts]))
        if len(classes) > MAX_CLASSES:
            raise InputError(f"{where}: label: found {len(classes):,} different values; "
                             f"expected class numbers, at most {MAX_CLASSES:,} of them")
        for part in parts:
            part.label = (part.label[:, None] == classes).astype(np.uint8)
        if label_names is not None:
            if 0 < classes[0] and classes[-1] < len(label_names) != len(classes):
                raise InputError(f"{where}: label_names: found {len(label_names)} names for class numbers from "
                                 f"{classes[0]} to {classes[-1]}, which may be counted from 0 or from 1; expected a "
                                 f"name for each of the {len(classes)} classes that occur, in their order")
            first = min(int(classes[0]), 1)  # classes are counted from 0 or from 1
            if classes[-1] - first < len(label_names):
                label_names = [label_names[number - first] for number in classes]
    _check_widths(where, "classes", {split: rows[split].label for split in SPLITS})
    width = rows["train"].label.shape[1]
    if label_names is not None and len(label_names) != width:
        raise InputError(f"{where}: label_names: found {len(label_names)} names; "
                         f"expected one for each of {width} classes")
    return label_names


def _oddities(splits: Mapping[str, Split]) -> list[str]:
    found = []
    for name, split in splits.items():
        if split.label.shape[1] and (unlabelled := int((split.label.amax(1) == 0).sum())):
            found.append(f"{name}: {unlabelled:,} of {len(split):,} rows have no label: "
                         "nothing is relevant to them")
        for key in ("image", "text"):
            features = getattr(split, key)
            blocks = features.split(block_rows(features.shape, 4))
            if zero := sum(int((block.count_nonzero(1) == 0).sum()) for block in blocks):
                found.append(f"{name}: {zero:,} of {len(split):,} rows have {key} features that are all zero")
    query, retrieval = splits["query"], splits["retrieval"]
    if query.label.shape[1]:
        labelled = query.label.amax(1) > 0
        missed = labelled & (query.label[:, retrieval.label.amax(0) > 0].sum(1) == 0)
        if count := int(missed.sum()):
            found.append(f"query: {count:,} of {len(query):,} rows share no label with any item of retrieval")
        if (query.label.amin(0) * retrieval.label.amin(0)).any():
            found.append("every item is relevant to every query: one label is common to all of them")
    else:
        columns = f" (columns found: {_listing(query.meta)})" if query.meta else ""
        found.append(f"no labels{columns}: tests count how often a query finds its own partner, and give no mAP")
        if len(query) <= 10:
            found.append(f"query: with {len(query)} rows, R@10 is 1 whatever the codes")
    others = [retrieval] + [splits["train"]] * (_offset(splits["train"], retrieval) is None)
    known = np.concatenate([_row_hashes(split) for split in others])
    if count := int(np.isin(_row_hashes(query), known).sum()):
        found.append(f"query: {count:,} of {len(query):,} rows have the features of a row of train or retrieval")
    return found


def _row_hashes(split: Split) -> np.ndarray:
    """A number (n,) for the features of each row, the same for the same bits."""
    random = np.random.default_rng(0)
    hashes = np.zeros(len(split), np.uint64)
    for features in (split.image, split.text):
        factors = random.integers(1, 2**63, features.shape[1], np.uint64)
        rows = block_rows(features.shape, 8)
        for start in range(0, len(hashes), rows):
            hashes[start:start + rows] += features[start:start + rows].numpy().view(np.uint32) @ factors
    return hashes


# --- the command ----------------------------------------------------------------------------------


def save_hdf5(dataset: Dataset, path: str | Path) -> None:
    """Write ``dataset`` as whole arrays with row numbers; the file appears complete or not at all.

    Loading it gives the same fingerprint. Raises InputError if it cannot be written.
    """
    if Path(path).suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{path}: found file type {Path(path).suffix!r}; expected .h5")
    if dataset.path is not None and os.path.exists(path) and os.path.samefile(dataset.path, path):
        raise InputError(f"{path}: is the data set's own file; expected another")
    write_atomically(path, functools.partial(_write_hdf5, dataset), mode="w+b")


def attributes(dataset: Dataset) -> dict[str, object]:
    """The attributes of the HDF5 file that the data set came from, such as its licence and encoders; none of others."""
    if dataset.path is None or dataset.path.suffix.lower() not in (".h5", ".hdf5"):
        return {}
    with library_errors(str(dataset.path)), h5py.File(dataset.path) as file:
        return dict(file.attrs)


def _write_hdf5(dataset: Dataset, target: IO[bytes]) -> None:
    offset = _offset(dataset.train, dataset.retrieval)
    parts = [dataset.retrieval, dataset.query] + [dataset.train] * (offset is None)
    starts = np.cumsum([0, *map(len, parts)])
    first = {"train": starts[2] if offset is None else offset, "query": starts[1], "retrieval": 0}
    with h5py.File(target, "w") as file:
        file.attrs.update(attributes(dataset))
        for key in FIELDS if dataset.num_classes else FIELDS[:2]:
            arrays = [getattr(part, key).numpy() for part in parts]
            stored = file.create_dataset(key, (starts[-1], arrays[0].shape[1]), arrays[0].dtype)
            for start, array in zip(starts, arrays):
                stored[start:start + len(array)] = array
        for split in SPLITS:
            file[f"{split}_idx"] = np.arange(first[split], first[split] + len(getattr(dataset, split)))
        columns = {key: np.concatenate([part.meta[key] for part in parts]) for key in _common_columns(dataset)}
        if dataset.label_names is not None:
            columns["label_names"] = np.array(dataset.label_names)
        for key, column in columns.items():
            if column.dtype.kind == "U":  # at a fixed length: HDF5 can hang on a damaged heap of strings
                column = np.char.encode(column, "utf-8")
                column = column.astype(h5py.string_dtype("utf-8", max(1, column.dtype.itemsize)))
            file[key] = column


def _common_columns(dataset: Dataset) -> list[str]:
    """The columns that every split has; other columns have no place in one table of all rows."""
    return sorted(set.intersection(*(set(getattr(dataset, split).meta) for split in SPLITS)))


def _offset(split: Split, database: Split) -> int | None:
    """Where ``split`` begins in ``database`` if it is held there; None if it has memory of its own."""
    rows, rest = divmod(split.image.data_ptr() - database.image.data_ptr(), 4 * database.image.shape[1])
    return rows if rest == 0 and 0 <= rows <= len(database) - len(split) else None


def _describe(dataset: Dataset) -> str:
    lines = [f"{dataset.name} ({dataset.path}): {dataset.image_dim} image features, "
             f"{dataset.text_dim} text features, {dataset.num_classes or 'no'} classes"]
    for name in SPLITS:
        split = getattr(dataset, name)
        held = ", a run of retrieval" * (name == "train" and _offset(split, dataset.retrieval) is not None)
        labels = f", {split.label.sum(dtype=torch.int64) / len(split):.2f} labels a row" * (dataset.num_classes > 0)
        lines.append(f"  {name:<9} {len(split):>9,} pairs{labels}{held}")
    lines += [f"  warning: {warning}" for warning in dataset.warnings]
    return "\n".join([*lines, f"  fingerprint {dataset.fingerprint}"])


@exit_on_bad_input
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Check a data set and print what is in it.")
    parser.add_argument("dataset", help="the name of a folder in --data_dir, or a path")
    parser.add_argument("--data_dir", default="data", help="where the data sets are (default: data)")
    parser.add_argument("--convert", metavar="OUT.h5", help="also write the data set as one HDF5 file")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, options.data_dir)
    print(_describe(dataset))
    if options.convert:
        save_hdf5(dataset, options.convert)
        some = {key for split in SPLITS for key in getattr(dataset, split).meta} - set(_common_columns(dataset))
        if some:
            print(f"left out, since not every split has it: {', '.join(sorted(some))}")
        print(f"written to {options.convert}")


if __name__ == "__main__":
    main()
