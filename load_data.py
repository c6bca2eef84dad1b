"""Data sets of image-text pairs: read, checked and held once as contiguous tensors.

A data set is a folder ``data/<name>/`` with ``train.pkl``, ``query.pkl`` and ``retrieval.pkl``, or with one ``.h5``,
``.mat`` or ``.npz`` file; ``data/README.md`` describes the layouts and key names. ``python load_data.py NAME``
checks a data set and prints what is in it; ``--convert OUT.h5`` writes it as one HDF5 file.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import hashlib
import math
import os
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import h5py
import numpy as np
import scipy.io
import scipy.sparse
import torch

from errors import InputError, exit_on_bad_input

SPLITS = ("train", "query", "retrieval")
SPELLINGS = {"image": "image", "images": "image", "text": "text", "texts": "text", "tags": "text",
             "label": "label", "labels": "label"}
CLASSIC_FIELDS = {"I": "image", "T": "text", "L": "label"}
CLASSIC_SPLITS = {"tr": "train", "te": "query", "db": "retrieval"}
FILE_TYPES = (".h5", ".hdf5", ".mat", ".npz")
BLOCK_BYTES = 8 << 20  # arrays are read and checked this much at a time
MAX_CLASSES = 10_000  # a class index with more classes is a column of ids


# --- what a caller gets -----------------------------------------------------------------------------------------------


@dataclass
class Split:
    """The pairs of one split; row i of every member belongs to the same pair."""

    image: torch.Tensor  # (n, d_i) float32, contiguous
    text: torch.Tensor  # (n, d_t) float32, contiguous
    label: torch.Tensor  # (n, c) uint8 in {0, 1}, contiguous
    index: np.ndarray  # (n,) int64: the row's number in its file
    meta: dict[str, np.ndarray] = field(default_factory=dict)  # further per-row columns, each (n,)

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Dataset:
    """A validated data set. Where train rows are the first or all rows of retrieval, both share memory."""

    name: str
    path: Path | None  # the file or folder it came from; None when made from arrays
    train: Split
    query: Split
    retrieval: Split
    label_names: list[str] | None = None
    warnings: list[str] = field(default_factory=list)  # oddities that do not stop a run, with their counts

    @property
    def image_dim(self) -> int:
        return self.train.image.shape[1]

    @property
    def text_dim(self) -> int:
        return self.train.text.shape[1]

    @property
    def num_classes(self) -> int:
        return self.train.label.shape[1]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shapes and bytes of all features and labels: the same in every file format."""
        digest = hashlib.sha256()
        for split_name in SPLITS:
            for key in ("image", "text", "label"):
                tensor = getattr(getattr(self, split_name), key)
                digest.update(f"{split_name}/{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
                digest.update(tensor.numpy())
        return digest.hexdigest()


# --- arrays that are still in their file ------------------------------------------------------------------------------


@dataclass
class _Array:
    """An array that has not been read yet. ``stream`` yields consecutive blocks of it along the stored first axis."""

    where: str  # "file: key", for messages
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: Callable[[], Iterator[np.ndarray]]
    transposed: bool = False  # stored as its transpose (MATLAB 7.3, Fortran order)

    def blocks(self) -> Iterator[np.ndarray]:
        with _library_errors(self.where):
            yield from self.stream()

    def read(self) -> np.ndarray:
        """The whole array: for labels, indices and strings, which are small."""
        blocks = list(self.blocks())
        array = np.concatenate(blocks) if blocks else np.empty(self.shape[::-1] if self.transposed else self.shape)
        return array.T if self.transposed else array


@contextlib.contextmanager
def _library_errors(where: str) -> Iterator[None]:
    """A damaged file makes pickle, h5py, scipy and zipfile raise almost anything: say which file it was."""
    try:
        yield
    except (InputError, GeneratorExit):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(f"{where}: cannot be read, is it damaged or cut short? "
                         f"({type(error).__name__}: {reason[:200]})") from error


def _block_rows(shape: Sequence[int], itemsize: int) -> int:
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def _in_memory(where: str, value: object) -> _Array:
    """An array, a list of rows or a sparse matrix that is in memory already."""
    array = value.toarray() if scipy.sparse.issparse(value) else np.asarray(value)

    def stream() -> Iterator[np.ndarray]:
        step = _block_rows(array.shape, array.itemsize)
        for start in range(0, len(array), step):
            yield array[start:start + step]

    return _Array(where, array.shape, array.dtype, stream)


def _check_declared_size(where: str, shape: Sequence[int], itemsize: int, path: Path) -> None:
    # No compressor in these formats does better than about 1,000 to 1: a larger promise is damage or a trap.
    if math.prod(shape) * itemsize > 1100 * path.stat().st_size:
        raise InputError(f"{where}: declares shape {tuple(shape)}, more than a file of {path.stat().st_size:,} bytes "
                         "can hold; it is damaged")


# --- pickles ----------------------------------------------------------------------------------------------------------


class _PickledDtype:
    """Stands in for ``numpy.dtype`` in a pickle."""

    def __init__(self, code: str) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufSU]\d{1,6}", code)):
            raise InputError(f"holds an array of type {code!r}; expected numbers or strings")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise InputError(f"has an unknown byte order {state[1]!r}")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _PickledArray:
    """Stands in for ``numpy.ndarray`` in a pickle: a read-only view of the pickle's own bytes."""

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: object, dtype: _PickledDtype, shape: tuple, order: str) -> "_PickledArray":
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
        return self

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, strings, numbers and plain containers, and refuses every other global by its name.

    The numpy classes that a pickle names are not touched either: their ``__setstate__`` trusts its input down to
    memory offsets. Stand-ins rebuild each array from its bytes alone, without a copy. ``find_class`` hands out bound
    methods because a pickle cannot assign to their attributes.
    """

    def find_class(self, module: str, name: str) -> object:
        stand_ins = {
            "numpy.ndarray": None, "numpy.dtype": self._dtype, "_codecs.encode": self._encode,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy.core.multiarray.scalar": self._scalar, "numpy.core.numeric._frombuffer": self._frombuffer,
        }
        wanted = f"{module}.{name}"
        key = re.sub(r"^numpy\._core\.", "numpy.core.", wanted)
        if key not in stand_ins:
            raise InputError(f"refused: the pickle asks for {wanted!r}, and only numpy arrays, numbers, strings, lists "
                             "and dicts are read from pickles; nothing in it was run")
        return stand_ins[key]

    def _dtype(self, code: str, *_align_copy: object) -> _PickledDtype:
        return _PickledDtype(code)

    def _reconstruct(self, _subtype: object, _shape: object, _typecode: object) -> _PickledArray:
        return _PickledArray()

    def _frombuffer(self, data: object, dtype: _PickledDtype, shape: tuple, order: str, *_: object) -> _PickledArray:
        return _PickledArray().fill(data, dtype, shape, order)

    def _scalar(self, dtype: _PickledDtype, data: object) -> np.generic:
        return _PickledArray().fill(data, dtype, (1,), "C").array[0]

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise InputError(f"refused: the pickle encodes as {encoding!r}; numpy only needs latin1")
        return text.encode("latin1")


def _read_pickle(path: Path) -> dict[str, _Array]:
    with _library_errors(str(path)), open(path, "rb") as file:
        try:
            content = _ArrayUnpickler(file, encoding="latin1").load()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a dict with image, text and label")
    arrays = {}
    for key in list(content):
        with _library_errors(f"{path}: {key}"):
            arrays[str(key)] = _in_memory(f"{path}: {key}", content.pop(key))
    return arrays


# --- HDF5 and MATLAB 7.3, MATLAB 5, npz -------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_hdf5(path: Path) -> Iterator[dict[str, _Array]]:
    with open(path, "rb") as file:
        matlab = file.read(10) == b"MATLAB 7.3"
    with contextlib.ExitStack() as stack:
        with _library_errors(str(path)):
            file = stack.enter_context(h5py.File(path, "r"))
            datasets: dict[str, h5py.Dataset] = {}
            # visititems follows neither soft nor external links, so nothing outside the file is opened.
            file.visititems(lambda key, item: datasets.update({key: item}) if isinstance(item, h5py.Dataset) else None)
            arrays = {key: _hdf5_array(path, key, item, matlab) for key, item in datasets.items()
                      if not key.startswith("#")}
        yield arrays


def _hdf5_array(path: Path, key: str, dataset: h5py.Dataset, matlab: bool) -> _Array:
    where = f"{path}: {key}"
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{where}: its data is in another file; expected it inside this one")
    kind = dataset.attrs.get("MATLAB_class", b"")
    if dataset.attrs.get("MATLAB_empty", 0):
        return _in_memory(where, np.empty((0, 0)))
    if kind == b"cell":
        return _in_memory(where, [_matlab_text(dataset.file[r]) for r in dataset[()].T.ravel()])
    if kind == b"char":
        return _in_memory(where, ["".join(map(chr, row)).rstrip() for row in dataset[()].T])
    shape = dataset.shape
    text = h5py.check_string_dtype(dataset.dtype) is not None
    _check_declared_size(where, shape, dataset.dtype.itemsize, path)
    source = dataset.asstr() if text else dataset

    def stream() -> Iterator[np.ndarray]:
        step = _block_rows(shape, dataset.dtype.itemsize)
        if dataset.chunks:  # never decompress a chunk twice
            step = math.ceil(step / dataset.chunks[0]) * dataset.chunks[0]
        for start in range(0, shape[0], step):
            block = source[start:start + step]
            yield block.astype(str) if text else block

    if not shape:
        return _in_memory(where, dataset[()] if not text else str(source[()]))
    dtype = np.dtype(str) if text else dataset.dtype
    return _Array(where, shape[::-1] if matlab else shape, dtype, stream, transposed=matlab)


def _matlab_text(dataset: h5py.Dataset) -> str:
    return "" if dataset.attrs.get("MATLAB_empty", 0) else "".join(map(chr, dataset[()].T.ravel()))


@contextlib.contextmanager
def _open_mat(path: Path) -> Iterator[dict[str, _Array]]:
    if h5py.is_hdf5(path):
        with _open_hdf5(path) as arrays:
            yield arrays
        return
    arrays = {}
    with _library_errors(str(path)):
        for key, shape, kind in scipy.io.whosmat(path):
            if kind == "struct":
                record = scipy.io.loadmat(path, variable_names=[key])[key]
                if record.size == 1:
                    arrays |= {f"{key}/{name}": _mat5_value(f"{path}: {key}.{name}", record[name].item())
                               for name in record.dtype.names or ()}
            elif kind in ("cell", "char"):
                arrays[key] = _mat5_value(f"{path}: {key}", scipy.io.loadmat(path, variable_names=[key])[key])
            else:
                arrays[key] = _mat5_array(path, key, shape)
    yield arrays


def _mat5_array(path: Path, key: str, shape: tuple[int, ...]) -> _Array:
    where = f"{path}: {key}"
    _check_declared_size(where, shape, 1, path)

    def stream() -> Iterator[np.ndarray]:
        yield from _in_memory(where, scipy.io.loadmat(path, variable_names=[key])[key]).stream()

    return _Array(where, shape, np.dtype(float), stream)  # MATLAB 5 stores doubles in the smallest type that fits


def _mat5_value(where: str, value: object) -> _Array:
    if isinstance(value, np.ndarray) and value.dtype == object:  # a cell array, of strings
        value = [item.item() if isinstance(item, np.ndarray) and item.size == 1 else "" for item in value.ravel()]
    return _in_memory(where, value)


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[dict[str, _Array]]:
    with contextlib.ExitStack() as stack:
        with _library_errors(str(path)):
            archive = stack.enter_context(zipfile.ZipFile(path))
            arrays = {info.filename.removesuffix(".npy"): _npy_array(path, archive, info)
                      for info in archive.infolist() if info.filename.endswith(".npy")}
        yield arrays


def _npy_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Array:
    where = f"{path}: {info.filename.removesuffix('.npy')}"

    def header(member: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(member)
        if version not in read:
            raise InputError(f"{where}: .npy version {version}; expected 1.0 or 2.0, arrays of numbers or strings")
        return read[version](member)

    with archive.open(info) as member:
        shape, fortran, dtype = header(member)
        if dtype.hasobject:
            raise InputError(f"{where}: an array of Python objects, which could run code; "
                             "expected numbers or strings (save it with a plain dtype)")
        if member.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise InputError(f"{where}: declares {dtype} {shape} but holds {info.file_size - member.tell():,} bytes")
    _check_declared_size(where, shape, dtype.itemsize, path)
    stored = shape[::-1] if fortran else shape

    def stream() -> Iterator[np.ndarray]:
        with archive.open(info) as member:
            header(member)
            if not stored:
                yield np.frombuffer(member.read(), dtype)
                return
            step = _block_rows(stored, dtype.itemsize)
            for start in range(0, stored[0], step):
                block = (min(step, stored[0] - start), *stored[1:])
                yield np.frombuffer(member.read(math.prod(block) * dtype.itemsize), dtype).reshape(block)

    return _Array(where, shape, dtype, stream, transposed=fortran)


_OPEN = {".h5": _open_hdf5, ".hdf5": _open_hdf5, ".mat": _open_mat, ".npz": _open_npz}


# --- reading and checking rows ----------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """A split as read, before labels of all splits are brought to one form."""

    image: np.ndarray
    text: np.ndarray
    label: np.ndarray  # (n, c) uint8 multi-hot or (n,) int64 class index
    index: np.ndarray
    meta: dict[str, np.ndarray]

    def first(self, start: int, stop: int) -> "_Rows":
        part = slice(start, stop)
        return _Rows(self.image[part], self.text[part], self.label[part], self.index[part],
                     {key: column[part] for key, column in self.meta.items()})


def _read_rows(where: str, arrays: Mapping[str, _Array], selections: Sequence[np.ndarray | None]) -> list[_Rows]:
    """Read the fields of one table once and deal its rows out to the selections (None: all rows, in order)."""
    fields = {}
    for key, array in arrays.items():
        name = SPELLINGS.get(key)
        if name in fields:
            raise InputError(f"{where}: both {fields[name].where} and {array.where}; expected one {name} array")
        if name:
            fields[name] = array
    for name in ("image", "text", "label"):
        if name not in fields:
            raise InputError(f"{where}: key {name!r} is missing; found {_listing(arrays)}")
    for name in ("image", "text"):
        _check_feature_type(fields[name])
    count = fields["image"].shape[0]
    for name in ("text", "label"):
        if not fields[name].shape or fields[name].shape[0] != count:
            raise InputError(f"{where}: row counts differ: {fields['image'].where} has {count:,}, {fields[name].where} "
                             f"has shape {fields[name].shape}; expected one row a pair in each")
    if count == 0:
        raise InputError(f"{where}: empty, 0 rows; expected at least one pair")

    sizes = [count if rows is None else len(rows) for rows in selections]
    # Labels first: a pickle's label matrix is int64 and is let go before the features are copied.
    label_parts = _read_labels(fields["label"], selections, sizes)
    parts = {}
    for name in ("image", "text"):
        array = fields[name]
        out = [np.empty((size, array.shape[1]), np.float32) for size in sizes]
        _deal(array, selections, out, _check_finite)
        parts[name] = out
        array.stream = iter  # let go of an array that was in memory
    meta = {key: column for key, array in arrays.items() if key not in SPELLINGS
            and (column := _meta_column(array, count)) is not None}
    indices = [np.arange(count) if rows is None else rows for rows in selections]
    return [_Rows(parts["image"][i], parts["text"][i], label_parts[i], index,
                  {key: column[index] for key, column in meta.items()}) for i, index in enumerate(indices)]


def _deal(array: _Array, selections: Sequence[np.ndarray | None], outs: Sequence[np.ndarray],
          check: Callable[[np.ndarray, _Array, int], None]) -> None:
    """Stream ``array`` through ``check`` and put row ``selections[s][i]`` into ``outs[s][i]``, converting types."""
    if not array.transposed:
        places = []
        for rows in selections:
            place = np.full(array.shape[0], -1)
            place[slice(None) if rows is None else rows] = np.arange(array.shape[0] if rows is None else len(rows))
            places.append(place)
    start = 0
    for block in array.blocks():
        with np.errstate(over="ignore"):  # the check sees the infinity
            block = block if outs[0].dtype == np.uint8 else block.astype(np.float32, copy=False)
        check(block.T if array.transposed else block, array, 0 if array.transposed else start)
        stop = start + len(block)
        for rows, out, place in zip(selections, outs, selections if array.transposed else places):
            if array.transposed:
                out[:, start:stop] = block.T if rows is None else block.T[rows]
            else:
                kept = place[start:stop] >= 0
                out[place[start:stop][kept]] = block[kept]
        start = stop


def _check_feature_type(array: _Array) -> None:
    if len(array.shape) != 2 or array.shape[1] == 0:
        raise InputError(f"{array.where}: shape {array.shape}; expected (rows, features)")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{array.where}: type {array.dtype}; expected numbers")


def _check_finite(block: np.ndarray, array: _Array, first_row: int) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(f"{array.where}: row {first_row + row} has {block[row, column]} (column {column} of its block); "
                         "expected finite float32 numbers")


def _check_multi_hot(block: np.ndarray, array: _Array, first_row: int) -> None:
    good = (block == 0) | (block == 1)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise InputError(f"{array.where}: row {first_row + row} has label value {block[row, column]}; "
                         "expected 0 or 1 (or a single column of class numbers)")


def _read_labels(array: _Array, selections: Sequence[np.ndarray | None], sizes: Sequence[int]) -> list[np.ndarray]:
    """Multi-hot (n, c) as uint8; a single column as int64 class numbers (n,)."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"{array.where}: type {array.dtype}; expected 0 / 1 or class numbers")
    if len(array.shape) == 2 and array.shape[1] > 1:
        out = [np.empty((size, array.shape[1]), np.uint8) for size in sizes]
        _deal(array, selections, out, _check_multi_hot)
        return out
    if len(array.shape) > 2 or array.shape[1:] == (0,):
        raise InputError(f"{array.where}: shape {array.shape}; expected (rows, classes) or (rows,)")
    numbers = array.read().reshape(-1)
    good = np.isfinite(numbers) & (numbers >= 0) & (numbers < 2**31) & (numbers == np.floor(numbers))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(f"{array.where}: row {row} has class number {numbers[row]}; expected a whole number from 0 up")
    numbers = numbers.astype(np.int64)
    return [numbers if rows is None else numbers[rows] for rows in selections]


