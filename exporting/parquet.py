"""The items of an index as Arrow tables, and as one Parquet file, for databases and other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from common.atomic_files import write_atomically
from common.errors import InputError
from indexing.index import Index

WRITTEN_ROWS = 1 << 16


def schema_of(index: Index) -> pa.Schema:
    """``id``, ``code`` (fixed-size binary) and the columns of the items; bits and bit order are metadata.

    A column of the items that is named as another, too, gets ``item_`` before its name: upper and lower case are the
    same, as some databases take them.
    """
    items = [] if index.items is None else list(index.items.schema)
    own, taken, fields = {field.name.lower() for field in items}, {"id", "code"}, []
    for field in items:
        name = field.name
        if name.lower() in taken:
            while name.lower() in taken | own:
                name = f"item_{name}"
        taken.add(name.lower())
        fields.append(field.with_name(name))
    code = pa.binary(index.codes.shape[1])
    return pa.schema([pa.field("id", pa.int64(), False), pa.field("code", code, False), *fields],
                     metadata={"bits": str(index.bits), "bit_order": index.about["bit_order"],
                               "model_sha256": index.about["model"]["sha256"]})


def tables_of(index: Index, rows: int, start: int = 0) -> Iterator[pa.Table]:
    """The items from row ``start`` on in the order of their ids, as tables of ``rows`` items or fewer."""
    schema = schema_of(index)
    for first in range(start, len(index), rows):
        codes = np.array(index.codes[first:first + rows])
        packed = pa.FixedSizeBinaryArray.from_buffers(schema.field("code").type, len(codes),
                                                      [None, pa.py_buffer(codes)])
        columns = [pa.array(index.ids[first:first + rows]), packed]
        if index.items is not None:
            columns += index.items.slice(first, len(codes)).columns
        yield pa.table(columns, schema=schema)


def write_parquet(index: Index, path: Path) -> None:
    """Write the items as :func:`schema_of` says.

    Raises InputError if the file can't be written or isn't named .parquet.
    """
    if path.suffix != ".parquet":
        raise InputError(f"--out {path}: expected the name of a .parquet file")

    def write(file) -> None:
        with pa.parquet.ParquetWriter(file, schema_of(index)) as writer:
            for table in tables_of(index, WRITTEN_ROWS):
                writer.write_table(table)

    write_atomically(path, write)
