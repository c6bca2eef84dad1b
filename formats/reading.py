"""Open a file of arrays, in the format that its name says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Iterator

import h5py

from formats.arrays import Array, library_errors
from formats.hdf5 import hdf5_arrays
from formats.matlab import matlab_arrays
from formats.npz import npz_arrays


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, Array]]:
    """The arrays of an .h5, .hdf5, .h5py, .mat or .npz file by name; they can be read while the context lasts.

    Raises InputError, now or when an array is read, if the file is damaged or holds what is refused.
    """
    with contextlib.ExitStack() as stack:
        with library_errors(str(path)):
            arrays = READERS[path.suffix.lower()](path, stack)
        yield arrays


def _mat_arrays(path: Path, stack: contextlib.ExitStack) -> dict[str, Array]:
    """MATLAB's format 7.3 is HDF5, and all before it are another."""
    return (hdf5_arrays if h5py.is_hdf5(path) else matlab_arrays)(path, stack)


READERS = {".h5": hdf5_arrays, ".hdf5": hdf5_arrays, ".h5py": hdf5_arrays, ".mat": _mat_arrays,
           ".npz": npz_arrays}  # by the end of the name
