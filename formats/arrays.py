"""The arrays in a pickle, HDF5, MATLAB 5, MATLAB 7.3 or npz file, by name; nothing in the file is run.

Large arrays are read when they are asked for, in blocks. Whatever a damaged file makes the libraries raise
comes out as an InputError that names file and key.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Iterator, Mapping, Sequence

import h5py
import numpy as np

from common.errors import InputError

BLOCK_BYTES = 4 << 20


@dataclass(eq=False)
class Array:
    """An array that is still in its file."""

    where: str  # "file: key", for messages
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: Callable[[], Iterator[np.ndarray]]  # consecutive blocks along the first stored axis
    transposed: bool = False  # stored as its transpose: MATLAB 7.3, Fortran order
    place: tuple[Path, int] | None = None  # the file and the byte where it lies as it would in memory, if it does

    def blocks(self) -> Iterator[np.ndarray]:
        with library_errors(self.where):
            yield from self.stream()

    def map(self) -> np.ndarray:
        """The array where it lies, read as it is used; what is written to it stays in this process."""
        path, offset = self.place
        return np.memmap(path, self.dtype, "c", offset, self.shape)

    def is_column(self) -> bool:
        return math.prod(self.shape) == max(self.shape, default=0)

    def column(self) -> np.ndarray:
        """All of a column, (n,): for class numbers, row numbers and strings, which are small."""
        values = np.concatenate([block.reshape(-1) for block in self.blocks()] or [np.empty(0)])
        return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


@contextlib.contextmanager
def library_errors(where: str) -> Iterator[None]:
    """Turn what a damaged file makes pickle, h5py or zipfile raise, almost anything, into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: cannot be read ({type(error).__name__}: {reason}); "
                         "expected a whole, undamaged file") from error


def block_rows(shape: Sequence[int], itemsize: int) -> int:
    """How many rows make a block of about BLOCK_BYTES."""
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def wrap(where: str, content: Mapping[str, object]) -> dict[str, Array]:
    """Arrays or lists of rows that are in memory already.

    Each is held by its Array alone, to be let go once it is read, if the caller keeps no reference.
    """
    return {str(key): _in_memory(f"{where}: {key}", value) for key, value in content.items()}


def _in_memory(where: str, value: object) -> Array:
    with library_errors(where):
        array = np.atleast_1d(np.asarray(value))

    def stream() -> Iterator[np.ndarray]:
        step = block_rows(array.shape, array.itemsize)
        for start in range(0, len(array), step):
            yield array[start:start + step]

    return Array(where, array.shape, array.dtype, stream)


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, Array]]:
    """The arrays of an .h5, .hdf5, .mat or .npz file; they can be read while the context lasts."""
    with contextlib.ExitStack() as stack:
        with library_errors(str(path)):
            arrays = READERS[path.suffix.lower()](path, stack)
        yield arrays


def _check_declared_size(where: str, shape: Sequence[int], itemsize: int, path: Path) -> None:
    # Deflate packs at most about 1,000 to 1: a larger promise is damage, or a trap for the memory.
    if math.prod(shape) * itemsize > 1100 * path.stat().st_size:
        raise InputError(f"{where}: found shape {tuple(shape)} in a file of {path.stat().st_size:,} bytes, "
                         "which cannot hold it; expected an undamaged file")


def _exactly(reader: IO[bytes], size: int) -> bytes:
    data = reader.read(size)
    if len(data) != size:
        raise EOFError(f"{len(data)} bytes where {size} should be")
    return data


def _read_blocks(reader: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """An array in C order from a stream, in blocks of rows."""
    step = block_rows(shape, dtype.itemsize)
    for start in range(0, shape[0], step):
        block = (min(step, shape[0] - start), *shape[1:])
        yield np.frombuffer(_exactly(reader, math.prod(block) * dtype.itemsize), dtype).reshape(block)


# --- pickles --------------------------------------------------------------------------------------


def read_pickle(path: Path) -> dict[str, Array]:
    """The arrays of a pickled dict. A pickle that asks for any code is refused by the name it asks for."""
    with library_errors(str(path)), open(path, "rb") as file:
        _check_promises(file)
        try:
            content = _ArrayUnpickler(file).load()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}; expected a dict with image, text and, if there are "
                         f"labels, label")
    return wrap(str(path), content)


