"""The process that serves an index: where it listens, and what a connection may not do."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import uvicorn
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from common.errors import InputError
from serving import app
from serving.live_index import LiveIndex

MAX_CONNECTIONS = 4000
MAX_HEADER_BYTES = 64 << 10
SECONDS_FOR_HEADERS = 10
SECONDS_TO_END = 10  # for the requests that are being answered when the service is stopped


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000, images: Path | None = None,
          model: str | None = None) -> None:
    """Serve an index until the process is stopped.

    Args:
        folder: of the index.
        host, port: where to listen; port 0 takes one that is free.
        images: the folder that ``image_file`` of the items is relative to.
        model: where the encoder of the index's features is now, if it isn't where the index says.

    Raises:
        InputError: no index, no such folder, or the address can't be listened at.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"--images {images}: no such folder; expected the folder of the image files")
    listening = listen(host, port)
    _allow_connections()
    # NumPy multiplies small matrices here; waiting for a second thread on a busy machine takes a hundred times as long.
    threadpool_limits(1, user_api="blas")
    live = LiveIndex(folder, model)
    host, port = listening.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} searches {folder}: {len(live.version.index):,} items")
    for modality, encoder in live.version.encoders.items():
        print(f"{modality} queries: {encoder if isinstance(encoder, InputError) else 'ready'}", flush=True)
    uvicorn.Server(config(app.make(live, images))).run([listening])


def config(application: app.ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(application, http=Connection, ws="none", access_log=False, log_level="warning",
                          server_header=False, date_header=False, proxy_headers=False,
                          timeout_graceful_shutdown=SECONDS_TO_END)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises InputError if it can't."""
    if not 0 <= port < 1 << 16:  # getaddrinfo takes the rest of a division
        raise InputError(f"--port {port}: expected 0 to {(1 << 16) - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MAX_CONNECTIONS)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there: "
                         f"{getattr(error, 'strerror', None) or error}") from None
    return listening


def _allow_connections() -> None:
    """Let the process have as many files open as it takes connections, if the system allows that."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard),
                                                    hard))


class Connection(HttpToolsProtocol):
    """A client's connection, which is closed if the headers of a request don't come within some seconds, or don't end.
    """

    timer: asyncio.TimerHandle | None = None
    header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "too many connections; try again")
        else:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_are_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.timer is None and self.cycle is not None and self.cycle.response_complete:
            self._wait_for_headers()
        super().data_received(data)
        if self.timer is not None:
            self.header_bytes += len(data)
            if self.header_bytes > MAX_HEADER_BYTES:
                self._refuse(431, f"the headers: more than {MAX_HEADER_BYTES:,} bytes")

    def on_headers_complete(self) -> None:
        self._headers_are_there()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:  # the rest of a body that wasn't wanted is read and dropped
            self.header_bytes -= len(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "not an HTTP request")

    def _wait_for_headers(self) -> None:
        self.header_bytes = 0
        self.timer = self.loop.call_later(SECONDS_FOR_HEADERS, self._refuse, 408,
                                          f"no request within {SECONDS_FOR_HEADERS} seconds")

    def _headers_are_there(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _refuse(self, status: int, sentence: str) -> None:
        self._headers_are_there()
        if not self.transport.is_closing():
            content = msgspec.json.encode({"error": sentence})
            self.transport.write(STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n"
                                 b"content-length: %d\r\n\r\n" % len(content) + content)
            self.transport.close()
