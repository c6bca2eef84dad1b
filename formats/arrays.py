"""An array that is still in its file: what every file format is read as.

Large arrays are read when they are asked for, in blocks. Whatever a damaged file makes a library raise comes out as
an InputError that names the file and the key. Each format has a file of its own in this folder.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Iterator, Mapping, Sequence

import numpy as np

from common.errors import InputError

BLOCK_BYTES = 4 << 20


@dataclass(eq=False)
class Array:
    """An array by its name, shape and type, whose values are read when they are asked for."""

    where: str  # "file: key", for messages
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: Callable[[], Iterator[np.ndarray]]  # consecutive blocks along the first stored axis
    transposed: bool = False  # stored as its transpose: MATLAB 7.3, Fortran order
    place: tuple[Path, int] | None = None  # the file and the byte where it lies as it would in memory, if it does
    turned: bool = False  # it is the transpose of what the file says

    def blocks(self) -> Iterator[np.ndarray]:
        """The values in blocks of consecutive rows, of columns if ``transposed``. InputError if the file is damaged."""
        with library_errors(self.where):
            yield from self.stream()

    def map(self) -> np.ndarray:
        """The array mapped from its ``place``: read when it is used; what is written to it stays in this process."""
        path, offset = self.place
        return np.memmap(path, self.dtype, "c", offset, self.shape)

    def turn(self) -> None:
        """Become the transpose of this matrix."""
        self.shape, self.place = self.shape[::-1], None
        self.transposed, self.turned = not self.transposed, not self.turned

    def is_column(self) -> bool:
        """Whether it is one value a row: of shape (n,), (n, 1) or (1, n)."""
        return math.prod(self.shape) == max(self.shape, default=0)

    def column(self) -> np.ndarray:
        """All values of a column, (n,): for class numbers, row numbers and strings, which are small."""
        values = np.concatenate([block.reshape(-1) for block in self.blocks()] or [np.empty(0)])
        return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values


@contextlib.contextmanager
def library_errors(where: str) -> Iterator[None]:
    """Turn whatever a damaged file makes a library raise (almost anything) into an InputError that names ``where``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: cannot be read ({type(error).__name__}: {reason}); "
                         "expected a whole, undamaged file") from error


def block_rows(shape: Sequence[int], itemsize: int) -> int:
    """The number of rows of an array of this ``shape`` that make a block of about BLOCK_BYTES."""
    return max(1, BLOCK_BYTES // max(1, itemsize * math.prod(shape[1:])))


def wrap(where: str, content: Mapping[str, object]) -> dict[str, Array]:
    """An Array for each array or list of rows that is in memory already, by its key.

    Only the Array holds on to the values: if the caller keeps no reference, they are freed once they are read.
    """
    return {str(key): in_memory(f"{where}: {key}", value) for key, value in content.items()}


def in_memory(where: str, value: object) -> Array:
    """An Array of one array, number, string or list of rows that is in memory already."""
    with library_errors(where):
        array = np.atleast_1d(np.asarray(value))

    def stream() -> Iterator[np.ndarray]:
        step = block_rows(array.shape, array.itemsize)
        for start in range(0, len(array), step):
            yield array[start:start + step]

    return Array(where, array.shape, array.dtype, stream)


def check_declared_size(where: str, shape: Sequence[int], itemsize: int, path: Path) -> None:
    """Raise InputError if the file is too small for an array of this shape, even compressed."""
    # Deflate packs at most about 1,000 to 1: a larger promise is damage, or a trap that would fill the memory.
    if math.prod(shape) * itemsize > 1100 * path.stat().st_size:
        raise InputError(f"{where}: found shape {tuple(shape)} in a file of {path.stat().st_size:,} bytes, "
                         "which cannot hold it; expected an undamaged file")


def read_exactly(reader: IO[bytes], size: int) -> bytes:
    """The next ``size`` bytes. EOFError if there are fewer."""
    data = reader.read(size)
    if len(data) != size:
        raise EOFError(f"{len(data)} bytes where {size} should be")
    return data


def read_blocks(reader: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The array that comes next in a stream, in C order, as blocks of rows. EOFError if the stream ends early."""
    step = block_rows(shape, dtype.itemsize)
    for start in range(0, shape[0], step):
        block = (min(step, shape[0] - start), *shape[1:])
        yield np.frombuffer(read_exactly(reader, math.prod(block) * dtype.itemsize), dtype).reshape(block)