def _meta_column(array: _Array, count: int) -> np.ndarray | None:
    if math.prod(array.shape) != count or max(array.shape, default=0) != count or array.dtype.kind not in "iufbSU":
        return None
    column = array.read().reshape(-1)
    return np.char.decode(column, "utf-8", "replace") if column.dtype.kind == "S" else column


def _listing(names: object) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "") if shown else "nothing"


# --- layouts of a single file -----------------------------------------------------------------------------------------


def _read_file(path: Path) -> tuple[dict[str, _Rows], list[str] | None]:
    with _OPEN[path.suffix.lower()](path) as arrays:
        label_names = arrays.pop("label_names", None)
        names = None if label_names is None else [str(name) for name in label_names.read().reshape(-1)]
        layouts = {pattern: _tables(arrays, pattern) for pattern in ("split/field", "split_field", "field_split")}
        claims = [tables for tables in layouts.values() if any(split in tables for split in SPLITS)]
        whole = any(SPELLINGS.get(key) == "image" for key in arrays)
        if len(claims) + whole > 1:
            raise InputError(f"{path}: more than one layout in one file; found {_listing(arrays)}")
        if whole:
            return _read_indexed(path, arrays), names
        if not claims:
            raise InputError(f"{path}: no known layout; found {_listing(arrays)}; expected I_tr, T_tr, L_tr, I_te, T_te, "
                             "L_te, or image, text, label with query_idx, retrieval_idx, train_idx, or train/image, ...")
        tables = claims[0]
        if extra := sorted(set(tables) - set(SPLITS)):
            raise InputError(f"{path}: unknown split {extra[0]!r}; expected train, query, retrieval")
        missing = [split for split in SPLITS if split not in tables]
        if missing and not (missing == ["retrieval"] and tables is layouts["field_split"]):
            raise InputError(f"{path}: split {missing[0]!r} is missing; found {_listing(tables)}")
        return {split: _read_rows(str(path), fields, [None])[0] for split, fields in tables.items()}, names


