"""Files .npy of a hundred bytes that ask for terabytes, or for what makes NumPy's reader fail: by name, their bytes."""

from __future__ import annotations

import struct


def of(header: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """A file with this header, and eight numbers behind it."""
    content = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(content)) + content + (
        struct.pack("<8f", *range(8)))


def shaped(shape: str, descr: str = "'<f4'") -> bytes:
    return of(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


PIECES = ("(True,)", "9" * 30, "-", "[" * 5000, "()", "'O'", "{}", "\\", "0, ", "L", "1or ")  # to insert into a header

HOSTILE: dict[str, bytes] = {
    **{f"shape {shape:.30}": shaped(shape) for shape in (
        "(1000000000000, 0)", f"(1{'0' * 30},)", f"(1{'0' * 30}, 0)", f"(1{'0' * 4000},)", f"(1{'0' * 5000},)", "(-1,)",
        "(-2, -4)", "(True, True)", f"({2**62},)", f"({2**62}, 4)", f"(0, {2**62}, {2**62})", "(9,)", "(8.0,)", "8",
        f"({'1,' * 500})", f"({'(' * 4000}{')' * 4000},)", f"({'-' * 9000}1,)", "('8',)", "(1or 8,)", "(8L,9L)")},
    **{f"descr {descr:.30}": shaped("(8,)", descr) for descr in (
        "()", "','", "''", "'|O'", "'<U1'", "'V4'", "'<M8[s]'", "('<f4', (1000000,))", "[('a', '<f4')]", "None", "{}",
        "[('a', [('b', " * 200 + "'<f4'" + ")])]" * 200, "'0<f4'", "'f4,f4'", "'a4'", "'\\d'")},
    "key 1": of("{'descr': '<f4', 'fortran_order': False, 'shape': (8,), 1: 2}"),
    "key []": of("{[]: 1}"),
    "nested": of("[" * 9000),
    "a header of 4 GB": b"\x93NUMPY\x02\x00" + b"\xff" * 4 + b"{" * 100,
    "a header of 60,000 bytes": of(" " * 60_000),
    "version 3": of("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", (3, 0)),
    "version 9": of("{'descr': '<f4', 'fortran_order': False, 'shape': (8,)}", (9, 0)),
    "no header": b"\x93NUMPY\x01\x00",
    "nothing": b"",
}
