"""The arrays of a file of ``numpy.savez``; arrays of Python objects are refused."""

from __future__ import annotations

import contextlib
import math
import zipfile
from pathlib import Path
from typing import IO, Iterator

import numpy as np

from common.errors import InputError
from formats.arrays import Array, check_declared_size, read_blocks


def npz_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    """The arrays of the file by name; they can be read until ``stack`` is closed."""
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
    check_declared_size(where, shape, dtype.itemsize, path)
    stored = (shape[::-1] if fortran else shape) or (1,)

    def stream() -> Iterator[np.ndarray]:
        with archive.open(info) as member:
            _npy_header(member)
            yield from read_blocks(member, stored, dtype)

    return Array(where, shape, dtype, stream, transposed=fortran)


def _npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    if np.lib.format.read_magic(member) == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)
