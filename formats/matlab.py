"""The arrays of a MATLAB 5 file (``save`` without ``-v7.3``).

They are read here, following MathWorks' "MAT-File Format" (level 5), because scipy.io.loadmat crashes the interpreter
on some damaged files, and holds each variable twice.
"""

from __future__ import annotations

import contextlib
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Iterator

import numpy as np

from common.errors import InputError
from formats.arrays import Array, check_declared_size, in_memory, read_blocks, read_exactly

MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, SPARSE, NUMERIC = 1, 2, 4, 5, range(6, 16)
MAT5_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
              16: "u1", 17: "u2", 18: "u4"}  # the last three are text


def matlab_arrays(path: Path, _stack: contextlib.ExitStack) -> dict[str, Array]:
    """The arrays of the file by key, ``variable/field`` in a struct; the file is opened again for each that is read."""
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
    """The variable at ``position``: numbers are read later, in blocks; text, cells, structs and sparse matrices now."""

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
                return {f"{key}/{name}": in_memory(f"{where}.{name}", item) for name, item in value.items()}
            return {key: in_memory(where, value)}
        if kind not in NUMERIC or not key:  # objects, functions, MATLAB's bookkeeping
            return {}
        stored_type, size, small = _mat5_tag(reader, order)
    dtype = np.dtype(order + MAT5_TYPES[stored_type])
    if size != math.prod(dims) * dtype.itemsize or min(dims) < 0:
        raise InputError(f"{where}: found {size:,} bytes for shape {dims} of {dtype}; "
                         "expected an undamaged file")
    check_declared_size(where, dims, dtype.itemsize, path)
    stored = dims[::-1]

    def stream() -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            reader = start(file)[0]
            if _mat5_tag(reader, order)[2] is not None:
                yield np.frombuffer(small, dtype).reshape(stored)
                return
            yield from read_blocks(reader, stored, dtype)
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
    tag = read_exactly(reader, 8)
    kind, size = struct.unpack(order + "II", tag)
    if kind >> 16:
        return kind & 0xFFFF, kind >> 16, tag[4:4 + (kind >> 16)]
    return kind, size, None


def _mat5_element(reader: IO[bytes], order: str) -> np.ndarray:
    kind, size, data = _mat5_tag(reader, order)
    if data is None:
        data = read_exactly(reader, size)
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