def _tables(arrays: Mapping[str, _Array], pattern: str) -> dict[str, dict[str, _Array]]:
    """The arrays of each split under one naming pattern; only splits that have an image array."""
    tables: dict[str, dict[str, _Array]] = {}
    for key, array in arrays.items():
        left, _, right = key.partition("/" if pattern == "split/field" else "_")
        if pattern == "field_split":
            left, _, right = key.rpartition("_")
            split, name = CLASSIC_SPLITS.get(right, right), CLASSIC_FIELDS.get(left, "")
            if not name:
                continue
        else:
            split, name = left, right
        if "/" not in name and right:
            tables.setdefault(split, {})[name] = array
    return {split: fields for split, fields in tables.items() if any(SPELLINGS.get(k) == "image" for k in fields)}


def _read_indexed(path: Path, arrays: dict[str, _Array]) -> dict[str, _Rows]:
    """Whole arrays with 0-based row numbers for each split; ``test_idx`` is query, and retrieval is then train."""
    given = {key.removesuffix("_idx"): arrays.pop(key) for key in list(arrays) if key.endswith("_idx")}
    if set(given) == {"train", "test"}:
        given = {"train": given["train"], "query": given["test"], "retrieval": given["train"]}
    if set(given) != set(SPLITS):
        raise InputError(f"{path}: index arrays {_listing(f'{split}_idx' for split in given)}; expected train_idx, "
                         "query_idx, retrieval_idx, or train_idx, test_idx")
    image = next(array for key, array in arrays.items() if SPELLINGS.get(key) == "image")
    _check_feature_type(image)
    rows = {split: _row_numbers(array, image.shape[0]) for split, array in given.items()}
    for split in ("retrieval", "train"):
        if common := np.intersect1d(rows["query"], rows[split]).size:
            raise InputError(f"{path}: {common:,} rows are in both query_idx and {split}_idx; expected none")
    train, retrieval = rows["train"], rows["retrieval"]
    start = np.flatnonzero(retrieval == train[0])
    run = slice(start[0], start[0] + len(train)) if start.size else slice(0, 0)
    if np.array_equal(retrieval[run], train):  # train is a stretch of retrieval: the same memory
        database, query = _read_rows(str(path), arrays, [retrieval, rows["query"]])
        learn = database if len(train) == len(retrieval) else database.first(run.start, run.stop)
    else:
        database, query, learn = _read_rows(str(path), arrays, [retrieval, rows["query"], train])
    return {"train": learn, "query": query, "retrieval": database}