def _check_promises(file: IO[bytes]) -> None:
    """Read every instruction first: the unpickler allocates what a damaged one asks for, up to gigabytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for count, (opcode, argument, _position) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise ValueError(f"memo entry {argument} after {count} instructions")
        if opcode.name == "FRAME" and argument > size:
            raise ValueError(f"a frame of {argument} bytes")
    file.seek(0)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays, strings, numbers and plain containers.

    Not even the numpy classes that a pickle names are touched: their ``__setstate__`` trusts its input down
    to memory offsets. Stand-ins rebuild each array from its bytes alone, without a copy.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")  # what Python 2's arrays need
        self.stand_ins = _numpy_stand_ins()

    def find_class(self, module: str, name: str) -> object:
        key = f"{module}.{name}".replace("numpy._core.", "numpy.core.", 1)
        if key not in self.stand_ins:
            raise InputError(f"refused: the pickle asks for {module}.{name}, and nothing in it was run; "
                             "expected only numpy arrays, numbers, strings, lists and dicts")
        return self.stand_ins[key]


class _PickledDtype:
    def __init__(self, code: str) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[biufSU]\d{1,6}", code)):
            raise InputError(f"refused: the pickle has an array of {code!r}; expected numbers or strings")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise InputError(f"found byte order {state[1]!r}; expected <, >, | or =")
        self.dtype = self.dtype.newbyteorder(state[1])


class _PickledArray:
    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: bytes | str, dtype: _PickledDtype, shape: tuple, order: str) -> _PickledArray:
        data = data.encode("latin1") if isinstance(data, str) else data  # str: written by Python 2
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)
        return self

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def _numpy_stand_ins() -> dict[str, object]:
    """New functions for each pickle, because a pickle can set the attributes of what it is given."""

    def dtype(code: str, *_align_and_copy: object) -> _PickledDtype:
        return _PickledDtype(code)

    def reconstruct(_subtype: object, _shape: object, _typecode: object) -> _PickledArray:
        return _PickledArray()

    def frombuffer(data: object, dtype: _PickledDtype, shape: tuple, order: str,
                   *_axes: object) -> _PickledArray:
        return _PickledArray().fill(data, dtype, shape, order)

    def scalar(dtype: _PickledDtype, data: object) -> np.generic:
        return _PickledArray().fill(data, dtype, (1,), "C").array[0]

    def encode(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise InputError(f"refused: the pickle encodes text as {encoding!r}; expected latin1")
        return text.encode("latin1")

    return {"numpy.ndarray": None, "numpy.dtype": dtype, "_codecs.encode": encode,
            "numpy.core.multiarray._reconstruct": reconstruct, "numpy.core.multiarray.scalar": scalar,
            "numpy.core.numeric._frombuffer": frombuffer}


# --- HDF5 and MATLAB 7.3 --------------------------------------------------------------------------


def _hdf5_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    with open(path, "rb") as file:
        matlab = file.read(10) == b"MATLAB 7.3"
    hdf5 = stack.enter_context(h5py.File(path, "r"))
    items: dict[str, h5py.HLObject] = {}
    # visititems follows neither soft nor external links: nothing outside the file is opened.
    hdf5.visititems(lambda key, item: items.update({key: item}))
    return {key: _hdf5_array(path, key, item, matlab) for key, item in items.items()
            if isinstance(item, h5py.Dataset) and not key.startswith("#")}  # '#': MATLAB's bookkeeping


def _hdf5_array(path: Path, key: str, dataset: h5py.Dataset, matlab: bool) -> Array:
    where = f"{path}: {key}"
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{where}: found a link to another file; expected the data in this one")
    if dataset.shape is None or dataset.attrs.get("MATLAB_empty", 0):
        return _in_memory(where, np.empty((0, 0)))
    _check_declared_size(where, dataset.shape, dataset.dtype.itemsize, path)
    kind = dataset.attrs.get("MATLAB_class", b"")
    if kind == b"cell":
        return _in_memory(where, [_utf16(dataset.file[item]) for item in dataset[()].T.ravel()])
    if kind == b"char":
        return _in_memory(where, [_utf16(row).rstrip() for row in dataset[()].T])
    text = h5py.check_string_dtype(dataset.dtype) is not None
    source = dataset.asstr("utf-8", "replace") if text else dataset
    if dataset.shape == ():
        return _in_memory(where, source[()])
    step = block_rows(dataset.shape, dataset.dtype.itemsize)
    if dataset.chunks:  # whole chunks, so that none is decompressed twice
        step = math.ceil(step / dataset.chunks[0]) * dataset.chunks[0]

    def stream() -> Iterator[np.ndarray]:
        for start in range(0, dataset.shape[0], step):
            block = source[start:start + step]
            yield block.astype(str) if text else block

    shape = dataset.shape[::-1] if matlab else dataset.shape
    offset = dataset.id.get_offset()  # None where it lies in chunks or is not written yet
    place = (path, offset) if offset is not None and dataset.dtype.isnative and not matlab else None
    return Array(where, shape, np.dtype(str) if text else dataset.dtype, stream, transposed=matlab, place=place)


def _utf16(codes: h5py.HLObject | np.ndarray) -> str:
    """MATLAB 7.3 keeps text as UTF-16 code units; what is of another type is no text, or an empty one."""
    if getattr(codes, "dtype", None) != np.uint16:
        return ""
    return codes[()].T.astype("<u2").tobytes().decode("utf-16-le", "replace")


# --- MATLAB 5 -------------------------------------------------------------------------------------
#
# Read here, after MathWorks' "MAT-File Format" (level 5), because scipy.io.loadmat crashes the interpreter on
# some damaged files, and holds a variable twice.

MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, SPARSE, NUMERIC = 1, 2, 4, 5, range(6, 16)
MAT5_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
              16: "u1", 17: "u2", 18: "u4"}  # the last three are text


def _mat_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    if h5py.is_hdf5(path):  # version 7.3
        return _hdf5_arrays(path, stack)
    arrays: dict[str, Array] = {}
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(128)[126:])
        if order is None:
            raise InputError(f"{path}: found no MATLAB header; expected a .mat file of version 5 or 7.3")
        while (position := file.tell()) < path.stat().st_size:
            kind, size, _ = _mat5_tag(file, order)
            if position + 8 + size > path.stat().st_size:
                raise InputError(f"{path}: ends in the midst of a variable; expected a whole, undamaged file")
            if kind in (MATRIX, COMPRESSED):
                arrays |= _mat5_variable(path, order, position, kind == COMPRESSED)
            file.seek(position + 8 + size)
    return arrays


def _mat5_variable(path: Path, order: str, position: int, compressed: bool) -> dict[str, Array]:
    """The variable at ``position``: numbers as an Array to be streamed, what else is of use read now."""

    def start(file: IO[bytes]) -> tuple[IO[bytes], int, bool, tuple[int, ...], str]:
        file.seek(position + 8 * compressed)
        reader = _Inflated(file) if compressed else file
        if _mat5_tag(reader, order)[0] != MATRIX:
            raise ValueError("no matrix where one should begin")
        return reader, *_mat5_header(reader, order)

    with open(path, "rb") as file:
        reader, kind, is_complex, dims, key = start(file)
        where = f"{path}: {key}"
        if is_complex:
            return {key: Array(where, dims, np.dtype(complex), lambda: iter(()))}  # is refused for its type
        if kind in (CELL, STRUCT, CHAR, SPARSE):
            try:
                value = _mat5_content(reader, order, kind, dims)
            except NotImplementedError:
                return {}
            if kind == STRUCT:
                return {f"{key}/{name}": _in_memory(f"{where}.{name}", item) for name, item in value.items()}
            return {key: _in_memory(where, value)}
        if kind not in NUMERIC or not key:  # objects, functions, MATLAB's bookkeeping
            return {}
        stored_type, size, small = _mat5_tag(reader, order)
    dtype = np.dtype(order + MAT5_TYPES[stored_type])
    if size != math.prod(dims) * dtype.itemsize or min(dims) < 0:
        raise InputError(f"{where}: found {size:,} bytes for shape {dims} of {dtype}; "
                         "expected an undamaged file")
    _check_declared_size(where, dims, dtype.itemsize, path)
    stored = dims[::-1]

    def stream() -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            reader = start(file)[0]
            if _mat5_tag(reader, order)[2] is not None:
                yield np.frombuffer(small, dtype).reshape(stored)
                return
            yield from _read_blocks(reader, stored, dtype)
            reader.read(8)  # past the end, where zlib compares the checksum

    return {key: Array(where, dims, dtype, stream, transposed=True)}


class _Inflated:
    """Reads what is compressed in a file from its position on."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.zlib, self.input = file, zlib.decompressobj(), b""

    def read(self, size: int) -> bytes:
        parts, missing = [], size
        while missing > 0 and not self.zlib.eof:
            part = self.zlib.decompress(self.input, missing)
            self.input = self.zlib.unconsumed_tail
            if not part and not self.input:
                self.input = self.file.read(1 << 16)
                if not self.input:
                    raise EOFError("compressed data ends early")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _mat5_tag(reader: IO[bytes], order: str) -> tuple[int, int, bytes | None]:
    """The type and size of the next element, and its data if these stand in the tag itself."""
    tag = _exactly(reader, 8)
    kind, size = struct.unpack(order + "II", tag)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, tag[4:4 + (kind >> 16)]
    return kind, size, None


