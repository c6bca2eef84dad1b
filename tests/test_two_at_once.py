"""Two of everything on one folder, file or table: either both are right, or the second is refused in one line."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.distributed

import load_data
import search
from attack import operations
from common import locks
from common.errors import InputError
from exporting import databases
from extraction import chunks
from extraction.encoders import Encoder, packaged
from indexing import index as index_module
from indexing import shards
from indexing.index import Index
from test_databases import postgres  # noqa: F401, a fixture
from test_extraction import collection, content, make_dataset
from toy import write_toy
from toy_encoders import lengths, stub_encoders, toy_encoders  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parent.parent
ITEMS = operations.ITEMS


class Held:
    """Work in another thread, held in the midst of it by its call of :attr:`hold` until the context ends."""

    def __init__(self, work: Callable[[Callable], object]):
        self.reached, self.free = threading.Event(), threading.Event()
        self.pool = ThreadPoolExecutor(1)
        self.done = self.pool.submit(work, self.hold)
        self.done.add_done_callback(lambda _: self.reached.set())

    def hold(self, *_: object) -> None:
        self.reached.set()
        assert self.free.wait(60)

    def __enter__(self) -> Held:
        self.reached.wait()
        assert not self.done.done() or self.done.result()
        return self

    def __exit__(self, *error: object) -> None:
        self.free.set()
        self.pool.shutdown()
        self.done.result()


@pytest.fixture
def items(tmp_path):
    """The folder of an index of the old items, with the features of new ones beside it."""
    operations.prepare_index(tmp_path)
    return tmp_path


def build(items: Path, name: str, **more) -> Index:
    features = np.load(items / f"{name}.npy")
    return Index.build(items / "index", items / "model.pth", image=features, rescore="int8", **more)


def answer(index: Index, items: Path) -> bytes:
    return index.query(text=np.load(items / "queries.npy"), topk=10, rescore=20).id.tobytes()


def test_a_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def acquire(self):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with pytest.raises(InputError, match="lock: cannot be locked: No locks available; choose a folder on a file system"):
        with locks.alone(tmp_path / "lock", "taken"):
            raise AssertionError("held")


# --- an index ---------------------------------------------------------------------------------------------------------


def test_queries_while_an_index_is_replaced_again_and_again(items, capsys, monkeypatch):
    parse, one_at_a_time = ast.literal_eval, threading.Lock()

    def parse_alone(text: str) -> object:
        with one_at_a_time:
            return parse(text)

    monkeypatch.setattr(ast, "literal_eval", parse_alone)  # Python 3.11.7 can't in two threads at once (gh-106905)
    known = {answer(build(items, name), items) for name in ("old", "new")}
    assert len(known) == 2
    over = threading.Event()

    def ask(way: int) -> tuple[int, set[bytes]]:
        count, found = 0, set()
        while not over.is_set():
            if way == 0:
                search.main(["info", "--folder", str(items / "index")])
            found.add(answer(Index.load(items / "index", verify=way == 1), items))
            count += 1
        return count, found

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, way) for way in range(3)]
        try:
            for number in range(16):
                build(items, ("old", "new")[number % 2])
        finally:
            over.set()
        results = [each.result() for each in asked]
    assert all(found <= known for _, found in results) and min(count for count, _ in results) > 3, results
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("anew", [False, True])
def test_an_index_replaced_while_it_is_opened_is_opened_anew(items, anew, monkeypatch):
    """By a new version, or by an index in a folder made anew, whose version has the number of the old one."""
    check = index_module.check_files

    def replaced(version, files):
        monkeypatch.undo()
        if anew:
            shutil.rmtree(items / "index")
        build(items, "new")
        if not anew:
            (version / "codes.npy").stat()  # fails, as between two looks at the file
        check(version, files)

    monkeypatch.setattr(index_module, "check_files", replaced)
    index = Index.load(items / "index")
    assert answer(index, items) == answer(build(items, "new"), items)


def test_an_opened_index_that_was_replaced_still_answers_and_says_what_it_cannot_do(items):
    index = Index.load(items / "index")
    before = answer(index, items)
    build(items, "new")
    assert answer(index, items) == before
    for work in (index.verify, lambda: index.save(items / "copy"), lambda: index.remove([0])):
        with pytest.raises(InputError, match="index: another process has changed it since it was opened; open it agai"):
            work()


def test_the_processes_of_a_search_open_the_same_version(items, monkeypatch):
    gather, seen = torch.distributed.all_gather_object, []

    def other_first(answers, about):
        gather(answers, about)
        seen.append(about["version"])
        if len(seen) == 1:  # another process has opened the version after this one
            build(items, "new")
            answers[0] = Index.load(items / "index").about

    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "0"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "all_gather_object", other_first)
    with shards.open_index(items / "index") as index:
        assert seen == ["v1", "v2"] and index.about["version"] == "v2"


def test_beside_a_build_others_are_refused_and_queries_have_the_old_answer(items):
    before, opened = answer(Index.load(items / "index"), items), Index.load(items / "index")
    with Held(lambda hold: build(items, "new", progress=hold)):
        for work in (lambda: build(items, "old"), lambda: opened.add(image=np.load(items / "new.npy")),
                     lambda: opened.remove([0])):
            with pytest.raises(InputError, match="index: another process is writing this index; wait for it"):
                work()
        assert answer(Index.load(items / "index", verify=True), items) == before
    after = Index.load(items / "index", verify=True)
    assert after.about["version"] == "v2" and answer(after, items) != before
    with pytest.raises(InputError, match="another process has changed it"):
        opened.add(image=np.load(items / "new.npy"))
    assert answer(Index.load(items / "index", verify=True), items) == answer(after, items)


# --- a data set -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stub_encoders")
def test_a_second_extraction_to_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 8)
    pairs, out = collection(tmp_path / "pictures"), tmp_path / "mine.h5"
    make_dataset(out, pairs)
    expected = out.read_bytes()
    toy, batches = toy_encoders(), []

    def first(hold):
        def encode(texts):
            batches.append(texts)
            if len(batches) == 10:  # the first chunk is written
                hold()
            return lengths(texts)

        monkeypatch.setattr(packaged, "load", lambda: replace(toy, text=Encoder(toy.text.prepare, encode, 2)))
        make_dataset(out, pairs)

    with Held(first):
        with pytest.raises(InputError, match="mine.h5: another process is making this data set; wait for it"):
            make_dataset(out, pairs)
        assert out.read_bytes() == expected
    np.testing.assert_array_equal(content(out)["text"][:, 0], 1 + np.arange(30))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.h5", "pictures"]


def test_a_data_set_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(tmp_path):
    """As when a training reads what an extraction writes."""
    for name, spread in (("a", 1), ("b", 3)):
        write_toy(tmp_path / name, 300, 60, spread=spread)
    path = {name: tmp_path / name / "data" / "toy" / "toy.h5" for name in "ab"}
    sound = {load_data.load_dataset(each).fingerprint for each in path.values()}
    both = [each.read_bytes() for each in path.values()]
    over, replaced = threading.Event(), 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [load_data.load_dataset(path["a"]).fingerprint
                                       for _ in iter(over.is_set, True)])
        while not reading.done() and replaced < 300:
            load_data.write_atomically(path["a"], lambda file: file.write(both[replaced % 2]))
            replaced += 1
        over.set()
    assert len(sound) == 2 and set(reading.result()) <= sound and len(reading.result()) > 3


# --- a database -------------------------------------------------------------------------------------------------------


HOLDING = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"


def test_a_second_load_into_a_file_of_duckdb_is_refused(items, capsys):
    pytest.importorskip("duckdb")
    operations.load(items)
    with subprocess.Popen([sys.executable, "-c", HOLDING, items / "codes.duckdb"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            operations.load(items)
        other.communicate(b"\n")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and "Conflicting lock" in said
    operations.load(items)


def test_a_second_load_into_a_table_of_postgresql_is_refused(items, request, monkeypatch):
    place = request.getfixturevalue("postgres")
    monkeypatch.setattr(databases, "BATCH_ROWS", 16)
    old = Index.load(items / "index")
    with databases.opened(place) as database:
        database.execute("DROP TABLE IF EXISTS items")
    with Held(lambda hold: databases.load(old, place, "items", hold)):
        new = build(items, "new", columns={"caption": [f"other {row}" for row in range(ITEMS)]})
        with pytest.raises(InputError, match="items: another process is loading this table; wait for it"):
            databases.load(new, place, "items")
        assert databases.load(new, place, "others") == ITEMS
    for index, table in ((old, "items"), (new, "others")):
        with databases.opened(place) as database:
            rows = database.execute(f"SELECT id, CAST(code AS varchar) FROM {table} ORDER BY id").fetchall()
            database.execute(f"DROP TABLE {table}")
        assert rows == list(zip(index.ids.tolist(), databases.bit_strings(index.codes, index.bits)))


# --- a study ----------------------------------------------------------------------------------------------------------


STUDY_TWICE = """
import multiprocessing, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import benchmark, reporting.page
from benchmarks import trainings
from common import hamming_loops  # loaded once
from benchmarks.studies import DEFAULT, STUDIES