def _row_numbers(array: _Array, count: int) -> np.ndarray:
    if math.prod(array.shape) != max(array.shape, default=0) or array.dtype.kind not in "iuf":
        raise InputError(f"{array.where}: {array.dtype} {array.shape}; expected a list of row numbers")
    numbers = array.read().reshape(-1)
    if not numbers.size:
        raise InputError(f"{array.where}: empty; expected at least one row number")
    bad = ~((numbers >= 0) & (numbers < count) & (numbers == np.floor(numbers)))
    if bad.any():
        raise InputError(f"{array.where}: row number {numbers[bad][0]}; expected 0 to {count - 1} (counted from 0)")
    numbers = numbers.astype(np.int64)
    values, times = np.unique(numbers, return_counts=True)
    if len(values) != len(numbers):
        raise InputError(f"{array.where}: row {values[times > 1][0]} is listed {times.max()} times; expected once")
    return numbers


# --- from rows to a data set ------------------------------------------------------------------------------------------


def _finish(name: str, path: Path | None, rows: dict[str, _Rows], label_names: list[str] | None) -> Dataset:
    rows.setdefault("retrieval", rows["train"])
    where = str(path or name)
    for key in ("image", "text"):
        widths = {split: getattr(rows[split], key).shape[1] for split in SPLITS}
        if len(set(widths.values())) > 1:
            raise InputError(f"{where}: {key} feature sizes differ between splits: {widths}; expected one size")
    label_names = _unify_labels(where, rows, label_names)
    learn, database = rows["train"], rows["retrieval"]
    if learn is not database and all(
            np.array_equal(getattr(learn, key), getattr(database, key)[:len(learn.image)])
            for key in ("label", "image", "text")):
        for key in ("label", "image", "text"):  # UCMFH's train is the start of its retrieval: hold it once
            setattr(learn, key, getattr(database, key)[:len(learn.image)])
    made: dict[int, Split] = {}
    splits = {}
    for split in SPLITS:
        part = rows[split]
        if id(part) not in made:
            made[id(part)] = Split(torch.from_numpy(part.image), torch.from_numpy(part.text),
                                   torch.from_numpy(part.label), part.index, part.meta)
        splits[split] = made[id(part)]
    return Dataset(name, path, **splits, label_names=label_names, warnings=_oddities(splits))


