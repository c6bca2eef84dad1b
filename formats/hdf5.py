"""The arrays of an HDF5 file, which is also what MATLAB's format 7.3 is; and new HDF5 files, with text as HDF5 should
store it.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import h5py
import numpy as np

from common.errors import InputError
from formats.arrays import Array, block_rows, check_declared_size, in_memory
from formats.hdf5_structure import check_structure


def hdf5_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    """The arrays of the file by key, ``group/name`` in a group; they can be read until ``stack`` is closed."""
    with open(path, "rb") as file:
        matlab = file.read(10) == b"MATLAB 7.3"
    check_structure(path)
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
        return in_memory(where, np.empty((0, 0)))
    check_declared_size(where, dataset.shape, dataset.dtype.itemsize, path)
    kind = dataset.attrs.get("MATLAB_class", b"")
    if kind == b"cell":
        return in_memory(where, [_utf16(dataset.file[item]) for item in dataset[()].T.ravel()])
    if kind == b"char":
        return in_memory(where, [_utf16(row).rstrip() for row in dataset[()].T])
    text = h5py.check_string_dtype(dataset.dtype) is not None
    source = dataset.asstr("utf-8", "replace") if text else dataset
    if dataset.shape == ():
        return in_memory(where, source[()])
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
    """Text, which MATLAB 7.3 keeps as UTF-16 code units; "" for what is of another type, as an empty text is."""
    if getattr(codes, "dtype", None) != np.uint16:
        return ""
    return codes[()].T.astype("<u2").tobytes().decode("utf-16-le", "replace")


def fixed_length_text(column: np.ndarray | list[str]) -> np.ndarray:
    """A column of strings as UTF-8 of one length: HDF5 can hang on a damaged heap of strings of many lengths."""
    encoded = np.char.encode(column, "utf-8")
    return encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))


# --- writing --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def new_hdf5(target: IO[bytes]) -> Iterator[h5py.File]:
    """A new HDF5 file that is written into a file. Raises OSError, at the end, if the disk refuses it."""
    disk = _Disk(target)
    try:
        with h5py.File(disk, "w") as file:
            yield file
    finally:
        if disk.refusal is not None:
            raise disk.refusal from None


class _Disk(io.RawIOBase):
    """A file that takes all that is written and keeps to itself if the disk refuses it: HDF5 would print a traceback
    for each array that it then closes, and crash in the end.
    """

    def __init__(self, file: IO[bytes]):
        self.file, self.refusal = file, None
        self.position = self.size = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + (self.size if whence == os.SEEK_END else 0)
        return self.position

    def tell(self) -> int:
        return self.position

    def write(self, content: bytes) -> int:
        self._try(self.file.write, content)
        self.position += len(content)
        self.size = max(self.size, self.position)
        return len(content)

    def readinto(self, buffer: bytearray) -> int:
        return self._try(self.file.readinto, buffer) or 0

    def truncate(self, size: int) -> int:
        self._try(self.file.truncate, size)
        self.size = size
        return size

    def flush(self) -> None:
        self._try(self.file.flush)

    def _try(self, act: Callable, *arguments: object) -> object:
        if self.refusal is None:
            try:
                self.file.seek(self.position)
                return act(*arguments)
            except OSError as error:
                self.refusal = error
        return None
