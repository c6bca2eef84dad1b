"""The HTTP side of the service: what can be asked where, and what a client may not do."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import msgspec
import numpy as np
import swagger_ui_bundle
from starlette.applications import Starlette
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from common.errors import InputError
from serving import messages, openapi
from serving.batches import Batches
from serving.live_index import LiveIndex, Query, Version
from serving.messages import Item, ItemsRequest, ItemsResponse, SearchRequest

SECONDS = 30  # for a request, with receiving and sending
SECONDS_TO_RECEIVE = 15  # a body
MAX_JSON_BYTES = 1 << 20
MAX_PICTURE_BYTES = 20 << 20
MAX_BYTES_HELD = 256 << 20  # of the bodies of all requests together that aren't answered yet
BATCH = 64  # queries searched at once
PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src 'self' blob: data:; form-action 'self'; base-uri 'none'; "
                               "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # an SVG may have scripts and links in it
DOCS_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"


class _Id(IntegerConvertor):
    regex = "[0-9]{1,19}"  # Starlette's own takes any number of digits, of which Python refuses to make a number


register_url_convertor("id", _Id())


class Service:
    """The answers to requests."""

    def __init__(self, live: LiveIndex, images: Path | None):
        """Serve an index, with the pictures of its items from the folder ``images``."""
        self.live, self.images = live, None if images is None else images.resolve()
        self.started, self.held = time.monotonic(), 0
        self.searches = Batches(lambda queries: queries[0].version.search(queries), lambda query: query.key, BATCH)
        self.encoded = {modality: Batches(
            lambda asked, modality=modality: asked[0][0].features(modality, [item for _, item in asked]),
            lambda asked: id(asked[0]), size) for modality, size in (("text", BATCH), ("image", 4))}

    # --- searching ------------------------------------------------------------------------------------

    async def search(self, request: Request) -> Response:
        """The nearest of a query: a JSON object, or a picture with the other settings in the URL."""
        request.state.held = 0
        try:
            return await self._search(request)
        finally:
            self.held -= request.state.held  # only now, as the body is in memory until it is answered

    async def _search(self, request: Request) -> Response:
        version = self.live.current()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method in ("GET", "HEAD"):
            asked, picture = messages.from_parameters(SearchRequest, request.query_params), None
        elif kind == "application/json":
            asked, picture = messages.from_json(await self._body(request, MAX_JSON_BYTES)), None
        elif kind.startswith("image/") or kind == "application/octet-stream":
            asked = messages.from_parameters(SearchRequest, request.query_params)
            picture = await self._body(request, MAX_PICTURE_BYTES)
        else:
            raise HTTPException(415, f"Content-Type: found {kind!r:.100}; expected application/json or that of a "
                                     f"picture, such as image/jpeg")
        if sum(given is not None for given in (asked.text, asked.item, asked.features, picture)) != 1:
            raise HTTPException(400, "expected one query: text, item, features or a picture")
        query = Query(version, asked)
        version.check(query)
        if asked.text is not None:
            features = {"text": await self._encode(version, "text", messages.words(asked.text))}
        elif picture is not None:
            features = {"image": await self._encode(version, "image", picture)}
        elif asked.features is not None:
            features = {name: np.array(values) for name, values in asked.features.items()}
        else:
            features = None
        if features is not None:
            query = Query(version, asked, features)
        return Response(await self.searches(query), media_type="application/json")

    async def _encode(self, version: Version, modality: str, item: str | bytes) -> np.ndarray:
        return await self.encoded[modality]((version, item))

    async def _body(self, request: Request, limit: int) -> bytes:
        """The body. Raises HTTPException if it is larger than ``limit``, takes too long, or too much is held."""
        chunks = []
        try:
            async with asyncio.timeout(SECONDS_TO_RECEIVE):
                if int(request.headers.get("content-length", 0)) > limit:  # before a client is told to go on sending
                    raise HTTPException(413, f"the body: more than {limit:,} bytes")
                async for chunk in request.stream():
                    request.state.held += len(chunk)
                    self.held += len(chunk)
                    if request.state.held > limit:
                        raise HTTPException(413, f"the body: more than {limit:,} bytes")
                    if self.held > MAX_BYTES_HELD:
                        raise HTTPException(503, "too much is being received and answered; try again",
                                            {"Retry-After": "5"})
                    chunks.append(chunk)
        except TimeoutError:
            raise HTTPException(408, f"the body: not here within {SECONDS_TO_RECEIVE} seconds",
                                {"Connection": "close"}) from None
        return b"".join(chunks)

    # --- items ----------------------------------------------------------------------------------------

    async def items(self, request: Request) -> Response:
        """Some items in the order of their ids."""
        version, asked = self.live.current(), messages.from_parameters(ItemsRequest, request.query_params)
        ids = version.index.ids
        if asked.filter is not None:
            ids = ids[await asyncio.to_thread(version.rows, asked.filter)]
        some = ids[asked.offset:asked.offset + asked.limit].tolist()
        listed = [Item(*fields) for fields in zip(some, version.describe(some))]
        return _json(ItemsResponse(len(ids), asked.offset, listed))

    async def item(self, request: Request) -> Response:
        """What the index knows of an item."""
        version, item = self._item(request)
        return _json(Item(item, version.describe([item])[0]))

    async def image(self, request: Request) -> Response:
        """The picture of an item, from the folder of the pictures and nowhere else."""
        version, item = self._item(request)
        row = int(np.searchsorted(version.index.ids, item))
        name = version.index.items["image_file"][row].as_py() if "image_file" in version.columns else None
        if self.images is not None and name:
            # A name that is too long or has a null character, links in a circle
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                path = (self.images / str(name)).resolve()
                kind = mimetypes.guess_type(path.name)[0] or ""
                if path.is_relative_to(self.images) and path.is_file() and kind.startswith("image/"):
                    return FileResponse(path, media_type=kind, headers={
                        **HEADERS, "Content-Security-Policy": IMAGE_POLICY, "Cache-Control": "max-age=3600"})
        raise HTTPException(404, f"item {item}: no picture")

    def _item(self, request: Request) -> tuple[Version, int]:
        version, item = self.live.current(), request.path_params["item"]
        if not version.has(item):
            raise HTTPException(404, f"item {item}: not in the index")
        return version, item

    async def values(self, request: Request) -> Response:
        """The values of the columns that can be chosen from a list."""
        return _json(await asyncio.to_thread(self.live.current().values))

    # --- the service ----------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """What is served, and whether all is well."""
        version = self.live.version
        answer: dict = {"status": "ok" if self.live.problem is None else "old" if version else "gone",
                        "problem": self.live.problem, "seconds_up": round(time.monotonic() - self.started)}
        if version is not None:
            about = version.index.about
            answer |= {
                "index": {"items": len(version.index), **{key: about[key] for key in ("version", "written", "kind",
                                                                                      "modality", "bits")},
                          "lengths": version.index.lengths, "columns": version.columns,
                          "rescore": version.index.outputs is not None},
                "features": version.widths, "images": self.images is not None and "image_file" in version.columns,
                "encoders": {modality: "ready" if not isinstance(encoder, InputError) else str(encoder)
                             for modality, encoder in version.encoders.items()}}
        return _json(answer, 503 if version is None else 200)

    async def description(self, request: Request) -> Response:
        """The service as an OpenAPI document."""
        return _json(openapi.DOCUMENT)


def make(live: LiveIndex, images: Path | None = None) -> ASGIApp:
    """The application that serves an index, with the pictures of its items from the folder ``images``."""
    service = Service(live, images)

    @contextlib.asynccontextmanager
    async def following(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(live.follow())
        yield
        task.cancel()

    routes = [
        Route("/search", service.search, methods=["GET", "POST"]), Route("/values", service.values),
        Route("/items", service.items), Route("/items/{item:id}", service.item),
        Route("/items/{item:id}/image", service.image), Route("/health", service.health),
        Route("/openapi.json", service.description), Route("/", _file("index.html", HEADERS)),
        Route("/docs", _file("docs.html", {**HEADERS, "Content-Security-Policy": DOCS_POLICY})),
        Mount("/page", StaticFiles(directory=PAGE)),
        Mount("/swagger", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))]
    return Limited(Starlette(routes=routes, lifespan=following, exception_handlers={
        HTTPException: _refusal, InputError: _bad_input, ClientDisconnect: _bad_input, Exception: _failure}))


class Limited:
    """Gives a request so many seconds."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(None if scope["type"] == "lifespan" else SECONDS):
                await self.app(scope, receive, noting)
        except TimeoutError:
            if not started:
                await error(503, f"not done within {SECONDS} seconds; try again", {"Connection": "close"})(
                    scope, receive, send)


def error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """An answer that says in a sentence what is wrong."""
    return _json(messages.Error(" ".join(sentence.split())), status, headers)


def _json(content, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _refusal(request: Request, exception: HTTPException) -> Response:
    detail = exception.detail
    if detail == HTTPStatus(exception.status_code).phrase:  # of Starlette's own, where nothing is or takes the method
        detail = f"{request.method} {request.url.path[:100]}: {detail.lower()}; /docs lists what can be asked"
    return error(exception.status_code, detail, exception.headers)


def _bad_input(request: Request, exception: Exception) -> Response:
    return error(400, str(exception))


def _failure(request: Request, exception: Exception) -> Response:
    return error(500, "the service failed at this request; its log says why")


def _file(name: str, headers: dict[str, str]):
    async def send(request: Request) -> Response:
        return FileResponse(PAGE / name, headers=headers)
    return send