def _unify_labels(where: str, rows: dict[str, _Rows], label_names: list[str] | None) -> list[str] | None:
    """Bring class numbers to one-hot over the classes of all splits, in ascending order."""
    parts = {id(part): part for part in rows.values()}.values()
    if len({part.label.ndim for part in parts}) > 1:
        raise InputError(f"{where}: labels are class numbers in one split and multi-hot in another; expected one form")
    if rows["train"].label.ndim == 1:
        classes = np.unique(np.concatenate([np.unique(part.label) for part in parts]))
        if len(classes) > MAX_CLASSES:
            raise InputError(f"{where}: label has {len(classes):,} different values; expected class numbers, not ids")
        for part in parts:
            one_hot = np.zeros((len(part.label), len(classes)), np.uint8)
            one_hot[np.arange(len(part.label)), np.searchsorted(classes, part.label)] = 1
            part.label = one_hot
        if label_names is not None:
            base = min(int(classes[0]), 1)
            if classes[-1] - base >= len(label_names):
                raise InputError(f"{where}: label_names has {len(label_names)} names; class {classes[-1]} needs more")
            label_names = [label_names[number - base] for number in classes]
    widths = {split: rows[split].label.shape[1] for split in SPLITS}
    if len(set(widths.values())) > 1:
        raise InputError(f"{where}: numbers of classes differ between splits: {widths}; expected one number")
    if label_names is not None and len(label_names) != widths["train"]:
        raise InputError(f"{where}: label_names has {len(label_names)} names; expected {widths['train']}")
    return label_names


