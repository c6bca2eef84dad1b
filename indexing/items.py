"""What an index knows of its items beside their codes: ids, and columns such as captions in an Arrow table."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from common.errors import InputError
from indexing.folder import damaged

MAGIC = b"ARROW1\0\0"  # begins a file; what follows is a stream of messages
WRITTEN_ROWS = 1 << 16  # rows of a table that are gathered in memory at once


def check_ids(ids: ArrayLike, count: int) -> np.ndarray:
    """Ids as int64 (count,). Raises InputError unless they are different whole numbers from 0 to 2^63 - 1."""
    ids = np.asarray(ids)
    if ids.shape != (count,) or ids.dtype.kind not in "iu":
        raise InputError(f"ids: found {ids.dtype} of shape {ids.shape}; expected whole numbers, ({count},)")
    if len(bad := ids[(ids < 0) | (ids > np.iinfo(np.int64).max)]):
        raise InputError(f"ids: found {bad[0]}; expected 0 to 2^63 - 1")
    values, times = np.unique(ids, return_counts=True)
    if (repeated := values[times > 1]).size:
        raise InputError(f"ids: {repeated[0]} comes more than once ({repeated.size:,} do); expected each id once")
    return ids.astype(np.int64)


def is_plain(kind: pa.DataType) -> bool:
    """Whether a column may have this type: text, numbers, true and false, or nothing, all of which JSON has."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer,
                                       pa.types.is_floating, pa.types.is_boolean, pa.types.is_null))


def make_table(columns: Mapping[str, ArrayLike] | None, count: int) -> pa.Table | None:
    """The columns, (count,) each, as a table; None without columns. Raises InputError unless they are text or numbers,
    one for each item.
    """
    if not columns:
        return None
    arrays, fields = [], []
    for name, column in columns.items():
        try:
            values = np.asarray(column)
            arrays.append(pa.array(values.ravel()))
            fields.append(pa.field(name, arrays[-1].type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"columns: {name}: {str(error).splitlines()[0]}; expected text or numbers") from error
        if not is_plain(fields[-1].type):
            raise InputError(f"columns: {name}: found values of type {fields[-1].type}; expected text or numbers")
        if values.shape != (count,):
            found = f"{len(values):,} rows" if values.ndim == 1 else f"shape {values.shape}"
            raise InputError(f"{name}: found {found}; expected {count:,}, one for each item")
    return pa.table(arrays, schema=pa.schema(fields))


def append_table(old: pa.Table | None, old_count: int, new: pa.Table | None, new_count: int) -> pa.Table | None:
    """The rows of both tables; a column that only one of them has is empty for the items of the other.

    Raises InputError if a column has different types in the two.
    """
    if old is None and new is None:
        return None
    tables = [pa.table({name: pa.nulls(count, column.type) for name, column in zip(other.column_names, other.columns)})
              if table is None else table
              for table, count, other in ((old, old_count, new), (new, new_count, old))]
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(f"columns: don't fit those of the index: {str(error).splitlines()[0]}") from error


def replace_columns(table: pa.Table | None, rows: np.ndarray, new: pa.Table | None) -> pa.Table:
    """Some rows of the columns of an index, with those of ``new``, of as many rows, in place of its own or beside them.
    """
    columns = {} if table is None else dict(zip(table.column_names, table.take(rows).columns))
    return pa.table({**columns, **({} if new is None else dict(zip(new.column_names, new.columns)))})


def write_table(file, table: pa.Table, order: np.ndarray) -> None:
    """Write the rows of a table in this order as an Arrow file."""
    with pa.ipc.new_file(file, table.schema) as writer:
        for start in range(0, len(order), WRITTEN_ROWS):
            writer.write_table(table.take(order[start:start + WRITTEN_ROWS]).combine_chunks())


def read_table(path: Path) -> pa.Table:
    """The table of an Arrow file, memory-mapped. Raises InputError if the file is damaged, or isn't as
    :func:`write_table` writes it: record batches of text and numbers one after the other, not compressed.
    """
    try:
        file = pa.memory_map(str(path))
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("not an Arrow file")
        messages = pa.ipc.MessageReader.open_stream(file)
        schema, batches = pa.ipc.read_schema(messages.read_next_message()), []
        if len(set(schema.names)) < len(schema):
            raise ValueError("a column is there twice")
        if other := next((field for field in schema if not is_plain(field.type)), None):
            raise InputError(f"{path}: column {other.name!r:.100} is of type {other.type}; build the index again with "
                             f"it as text or numbers")
        for message in messages:
            if _is_compressed(message):
                raise ValueError("compressed, which no file of this project is")
            batches.append(pa.ipc.read_record_batch(message, schema))
        table = pa.Table.from_batches(batches, schema)
        table.validate(full=True)
    except InputError:
        raise
    except Exception as error:  # pyarrow's readers raise whatever damaged files make them
        raise damaged(path, (str(error) or "cut short").splitlines()[0]) from error
    return table


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether the buffers of a record batch are compressed: its flatbuffer says so, pyarrow doesn't."""
    content = message.metadata.to_pybytes()
    batch = _pointed(content, _field(content, _pointed(content, 0), 2))  # the message's header
    return _field(content, batch, 3) > 0


def _pointed(content: bytes, at: int) -> int:
    """Where a flatbuffer points to from there."""
    return at + struct.unpack_from("<I", content, at)[0]


def _field(content: bytes, table: int, number: int) -> int:
    """Where a flatbuffer has a field of a table; 0 if it has none."""
    fields = table - struct.unpack_from("<i", content, table)[0]
    size, place = struct.unpack_from("<H", content, fields)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", content, fields + place)[0] if place < size else 0
    return offset and table + offset