def _mat5_element(reader: IO[bytes], order: str) -> np.ndarray:
    kind, size, data = _mat5_tag(reader, order)
    if data is None:
        data = _exactly(reader, size)
        reader.read(-size % 8)  # padding
    return np.frombuffer(data, order + MAT5_TYPES[kind])


def _mat5_header(reader: IO[bytes], order: str) -> tuple[int, bool, tuple[int, ...], str]:
    flags = int(_mat5_element(reader, order)[0])
    dims = tuple(_mat5_element(reader, order).tolist())
    return flags & 0xFF, bool(flags & 0x800), dims, _mat5_element(reader, order).tobytes().decode("latin1")


def _mat5_content(reader: IO[bytes], order: str, kind: int, dims: tuple[int, ...]) -> object:
    """Numbers as an array, text as a list of rows, a cell as a list of strings, a struct as a dict."""
    if kind == CHAR:
        codes = _mat5_element(reader, order)
        if not len(codes):
            return [""]
        if math.prod(dims) > len(codes):
            raise ValueError(f"{len(codes)} letters for shape {dims}")
        text = codes.astype(codes.dtype.newbyteorder("<")).tobytes().decode(
            {1: "utf-8", 2: "utf-16-le", 4: "utf-32-le"}[codes.itemsize], "replace")
        return [text] if dims[0] == 1 else [text[row::dims[0]].rstrip() for row in range(dims[0])]
    if kind == CELL:
        items = [_mat5_nested(reader, order) for _ in range(math.prod(dims))]
        return ["".join(item) if isinstance(item, list) else "" for item in items]
    if kind == STRUCT:
        width = int(_mat5_element(reader, order)[0])
        names = _mat5_element(reader, order).tobytes().decode("latin1")
        names = [names[start:start + width].rstrip("\0") for start in range(0, len(names), width)]
        return {name: _mat5_nested(reader, order) for name in names}
    if kind == SPARSE:
        rows, ends, values = (_mat5_element(reader, order) for _ in range(3))
        if len(rows) and not 0 <= rows.min() <= rows.max() < dims[0]:
            raise ValueError(f"entries of rows {rows.min()} to {rows.max()} for shape {dims}")
        if math.prod(dims) > 100_000 * max(1, len(rows)):
            raise ValueError(f"{len(rows)} entries for shape {dims}")  # far sparser than tags ever are
        dense = np.zeros(dims, values.dtype)
        dense[rows[:ends[-1]], np.repeat(np.arange(dims[1]), np.diff(ends))] = values[:ends[-1]]
        return dense
    if kind in NUMERIC:
        return _mat5_element(reader, order).reshape(dims, order="F")
    raise NotImplementedError(f"class {kind} inside a struct or cell")


