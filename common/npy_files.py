"""Arrays of numbers in .npy files that others wrote: ValueError is all that a damaged or hostile one raises."""

from __future__ import annotations

import io
import math
import os
import warnings

import numpy as np

from common.input_files import require_file

HEADER_BYTES = 1 << 16  # the longest that is read; NumPy takes 10,000 characters
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
           (3, 0): np.lib.format.read_array_header_2_0}  # whose header is in UTF-8, and of numbers in ASCII


def map_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of a file, memory-mapped. Raises OSError if it can't be read, and ValueError as :func:`array_in`."""
    require_file(path)
    if not os.path.getsize(path):
        raise ValueError("empty")
    return array_in(np.memmap(path, np.uint8, "r"))


def array_in(content: np.ndarray) -> np.ndarray:
    """The array in the bytes of a .npy file, uint8 (n,), which it shares; no code from them is run.

    Raises ValueError, which says why in a line, for anything but an array of numbers that the bytes hold whole, of one
    column or more.
    """
    try:
        file = io.BytesIO(content[:HEADER_BYTES].tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of what it finds odd in a header
            shape, fortran, dtype = READERS[np.lib.format.read_magic(file)](file)
        values = content[file.tell():]
        size = math.prod(shape) * dtype.itemsize
        fits = all(type(length) is int and length >= 0 for length in shape) and 0 not in shape[1:]
        if dtype.kind in "biufc" and fits and size <= len(values):
            return values[:size].view(dtype).reshape(shape, order="F" if fortran else "C")
    except Exception:  # NumPy's readers raise whatever damaged headers make them
        raise ValueError("damaged, empty or another format") from None
    raise ValueError(f"found {dtype.name} of shape {shape} in {len(values):,} bytes")
