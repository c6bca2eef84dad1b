"""An index as one Parquet file, for vector databases and other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from common.atomic_files import write_atomically
from common.errors import InputError
from indexing.index import Index

WRITTEN_ROWS = 1 << 16


def write_parquet(index: Index, path: Path) -> None:
    """Write ``id``, ``code`` (fixed-size binary) and the columns of the items; bits and bit order are metadata.

    Raises InputError if the file can't be written or isn't named .parquet.
    """
    if path.suffix != ".parquet":
        raise InputError(f"--out {path}: expected the name of a .parquet file")
    width = index.codes.shape[1]
    fields = [] if index.items is None else [  # two columns of one name could not be read
        field.with_name(f"item_{field.name}") if field.name in ("id", "code") else field
        for field in index.items.schema]
    schema = pa.schema([pa.field("id", pa.int64(), False), pa.field("code", pa.binary(width), False), *fields],
                       metadata={"bits": str(index.bits), "bit_order": index.about["bit_order"],
                                 "model_sha256": index.about["model"]["sha256"]})

    def write(file) -> None:
        with pa.parquet.ParquetWriter(file, schema) as writer:
            for start in range(0, len(index), WRITTEN_ROWS):
                part = slice(start, start + WRITTEN_ROWS)
                codes = np.array(index.codes[part])
                packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(codes), [None, pa.py_buffer(codes)])
                columns = [pa.array(index.ids[part]), packed]
                if index.items is not None:
                    columns += index.items.slice(start, len(codes)).columns
                writer.write_table(pa.table(columns, schema=schema))

    write_atomically(path, write)
