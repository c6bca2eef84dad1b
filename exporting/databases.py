"""An index in a table of a database, PostgreSQL with pgvector or DuckDB: written in batches, compared with the index.

The table has ``id``, ``code`` and the columns of the items. Bit j of a code is its character j, from the left, so that
the first bits of a nested code are ``substring(code FROM 1 FOR 32)``.

The table's comment is a JSON object that says what is in it: bits, model and columns, the content of the index that is
being loaded, and the largest id that has been ``done``. A batch is a range of ids. One transaction replaces the rows
of the range and moves ``done`` on, so the table is sound whenever the load is stopped, and the next one goes on there.
An index with another content is loaded from the start, range by range: rows that it no longer has go, changed ones
change.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from common import json_text
from common.errors import InputError
from common.packages import optional
from exporting.parquet import schema_of, tables_of
from indexing import nearest
from indexing.features import Progress
from indexing.index import Index

REQUIREMENTS = "requirements-database.txt"
BATCH_ROWS = 1 << 14
CONNECT_SECONDS = 10
TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
CHECKED_QUERIES, CHECKED_TOPK = 20, 10


# --- the two databases ----------------------------------------------------------------------------


class Postgres:
    """A connection to PostgreSQL with pgvector 0.7 or newer, whose ``<~>`` is the Hamming distance of bit strings."""

    CODE_TYPE = "bit({bits})"
    DISTANCE = "code <~> B'{code}'"

    def __init__(self, place: str):
        with optional(REQUIREMENTS):
            import psycopg
        self.connection = psycopg.connect(place, autocommit=True, connect_timeout=CONNECT_SECONDS)
        self.execute, self.transaction = self.connection.execute, self.connection.transaction
        self.close = self.connection.close

    def lock(self, table: str) -> bool:
        """Keep other loads of a table away until this connection ends; whether there is none already."""
        return self.execute("SELECT pg_try_advisory_lock(hashtextextended(current_schema() || '.' || %s, 0))",
                            [table]).fetchone()[0]

    def prepare(self) -> None:
        """Give the database what a table of codes needs."""
        self.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def comment(self, table: str) -> tuple[bool, str | None]:
        """Whether there is such a table, and its comment."""
        return self.execute("SELECT oid IS NOT NULL, obj_description(oid, 'pg_class') FROM (SELECT to_regclass(%s)) "
                            "AS found(oid)", [f'"{table}"']).fetchone()

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows whose codes are strings of 0 and 1."""
        with self.connection.cursor().copy(f'COPY "{table}" FROM STDIN') as copy:
            for row in zip(*(column.to_pylist() for column in rows.columns)):
                copy.write_row(row)

    def search_exactly(self) -> None:
        """Use no approximate index in this transaction."""
        self.execute("SET LOCAL enable_indexscan = off")


class DuckDB:
    """A file of DuckDB, opened."""

    CODE_TYPE = "bit CHECK (bit_length(code) = {bits})"
    DISTANCE = "bit_count(xor(code, '{code}'::bit))"

    def __init__(self, place: str):
        with optional(REQUIREMENTS):
            import duckdb
        path = Path(place.partition(":")[2]).absolute()
        new = not path.exists()
        try:
            self.connection = duckdb.connect(str(path))
        except duckdb.Error:
            if new:
                path.unlink(missing_ok=True)  # what has been begun could not be opened again
            raise
        self.execute, self.close = self.connection.execute, self.connection.close

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done inside happens whole or not at all."""
        self.connection.begin()
        try:
            yield
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()

    def lock(self, table: str) -> bool:
        """True: DuckDB itself lets one process open a file."""
        return True

    def prepare(self) -> None:
        """Nothing: DuckDB knows bit strings."""

    def comment(self, table: str) -> tuple[bool, str | None]:
        """Whether there is such a table, and its comment."""
        return self.execute("SELECT true, comment FROM duckdb_tables() WHERE lower(table_name) = lower(?) AND "
                            "schema_name = current_schema() AND database_name = current_database()",
                            [table]).fetchone() or (False, None)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Append rows whose codes are strings of 0 and 1."""
        self.connection.register("new_rows", rows)
        self.execute(f'INSERT INTO "{table}" SELECT * FROM new_rows')

    def search_exactly(self) -> None:
        """Nothing: DuckDB has no index of codes."""


@contextlib.contextmanager
def opened(place: str) -> Iterator[Postgres | DuckDB]:
    """The database at ``place``, closed afterwards.

    Raises:
        InputError: no such kind of database, a missing package, or what the database refuses; the transaction in which
            it happens is undone.
    """
    kind, _, rest = place.partition(":")
    if not rest or kind not in DATABASES:
        raise InputError("--to: expected postgres://USER@HOST/DATABASE or duckdb:FILE")
    database = None
    try:
        database = DATABASES[kind](place)
        yield database
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("psycopg", "duckdb", "_duckdb"):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"--to {kind}: {reason}; what the database had before is unchanged") from error
    finally:
        if database is not None:
            database.close()


DATABASES = {"postgres": Postgres, "postgresql": Postgres, "duckdb": DuckDB}


# --- loading --------------------------------------------------------------------------------------


