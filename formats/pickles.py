"""The arrays of a pickled dict, read without running anything that is in the pickle.

A pickle is a program for a small machine. Python's own interpreter of it in C trusts its promises, of sizes and of
nesting, down to a crash; the one in Python, which is as fast where it matters (large arrays are few instructions), lets
each promise be checked before it is believed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from common.errors import InputError
from formats.arrays import Array, library_errors, wrap

MAX_DEPTH = 32  # lists within lists: as many as an array may have axes, and half of what NumPy takes
SPARE_BYTES = 256 << 20  # that the values may take beyond four times the file
KEYS = (str, bytes, int, float, type(None), np.generic)  # of dicts: nothing that holds other things


def read_pickle(path: Path) -> dict[str, Array]:
    """The arrays of a pickled dict, by key.

    Raises InputError for a damaged file, for a pickle that asks for any code, which the message names, and for one
    whose values would take far more memory than the file, as one list in many places does.
    """
    with library_errors(str(path)), open(path, "rb") as file:
        try:
            content = PlainUnpickler(Bounded(file, path.stat().st_size), _numpy_stand_ins(), "numpy arrays").load()
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if not isinstance(content, dict):
            raise InputError(f"{path}: found a {type(content).__name__}; expected a dict with image, text and, if there "
                             f"are labels, label")
        _check_promises(path, content)
        return wrap(str(path), content)


class Bounded:
    """A file that is never asked for more bytes than it has: Python would set aside room for all of them first."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.left, self.readline = file, size, size, file.readline

    def read(self, size: int) -> bytes:
        self.left = self.rest(size)
        return self.file.read(size)

    def readinto(self, room: bytearray) -> int:
        self.left = self.rest(len(room))
        return self.file.readinto(room)

    def rest(self, size: int) -> int:
        """The bytes that are left after the next ``size``. Raises EOFError if there are not as many."""
        if size > self.left:
            raise EOFError(f"ends early: {size:,} more bytes are promised, and {self.left:,} are there")
        return self.left - size


def _check_promises(path: Path, content: dict) -> None:
    """Raise InputError if the lists of a dict nest too deep, or hold more than the file can account for: a pickle can
    put the same list, row or text into a billion places in a hundred bytes.
    """
    most = 4 * path.stat().st_size + SPARE_BYTES
    known: dict[int, tuple[int, int, int]] = {}

    def measure(value: object, depth: int) -> tuple[int, int, int]:
        """The number of entries, the bytes of the largest, and the levels of lists of a value."""
        if isinstance(value, _PickledArray):
            return getattr(value, "array", np.empty(0)).size, 8, 0
        if isinstance(value, (str, bytes)):
            return 1, 4 * len(value), 0
        if not isinstance(value, (list, tuple)):
            return 1, 8, 0
        if id(value) not in known:
            if depth == MAX_DEPTH:
                raise InputError(f"lists within lists, more than {MAX_DEPTH} deep; expected an array, or a list of rows")
            known[id(value)] = 0, 0, MAX_DEPTH  # while it is measured: one that holds itself has no end
            count = width = levels = 0
            for entry in value:
                more, wide, below = measure(entry, depth + 1)
                count, width, levels = count + more, max(width, wide), max(levels, below + 1)
            known[id(value)] = count, width, levels
        found = known[id(value)]
        if depth + found[2] > MAX_DEPTH:
            raise InputError(f"lists within lists, more than {MAX_DEPTH} deep; expected an array, or a list of rows")
        return found

    for key, value in content.items():
        with library_errors(f"{path}: {str(key)[:100]}"):
            try:
                count, width, _levels = measure(value, 0)
            except InputError as error:
                raise InputError(f"{path}: {str(key)[:100]}: {error}") from None
            if count * width > most:
                raise InputError(f"{path}: {str(key)[:100]}: {count:,} values of up to {width:,} bytes in a file of "
                                 f"{path.stat().st_size:,}; expected an array, or lists that hold each row once")


class PlainUnpickler(pickle._Unpickler):
    """Unpickles strings, numbers, plain containers, and the arrays that stand-ins make.

    Not even the numpy classes that a pickle names are used: their ``__setstate__`` trusts its input down to memory
    offsets. Stand-ins for them rebuild each array from its bytes alone, without a copy.

    Args:
        stand_ins: for the functions and classes that a pickle may ask for, by their full names.
        arrays: what these make, in words.
    """

    def __init__(self, file: Bounded, stand_ins: Mapping[str, object], arrays: str) -> None:
        super().__init__(file, encoding="latin1")  # what Python 2's arrays need
        self.file, self.stand_ins = file, stand_ins
        self.expected = f"expected only {arrays}, numbers, strings, lists and dicts"

    def find_class(self, module: str, name: str) -> object:
        key = f"{module}.{name}".replace("numpy._core.", "numpy.core.", 1)
        if key not in self.stand_ins:
            raise InputError(f"refused: the pickle asks for {module}.{name}, and nothing in it was run; "
                             f"{self.expected}")
        return self.stand_ins[key]

    def fill_dict(self) -> None:
        """Put what is on the stack since the last mark into the dict before it."""
        items = self.pop_mark()
        self._put(items[::2], items[1::2])

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key], [value])

    def make_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items[::2], items[1::2])

    def _put(self, keys: list, values: list) -> None:
        for key in keys:
            if not isinstance(key, KEYS) or isinstance(key, int) and key.bit_length() > 64:
                raise InputError(f"refused: a dict with a {type(key).__name__} for a key; expected names")
        self.stack[-1].update(zip(keys, values, strict=True))

    def build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def set_state(self, made: object, state: object) -> None:
        if not isinstance(made, (_PickledArray, _PickledDtype)):
            raise InputError(f"refused: a state for something other than an array; {self.expected}")
        made.__setstate__(state)

    def byte_array(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > self.file.size:  # it may lie in a frame, which was read already
            self.file.rest(size)
        room = bytearray(size)
        self.readinto(room)
        self.append(room)

    def refuse(self) -> None:
        raise InputError(f"refused: an object or a set; {self.expected}")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.SETITEM[0]: set_item, pickle.SETITEMS[0]: fill_dict, pickle.DICT[0]: make_dict, pickle.BUILD[0]: build,
        pickle.BYTEARRAY8[0]: byte_array,
        **dict.fromkeys(pickle.INST + pickle.OBJ + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.EXT1 + pickle.EXT2
                        + pickle.EXT4 + pickle.EMPTY_SET + pickle.ADDITEMS + pickle.FROZENSET, refuse)}


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
        if min(shape, default=0) < 0:  # which NumPy takes to mean: whatever fits
            raise ValueError(f"shape {shape}")
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
