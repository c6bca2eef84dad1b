"""The arrays of a pickled dict, read without running anything that is in the pickle."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
from pathlib import Path
from typing import IO

import numpy as np

from common.errors import InputError
from formats.arrays import Array, library_errors, wrap


def read_pickle(path: Path) -> dict[str, Array]:
    """The arrays of a pickled dict, by key.

    Raises InputError for a damaged file, and for a pickle that asks for any code, which the message names.
    """
    with library_errors(str(path)), open(path, "rb") as file:
        _check_promises(file)
        try:
            content = _ArrayUnpickler(file).load()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}; expected a dict with image, text and, if there "
                         f"are labels, label")
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

    Not even the numpy classes that a pickle names are used: their ``__setstate__`` trusts its input down to memory
    offsets. Stand-ins for them rebuild each array from its bytes alone, without a copy.
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
