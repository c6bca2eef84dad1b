"""Requests to the service: a file holds one as HTTP/1.1 writes it, and reading it is asking the service."""

from __future__ import annotations

import asyncio
import functools
import io
import re
import tempfile
import urllib.parse
from pathlib import Path

import numpy as np

from common import json_text
from common.errors import InputError
from indexing.index import Index
from model import HashModel
from training import checkpoint

PACKAGES = ("starlette", "msgspec", "swagger_ui_bundle")
JSON = ("content-type: application/json",)
WANTED = urllib.parse.quote('{"kind": ["animal", "plant"], "year": 2}')
REQUESTS: tuple[tuple[str, tuple[str, ...], bytes], ...] = (
    ("POST /search", JSON, b'{"text": "smiling cat", "topk": 5, "rescore": 9, "offset": 1, "limit": 3}'),
    ("POST /search", JSON, b'{"item": 4, "radius": 6, "filter": {"kind": ["animal", "plant"], "year": 2}}'),
    ("POST /search", JSON, b'{"features": {"image": [0.5, -1.5, 2.0], "text": [1, 2]}, "bits": 8, "rerank": 20}'),
    ("POST /search?topk=3", ("content-type: image/png",), b"picture"),
    (f"GET /search?text=smiling+cat&topk=5&filter={WANTED}", (), b""),
    ("GET /search?item=4&bits=8&rescore=20&offset=2&limit=3", (), b""),
    (f"GET /items?filter={WANTED}&offset=1&limit=5", (), b""), ("GET /items/4", (), b""),
    ("GET /items/4/image", ("range: bytes=0-9", "if-range: x"), b""),
    ("GET /page/page.js", ("range: bytes=5-", "if-none-match: x", "if-modified-since: Mon, 30 Nov 2026 00:00:00 GMT"),
     b""),
    ("GET /values", (), b""), ("GET /health", (), b""), ("HEAD /openapi.json", (), b""), ("GET /docs", (), b""))
HEADER = re.compile(rb"([A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
FRAGMENTS = (b"null", b"-1", b"1e999", b"9" * 5000, b"[" * 5000, b"%00", b"%ff", b"%2e%2e/", b"\\ud800", b"&", b"NaN",
             b"range: bytes=-1\r\n", b"expect: 100-continue\r\n")


def write(number: int, folder: Path) -> Path:
    """One of the REQUESTS as a file."""
    line, headers, body = REQUESTS[number]
    head = "\r\n".join((f"{line} HTTP/1.1", "host: here", *headers))
    (folder / "request").write_bytes(head.encode() + b"\r\n\r\n" + (picture() if body == b"picture" else body))
    return folder / "request"


def picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def ask(path: Path) -> None:
    """Ask the service: InputError if it refuses the request, RuntimeError if it fails at it."""
    scope, body = parsed(path.read_bytes())
    sent: list[dict] = []
    received = iter([{"type": "http.request", "body": body}])

    async def receive() -> dict:
        return next(received, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    loop, application = service()
    loop.run_until_complete(application(scope, receive, send))
    status, content = sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
    if status >= 500:
        raise RuntimeError(f"status {status}: {content[:200]!r}")
    if status >= 400 and scope["method"] != "HEAD":  # which has no body
        raise InputError(json_text.parse(content)["error"] if content[:1] == b"{" else content.decode())


def parsed(request: bytes) -> tuple[dict, bytes]:
    """A request as the server hands it on, and its body. What no server would hand on is left out or, in a URL, made
    an escape, as clients do.
    """
    head, _, body = request.partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    method, _, target = line.removesuffix(b" HTTP/1.1").partition(b" ")
    path, _, query = urllib.parse.quote(target.lstrip(b"/"), safe="%/?:@!$&'()*+,;=~-._").partition("?")
    pairs = [(name.lower(), value.strip()) for name, value in HEADER.findall(b"\r\n".join([*headers, b""]))]
    return {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": "",
            "method": re.sub("[^A-Z]", "", method.decode("latin-1")) or "GET", "path": f"/{urllib.parse.unquote(path)}",
            "raw_path": f"/{path}".encode(), "query_string": query.encode(), "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000), "headers": [*pairs, (b"content-length", b"%d" % len(body))]}, body


@functools.cache
def service() -> tuple[asyncio.AbstractEventLoop, object]:
    """The service over an index of 60 items, with encoders that need no package."""
    from serving import app, live_index
    from toy_encoders import toy_encoders

    folder, items = Path(tempfile.mkdtemp()), 60
    rng = np.random.default_rng(0)
    model = checkpoint.save_model(folder / "toy_hash.pth", HashModel(3, 2, [8, 16], hidden=16, nested=True),
                                  dataset="toy", fingerprint="0" * 64, epoch=1)
    columns = {"caption": np.array([f"<i>item</i> {row}" for row in range(items)]),
               "kind": np.array(["animal", "plant", "stone"])[np.arange(items) % 3], "year": np.arange(items) // 10,
               "weight": np.where(np.arange(items) % 2, 1.5, np.nan),
               "image_file": np.array([f"{row}.png" for row in range(items)])}
    Index.build(folder / "index", model, image=rng.normal(size=(items, 3)).astype(np.float32), columns=columns,
                ids=2 * np.arange(items), rescore="int8", source={"encoders": "toy"})
    for row in range(items):
        (folder / f"{row}.png").write_bytes(picture())
    live_index.encoders.like = lambda recorded, modality, model=None: getattr(toy_encoders(), modality)
    return asyncio.new_event_loop(), app.make(live_index.LiveIndex(folder / "index"), folder)
