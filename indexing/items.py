"""What an index knows of its items beside their codes: ids, and columns such as captions in an Arrow table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from common.errors import InputError
from indexing.folder import damaged

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


def make_table(columns: Mapping[str, ArrayLike] | None, count: int) -> pa.Table | None:
    """The columns, (count,) each, as a table; None without columns. Raises InputError unless they are text or numbers,
    one for each item.
    """
    if not columns:
        return None
    for name, column in columns.items():
        if len(column) != count:
            raise InputError(f"{name}: found {len(column):,} rows; expected {count:,}, one for each item")
    try:
        return pa.table({name: pa.array(np.asarray(column)) for name, column in columns.items()})
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(f"columns: {str(error).splitlines()[0]}; expected text or numbers") from error


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
    """The table of an Arrow file, memory-mapped. Raises InputError if the file is damaged."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, str(error).splitlines()[0]) from error
    return table