def _oddities(splits: Mapping[str, Split]) -> list[str]:
    found = []
    for name, split in splits.items():
        unlabelled = int((split.label.amax(1) == 0).sum())
        if unlabelled:
            found.append(f"{name}: {unlabelled:,} of {len(split):,} rows have no label (nothing is relevant to them)")
        for key in ("image", "text"):
            step = _block_rows(getattr(split, key).shape, 4)
            zero = sum(int((~block.any(1)).sum()) for block in getattr(split, key).split(step))
            if zero:
                found.append(f"{name}: {zero:,} of {len(split):,} {key} rows are all zero")
    return found


# --- the public functions ---------------------------------------------------------------------------------------------


def dataset_from_arrays(train: Mapping[str, object], query: Mapping[str, object], retrieval: Mapping[str, object],
                        label_names: list[str] | None = None, name: str = "arrays") -> Dataset:
    """A data set from arrays in memory, checked like one from a file.

    Each split maps ``image`` (n, d_i), ``text`` (n, d_t), ``label`` (n, c) or (n,) and any per-row columns to
    arrays. Give the same object as ``train`` and ``retrieval`` to share them. Raises InputError.
    """
    rows = {}
    for split, table in (("train", train), ("query", query), ("retrieval", retrieval)):
        if split == "retrieval" and retrieval is train:
            continue
        where = f"{name}: {split}"
        rows[split] = _read_rows(where, {key: _in_memory(f"{where}: {key}", table[key]) for key in table}, [None])[0]
    return _finish(name, None, rows, label_names)