def _mat5_nested(reader: IO[bytes], order: str) -> object:
    _kind, size, _ = _mat5_tag(reader, order)
    if size == 0:
        return np.empty((0, 0))
    kind, is_complex, dims, _name = _mat5_header(reader, order)
    if is_complex:
        raise NotImplementedError("complex numbers inside a struct or cell")
    return _mat5_content(reader, order, kind, dims)


# --- npz ------------------------------------------------------------------------------------------


def _npz_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    archive = stack.enter_context(zipfile.ZipFile(path))
    return {info.filename.removesuffix(".npy"): _npy_array(path, archive, info)
            for info in archive.infolist() if info.filename.endswith(".npy")}


def _npy_array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    where = f"{path}: {info.filename.removesuffix('.npy')}"
    with archive.open(info) as member:
        shape, fortran, dtype = _npy_header(member)
        offset = member.tell()
    if dtype.hasobject:
        raise InputError(f"{where}: refused: found an array of Python objects, which can run code when read; "
                         "expected numbers or strings")
    if min(shape, default=0) < 0 or offset + math.prod(shape) * dtype.itemsize != info.file_size:
        raise InputError(f"{where}: found {info.file_size - offset:,} bytes for shape {shape} of {dtype}; "
                         "expected an undamaged file")
    _check_declared_size(where, shape, dtype.itemsize, path)
    stored = (shape[::-1] if fortran else shape) or (1,)

    def stream() -> Iterator[np.ndarray]:
        with archive.open(info) as member:
            _npy_header(member)
            yield from _read_blocks(member, stored, dtype)

    return Array(where, shape, dtype, stream, transposed=fortran)


def _npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if np.lib.format.read_magic(member) == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


READERS = {".h5": _hdf5_arrays, ".hdf5": _hdf5_arrays, ".mat": _mat_arrays, ".npz": _npz_arrays}
