"""The values in a file that ``torch.save`` wrote, read without running anything that is in it.

``torch.load(weights_only=True)`` runs no code either, but believes what a file promises: a key of a million nested
tuples crashes it, and thirty bytes make it set aside two gigabytes. Here each promise is checked first, and each byte
against the file's checksums.
"""

from __future__ import annotations

import io
import sys
import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from formats.pickles import Bounded, PlainUnpickler

DTYPES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
          "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32, "Long": torch.int64,
          "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128}
PICKLE = "data.pkl"
MAX_DEPTH = 16  # of lists and dicts in one another; a checkpoint has half as many


def read_torch_file(path: Path) -> object:
    """What was saved: numbers, strings, tensors on the CPU, and dicts, lists and tuples of them.

    No more memory is taken than for the bytes of the file and the values in it.

    Raises:
        InputError: it asks for anything else.
        ValueError: it is damaged, or its values would take more memory than it can account for. So do other errors of
            a zip archive or a pickle say; what is damaged can make their readers stumble anywhere.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("compressed, as PyTorch writes no file")
        if sum(member.file_size for member in members) > size:
            raise ValueError(f"its parts are larger than its {size:,} bytes")
        folders = [name.removesuffix(PICKLE) for name in archive.namelist() if name.endswith("/" + PICKLE)]
        if len(folders) != 1:
            raise ValueError(f"holds {len(folders)} times {PICKLE}, expected 1")
        if (order := folders[0] + "byteorder") in archive.namelist() and archive.read(order).decode() != sys.byteorder:
            raise ValueError(f"its numbers are not {sys.byteorder}-endian, as this machine's")
        content = _TensorUnpickler(archive, folders[0], size).load()
        _check_values(content, archive.getinfo(folders[0] + PICKLE).file_size)
    return content


class _TensorUnpickler(PlainUnpickler):
    """Unpickles tensors, too, as ``torch.save`` writes them: their bytes lie beside the pickle."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, size: int) -> None:
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}  # of bytes
        self.left = size  # bytes that tensors may still have
        content = archive.read(folder + PICKLE)
        super().__init__(Bounded(io.BytesIO(content), len(content)), {
            "collections.OrderedDict": lambda: {}, "torch._utils._rebuild_tensor_v2": self.tensor,
            **{f"torch.{name}Storage": dtype for name, dtype in DTYPES.items()}}, "dense tensors")

    def load(self) -> object:
        try:
            return super().load()
        finally:
            self.storages.clear()  # an unpickler refers to itself: it stays until garbage is collected

    def persistent_load(self, pid: object) -> Tensor:
        """The numbers of a storage, (n,)."""
        _kind, dtype, key, _device, count = pid
        if key not in self.storages:
            content = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), np.uint8)
            self.storages[key] = torch.tensor(content)  # a copy, where PyTorch has its tensors begin
        found = self.storages[key]
        if len(found) != count * dtype.itemsize:
            raise ValueError(f"{count:,} numbers of {dtype} are promised, and {len(found):,} bytes are there")
        return found.view(dtype)

    def tensor(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...],
               *_gradient: object) -> Tensor:
        if not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
            raise ValueError("a tensor's sizes are not whole numbers")
        self.left -= prod(size) * storage.itemsize
        if self.left < 0:
            raise ValueError("its tensors have more numbers than are in it")
        # A copy: an optimizer that writes into numbers which share their memory writes beyond its end.
        return storage.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)

    def set_state(self, made: object, state: object) -> None:
        if not isinstance(made, dict):  # with a state dict comes the version of each layer
            super().set_state(made, state)


def _check_values(content: object, most: int) -> None:
    """Raise ValueError if the values nest too deep, or are more than ``most``, as when one list is in a billion places,
    or if one can't be printed.
    """
    level, count = [content], 0
    for _ in range(MAX_DEPTH):
        below = []
        for value in level:
            entries = [*value, *value.values()] if isinstance(value, dict) else value
            if isinstance(entries, (list, tuple)):
                count += len(entries)
                if count > most:
                    raise ValueError(f"more values than its {most:,} bytes can hold")
                below += entries
            elif isinstance(value, int) and value.bit_length() > 64:
                raise ValueError("a number beyond 64 bits")
            elif isinstance(value, str):
                value.encode()  # not half a character
        level = below
    if level:
        raise ValueError(f"lists within lists, more than {MAX_DEPTH} deep")