def load_dataset(name_or_path: str | Path, data_dir: str | Path = "data") -> Dataset:
    """Load and check a data set: a folder of ``data_dir`` by name, or the path of a folder or a file.

    Raises InputError, in one line with file, key, found and expected, for anything that is not a sound data set.
    """
    path = _locate(name_or_path, Path(data_dir))
    if path.is_file():
        if path.suffix.lower() not in FILE_TYPES:
            hint = "; for pickles give the folder with train.pkl, query.pkl, retrieval.pkl" * (path.suffix == ".pkl")
            raise InputError(f"{path}: unknown file type {path.suffix!r}; expected {', '.join(FILE_TYPES)}{hint}")
        rows, label_names = _read_file(path)
        return _finish(path.stem, path, rows, label_names)
    pickles = sorted(path.glob("*.pkl"))
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in FILE_TYPES and file.is_file())
    if pickles and files or len(files) > 1:
        raise InputError(f"{path}: more than one data set: {_listing(f.name for f in [*pickles, *files])}; expected "
                         "train.pkl, query.pkl, retrieval.pkl or one file (or give the path of one file)")
    if files:
        rows, label_names = _read_file(files[0])
        return _finish(path.resolve().name, files[0], rows, label_names)
    if {file.name for file in pickles} != {f"{split}.pkl" for split in SPLITS}:
        raise InputError(f"{path}: found {_listing(file.name for file in pickles)}; expected train.pkl, query.pkl, "
                         "retrieval.pkl, or one .h5, .mat or .npz file")
    rows = {split: _read_rows(f"{path / split}.pkl", _read_pickle(path / f"{split}.pkl"), [None])[0]
            for split in SPLITS}
    return _finish(path.resolve().name, path, rows, None)


def _locate(name_or_path: str | Path, data_dir: Path) -> Path:
    name = str(name_or_path)
    names = sorted(item.name for item in data_dir.iterdir() if item.is_dir()) if data_dir.is_dir() else []
    if name in names:
        return data_dir / name
    same = [other for other in names if other.casefold() == name.casefold()]
    if len(same) == 1:
        return data_dir / same[0]
    if name and Path(name).exists():
        return Path(name)
    close = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"no data set {name!r}: {data_dir} has {_listing(names)}{hint}")


if __name__ == "__main__":
    pass
