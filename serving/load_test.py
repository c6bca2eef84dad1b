"""Asks a running service as fast as it answers, and prints how fast that is.

    python search.py serve --folder index/openmoji/128
    python -m serving.load_test --queries features --clients 16 --seconds 10

Each client keeps a connection and asks again as soon as it has its answer. The clients share a process, which takes
processor time from a service on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np

from common.atomic_files import write_atomically
from common.errors import InputError, Parser, exit_on_bad_input

DIFFERENT = 512  # queries that are asked in turn
MAX_CLIENTS, MAX_SECONDS = 10_000, 86_400
WORDS = ("red", "smiling", "old", "cat", "woman", "flag", "heart", "car", "tree", "rain", "house", "music", "hand",
         "food", "clock", "arrow")


class Load(NamedTuple):
    """What a load test found; the percentiles are of the time of an answer."""

    queries: str
    clients: int
    seconds: float
    answers: int
    failures: int  # answers of another status than 200
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def measure(host: str, port: int, requests: Iterator[bytes], clients: int, seconds: float, name: str) -> Load:
    """Send requests from so many clients for so many seconds."""
    times, failures = asyncio.run(_ask(host, port, requests, clients, seconds))
    times = np.array(times) * 1000
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).round(2).tolist()
    return Load(name, clients, seconds, len(times), failures, round(len(times) / seconds, 1), p50, p95, p99,
                round(float(times.max()), 2))


async def _ask(host: str, port: int, requests: Iterator[bytes], clients: int,
               seconds: float) -> tuple[list[float], int]:
    times, failures = [], 0

    async def client(end: float) -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection(host, port)
        while (start := time.perf_counter()) < end:
            writer.write(next(requests))
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - start)
            failures += not head.startswith(b"HTTP/1.1 200")
        writer.close()

    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(end) for _ in range(clients)))
    return times, failures


def make_requests(url: str, kind: str, topk: int) -> list[bytes]:
    """Different queries of a kind: items of the index, random features, or words that no other query has together."""
    address, random = urlsplit(url), np.random.default_rng(0)
    with urlopen(f"{url}/health") as answer:
        health = json.load(answer)
    if kind == "items":
        with urlopen(f"{url}/items?limit={DIFFERENT}") as answer:
            asked = [{"item": item["id"]} for item in json.load(answer)["items"]]
    elif kind == "features":
        modality = "image" if health["index"]["modality"] == "text" else "text"
        vectors = random.normal(size=(DIFFERENT, health["features"][modality])).round(4)
        asked = [{"features": {modality: vector.tolist()}} for vector in vectors]
    else:
        words = list(itertools.permutations(WORDS, 3))
        asked = [{"text": " ".join(words[row])} for row in random.permutation(len(words))]
    bodies = [json.dumps({**each, "topk": topk}).encode() for each in asked]
    return [b"POST /search HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (address.netloc.encode(), len(body), body) for body in bodies]


def address_of(url: str) -> tuple[str, int]:
    """The host and the port of a service. Raises InputError."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and url.isascii() and url.isprintable() and " " not in url:
            return parts.hostname, parts.port or 80
    except ValueError:  # such as a port that is no number
        pass
    raise InputError(f"--url {url}: expected http://HOST:PORT")


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m serving.load_test", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    parser.add_argument("--queries", choices=("items", "features", "text"), nargs="+", default=["items", "features"])
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--topk", type=int, default=10)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the figures, too")
    options = parser.parse_args(argv)
    for name, most in (("clients", MAX_CLIENTS), ("seconds", MAX_SECONDS)):
        if not 0 < (value := getattr(options, name)) <= most:
            raise InputError(f"--{name} {value}: expected a number above 0, up to {most:,}")
    url, loads = options.url.rstrip("/"), []
    host, port = address_of(url)
    for kind in options.queries:
        try:
            requests = itertools.cycle(make_requests(url, kind, options.topk))
            measure(host, port, requests, options.clients, 1, kind)  # warm
            load = measure(host, port, requests, options.clients, options.seconds, kind)
        except (OSError, EOFError) as error:
            raise InputError(f"--url {url}: no answer ({error}); start the service with python search.py "
                             f"serve") from None
        except (HTTPException, ValueError, LookupError, TypeError) as error:
            raise InputError(f"--url {url}: another service ({type(error).__name__}: {error}); start this one with "
                             f"python search.py serve") from None
        loads.append(load)
        print(f"{kind}: {load.per_second:,} answers a second to {load.clients} clients, p50 {load.p50_ms} ms, "
              f"p95 {load.p95_ms} ms, p99 {load.p99_ms} ms, at most {load.max_ms} ms; {load.failures} failed")
    if options.out is not None:
        content = json.dumps([load._asdict() for load in loads], indent=1)
        write_atomically(options.out, lambda file: file.write(content), "w")


if __name__ == "__main__":
    main()