def load(index: Index, place: str, table: str, progress: Progress = lambda items: None) -> int:
    """Make a table hold what the index holds, going on where an interrupted load of the same index stopped.

    Args:
        place: postgres://USER@HOST/DATABASE (any URL that libpq takes) or duckdb:FILE.
        table: its name; letters, digits and underscores.
        progress: is called with the number of items done since the last call.

    Returns:
        How many rows were written; the others were there already.

    Raises:
        InputError: as :func:`opened`, or another process is loading the table, or it is not one of :func:`load`, or is
            one of other bits, of another model or of other columns; it is left as it was.
    """
    if not TABLE_NAME.fullmatch(table):
        raise InputError(f"--table {table}: expected a name of letters, digits and underscores, 63 at most")
    content = {name: index.about["files"][name]["sha256"] for name in ("codes.npy", "ids.npy", "items.arrow")
               if name in index.about["files"]}
    columns = {field.name: sql_type(field.type) for field in list(schema_of(index))[2:]}
    note = {"loaded_by": "search.py load", "bits": index.bits, "model": index.about["model"]["sha256"],
            "columns": columns, "content": content, "done": -1}
    with opened(place) as database:
        if not database.lock(table):
            raise InputError(f"{table}: another process is loading this table; wait for it")
        there, comment = database.comment(table)
        if there:
            found = read_note(comment, note, table)
            if found["content"] == content:
                note["done"] = found["done"]
        start = int(np.searchsorted(index.ids, note["done"], side="right"))
        written = len(index) - start
        progress(start)
        for rows in tables_of(index, BATCH_ROWS, start):
            first, last = note["done"], rows["id"][-1].as_py()
            upper = f" AND id <= {last}" if last != index.ids[-1] else ""
            note["done"] = last
            with database.transaction():
                if not there:
                    database.prepare()
                    code = f"code {database.CODE_TYPE.format(bits=index.bits)} NOT NULL"
                    others = [f"{quoted(name)} {kind}" for name, kind in columns.items()]
                    database.execute(f'CREATE TABLE "{table}" ({", ".join(["id bigint PRIMARY KEY", code, *others])})')
                    there = True
                else:
                    database.execute(f'DELETE FROM "{table}" WHERE id > {first}{upper}')
                codes = pa.array(bit_strings(index.codes[start:start + len(rows)], index.bits))
                database.insert(table, rows.set_column(1, "code", codes))
                text = json.dumps(note).replace("'", "''")
                database.execute(f"COMMENT ON TABLE \"{table}\" IS '{text}'")
            start += len(rows)
            progress(len(rows))
        return written


def check(index: Index, place: str, table: str) -> int:
    """Compare a table with the index: the number of rows and, with some codes of the index as queries, the nearest 10
    of an exact search, ids and distances, ties by id. Returns the number of queries.

    Raises:
        InputError: as :func:`opened`, or a difference.
    """
    with opened(place) as database, database.transaction():
        database.search_exactly()
        count = database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        if count != len(index):
            raise InputError(f"{table}: holds {count:,} rows, expected {len(index):,}; remove the table and load again")
        rows = np.unique(np.linspace(0, len(index) - 1, CHECKED_QUERIES).astype(np.int64))
        topk = min(CHECKED_TOPK, len(index))
        for row, *expected in zip(rows, *nearest.Flat(index.codes).nearest(index.codes[rows], topk)):
            distance = database.DISTANCE.format(code=bit_strings(index.codes[row:row + 1], index.bits)[0])
            found = database.execute(f'SELECT {distance} AS distance, id FROM "{table}" ORDER BY distance, id '
                                     f"LIMIT {topk}").fetchall()
            for got, wanted in zip(found, zip(expected[0], index.ids[expected[1]])):
                if tuple(map(int, got)) != tuple(map(int, wanted)):
                    raise InputError(f"{table}: of the nearest to item {index.ids[row]}, found id {got[1]} at distance "
                                     f"{got[0]:g}, expected id {wanted[1]} at {wanted[0]}; remove the table and load "
                                     f"again")
    return len(rows)


def read_note(comment: str | None, note: dict, table: str) -> dict:
    """The note in a table's comment. Raises InputError if there is none, or for another kind of codes or columns."""
    try:
        found = json_text.parse(comment or "")
        differing = [key for key in ("bits", "model", "columns") if found[key] != note[key]]
        if type(found["done"]) is not int or "content" not in found:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{table}: there is such a table, which search.py load has not made; give another --table"
                         ) from None
    if differing:
        key = differing[0]
        raise InputError(f"{table}: there is such a table, of another index: its {key}: {found[key]}, expected "
                         f"{note[key]}; give another --table, or remove that one")
    return found


def bit_strings(codes: np.ndarray, bits: int) -> list[str]:
    """Packed codes as strings of 0 and 1, whose character j is bit j."""
    characters = np.unpackbits(np.asarray(codes), axis=1, count=bits, bitorder="little") + np.uint8(ord("0"))
    return [row.tobytes().decode() for row in characters]


def sql_type(kind: pa.DataType) -> str:
    """The type of a column in SQL; text for what is no number."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "numeric(20)" if kind == pa.uint64() else "bigint"
    if pa.types.is_floating(kind):
        return "double precision"
    return "text"


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'