STUDIES["methods"] = {DEFAULT: {"batch_size": 16, "hidden": 8}}
fork = multiprocessing.get_context("fork")
trainings.multiprocessing.get_context = lambda kind: fork  # nothing is loaded again
reporting.page.shown_figure = lambda caption, figure: {"caption": caption, "svg": "", "downloads": []}
benchmark.draw = lambda *about: []  # takes longer than the trainings
study = ["--datasets", "toy", "--data_dir", sys.argv[1], "--hash_lens", "4", "6", "--epoch", "2", "--eval_every", "1",
         "--device", "cpu", "--jobs", "1", "--seeds", "1", "--methods", "CCA-ITQ", DEFAULT, "--results_dir"]
children = [fork.Process(target=benchmark.main, args=([*study, results],)) for results in sys.argv[2:]]
for child in children:
    child.start()
for child in children:
    child.join()
sys.exit(max(child.exitcode for child in children))
"""


@pytest.mark.slow
def test_a_study_twice_at_once_is_right(tmp_path):
    write_toy(tmp_path, pairs=90, queries=20, text_width=6)
    done = subprocess.run([sys.executable, "-c", STUDY_TWICE, tmp_path / "data", *[tmp_path / "two"] * 2,
                           tmp_path / "one"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def figures(results: str) -> dict:
        text = (tmp_path / results / "toy/benchmark/methods.json").read_text("utf-8")
        return {label: {bits: [{key: value for key, value in entry.items() if key != "seconds"} for entry in entries]
                        for bits, entries in lengths.items()} for label, lengths in json.loads(text)["methods"].items()}

    assert figures("two") == figures("one") and len(figures("one")) == 2
    names = [{path.name for path in (tmp_path / results / "toy/benchmark").iterdir()} for results in ("one", "two")]
    assert names[0] == names[1]
