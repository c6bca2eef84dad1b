"""Nearest codes by Hamming distance, over packed codes alone: exact, approximate, by a code's beginning, and merged
from parts.

Codes are uint8 rows from ``metric.pack_codes``. Every search orders its results by distance and, among equal distances,
by row: whoever splits the rows and merges the answers gets the same answer.

The exact search (:func:`common.hamming_loops.find_nearest`) runs on the code array where it is, also a memory-mapped
one, and needs next to no memory besides. NumPy does the work of a process that compares few codes: loading Numba would
take longer. The approximate indexes are faiss's, which is imported only for them: beside PyTorch it crashes on some
Macs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import faiss

KINDS = ("flat", "ivf", "hnsw", "hash")
NO_ROW = -1  # stands where an approximate index found fewer items than asked for

QUERY_BLOCK = 256  # queries of a thread that go through the codes together
CODE_BLOCK = 8192  # codes that they are compared with before the next, so that these stay in the cache
DECIMALS = 12  # cosines that are equal to so many decimals count as equal
SCAN_BLOCK = 1 << 16  # codes that NumPy compares with a query at once
MAX_SCANNED = 1 << 25  # pairs of codes that NumPy compares in the time that it takes to load Numba
ADDED_ROWS = 1 << 18  # codes added to a faiss index at once


class Searcher(Protocol):
    """What answers queries: :class:`Flat`, :class:`Approximate`, or :class:`shards.Sharded`."""

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``topk`` nearest of each query (q, bytes): distances int32 and rows int64, (q, topk) each."""

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All rows within ``radius``: limits (q + 1,), and distances and rows, query i's at limits[i]:limits[i + 1]."""

    def first_bits(self, bits: int) -> Searcher:
        """An exact search by the first ``bits`` bits of each code; its queries are as long."""


class Flat:
    """Exact search over packed codes (n, bytes), of which the first is row ``first_row`` of a larger array."""

    def __init__(self, codes: np.ndarray, first_row: int = 0):
        self.codes, self.first_row = codes, first_row
        self.scanned = 0  # pairs of codes compared by NumPy, in place of the compiled loops

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Searcher.nearest`; exact. (q, min(topk, n))."""
        topk = min(topk, len(self.codes))
        if not topk or not len(queries):
            return np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        pairs = len(queries) * len(self.codes)
        if "numba" not in sys.modules and (pairs <= SCAN_BLOCK or self.scanned + pairs <= MAX_SCANNED):
            self.scanned += pairs if pairs > SCAN_BLOCK else 0  # NumPy is as fast at so few
            return self._scan(queries, topk)
        from common.hamming_loops import in_threads, num_threads

        if len(queries) < num_threads():  # share the codes
            parts = in_threads(lambda rows: self._nearest(queries, rows, topk), len(self.codes), pairs)
            return merge_nearest(parts, topk)
        every = slice(0, len(self.codes))
        parts = in_threads(lambda some: self._nearest(queries[some], every, topk), len(queries), pairs)
        return tuple(np.concatenate(arrays) for arrays in zip(*parts))

    def _nearest(self, queries: np.ndarray, rows: slice, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """The answer for one part of the codes, in one thread, by compiled loops."""
        from common.hamming_loops import find_nearest

        topk = min(topk, rows.stop - rows.start)
        distance, row = np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        (item, width), (query, _) = as_words(self.codes[rows]), as_words(queries)
        for start in range(0, len(queries), QUERY_BLOCK):
            some = slice(start, start + QUERY_BLOCK)
            find_nearest(query[start * width:(start + QUERY_BLOCK) * width], item, (0,) * width, CODE_BLOCK,
                         distance[some], row[some])
        return distance, row + (self.first_row + rows.start)

    def _scan(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """The answer by NumPy."""
        distance, row = np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        for i, query in enumerate(queries):
            apart = np.concatenate([block for _, block in self._distances(query)])
            near = np.flatnonzero(apart <= np.partition(apart, topk - 1)[topk - 1])  # in the order of rows
            best = near[np.argsort(apart[near], kind="stable")[:topk]]
            distance[i], row[i] = apart[best], best
        return distance, row + self.first_row

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`Searcher.within`; exact."""
        limits, distances, rows = [0], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for query in queries:
            near = [(block[found := np.flatnonzero(block <= radius)], start + found)
                    for start, block in self._distances(query)]
            apart, row = (np.concatenate(arrays) for arrays in zip(*near)) if near else (distances[0], rows[0])
            order = np.argsort(apart, kind="stable")
            distances.append(apart[order].astype(np.int32))
            rows.append(row[order] + self.first_row)
            limits.append(limits[-1] + len(order))
        return np.array(limits, np.int64), np.concatenate(distances), np.concatenate(rows)

    def _distances(self, query: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The distances of a query (bytes,) to blocks of codes: the row where each starts, and uint16 (rows,)."""
        (item, width), (code, _) = as_words(self.codes), as_words(query[None])
        item = item.reshape(-1, width)
        for start in range(0, len(item), SCAN_BLOCK):
            block = item[start:start + SCAN_BLOCK]
            apart = np.bitwise_count(block[:, 0] ^ code[0]).astype(np.uint16)
            for word in range(1, width):
                apart += np.bitwise_count(block[:, word] ^ code[word])
            yield start, apart

    def first_bits(self, bits: int) -> Flat:
        """As :meth:`Searcher.first_bits`; holds a copy of these bits in memory."""
        return Flat(first_bits(self.codes, bits), self.first_row)


class Approximate(Flat):
    """Nearest codes from a faiss index over the same codes; ``within`` stays exact."""

    def __init__(self, codes: np.ndarray, index: faiss.IndexBinary):
        super().__init__(codes)
        self.index = index

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Searcher.nearest`, but may miss some. Places left empty, at the end, have row :data:`NO_ROW`."""
        with _threads_for(len(queries)):
            distance, row = self.index.search(queries, topk)
        distance[row == NO_ROW] = np.iinfo(np.int32).max
        order = np.lexsort((row, distance), axis=1)
        return np.take_along_axis(distance, order, axis=1), np.take_along_axis(row, order, axis=1)


@contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """Keep faiss to one thread a query: waking another can take longer than the search."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(threads, queries)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def as_words(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Packed codes (n, bytes) as the widest integers that make them up, (n * words,), and the words of a code."""
    size = next(size for size in (8, 4, 2, 1) if codes.shape[1] % size == 0)
    words = codes.view(np.ndarray).reshape(-1).view(f"u{size}")
    words.flags.writeable = False  # as those of a file: a loop is compiled for one of the two
    return words, codes.shape[1] // size


# --- the beginning of codes -----------------------------------------------------------------------


def first_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """The first ``bits`` bits of packed codes (n, bytes) as packed codes of that length, (n, ceil(bits / 8)), a copy.
    """
    part = np.array(codes[:, :-(-bits // 8)], order="C")
    if bits % 8:
        part[:, -1] &= (1 << bits % 8) - 1
    return part


def refine(queries: np.ndarray, codes: np.ndarray, row: np.ndarray, topk: int,
           bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Order candidates by the first ``bits`` bits of their codes, ties by row, and keep ``topk``.

    Args:
        queries: packed codes of ``bits`` bits, (q, ceil(bits / 8)).
        codes: packed codes of as many bits or more, (n, bytes).
        row: candidates, (q, N).

    Returns distances int32 and rows, (q, topk) each.
    """
    row = np.sort(row, axis=1)
    distance = np.stack([np.bitwise_count(first_bits(codes[candidates], bits) ^ query).sum(axis=1, dtype=np.int32)
                         for query, candidates in zip(queries, row)])
    order = np.argsort(distance, axis=1, kind="stable")[:, :topk]
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(row, order, axis=1)


# --- merging --------------------------------------------------------------------------------------


def merge_nearest(parts: Sequence[tuple[np.ndarray, np.ndarray]], topk: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``topk`` of the whole from those of its parts."""
    distance, row = (np.concatenate(arrays, axis=1) for arrays in zip(*parts))
    order = np.lexsort((row, distance), axis=1)[:, :topk]
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(row, order, axis=1)


def merge_within(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, ...]:
    """All rows within the radius, of the whole, from those of its parts."""
    owner = np.concatenate([_owner(limits) for limits, _, _ in parts])
    distance, row = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    order = np.lexsort((row, distance, owner))
    return sum(limits for limits, _, _ in parts), distance[order], row[order]


def _owner(limits: np.ndarray) -> np.ndarray:
    """The query that each result belongs to."""
    return np.repeat(np.arange(len(limits) - 1), np.diff(limits))


def rerank(x: np.ndarray, codes: np.ndarray, distance: np.ndarray, row: np.ndarray,
           topk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order candidates by the inner product of the real-valued query and the +-1 code, and keep ``topk``.

    Only the database is quantized: the asymmetric distance of Gordo et al. (Asymmetric Distances for Binary
    Embeddings, TPAMI 2014). Equal products keep the order of rows.

    Args:
        x: queries before the sign, (q, bits).
        codes: packed codes (n, bytes).
        distance, row: candidates, (q, N) each, as :meth:`Searcher.nearest` gives them.

    Returns:
        distances, rows and inner products, (q, topk) each.
    """
    products = np.full(row.shape, -np.inf)
    for query, candidates, product in zip(x.astype(np.float64), row, products):
        found = candidates != NO_ROW
        bits = np.unpackbits(codes[candidates[found]], axis=1, count=len(query), bitorder="little")
        product[found] = bits @ (2 * query) - query.sum()  # in float64 equal codes have equal products
    order = np.lexsort((row, -products), axis=1)[:, :topk]
    return tuple(np.take_along_axis(array, order, axis=1) for array in (distance, row, products))


def rescore(x: np.ndarray, outputs: np.ndarray, distance: np.ndarray, row: np.ndarray,
            topk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order candidates by the cosine of the real-valued query and their stored x, and keep ``topk``; equal cosines keep
    the order of rows.

    Args:
        x: queries before the sign, (q, bits).
        outputs: x of the items as ``outputs.npy`` holds it, int8 (n, bits or more), of which the first are compared.
        distance, row: candidates, (q, N) each, as :meth:`Searcher.nearest` gives them.

    Returns:
        distances, rows and cosines, (q, topk) each.
    """
    cosines = np.full(row.shape, -np.inf)
    for query, candidates, cosine in zip(x.astype(np.float64), row, cosines):
        found = candidates != NO_ROW
        items = outputs[candidates[found], :len(query)].astype(np.float64)
        lengths = np.linalg.norm(query) * np.sqrt(np.square(items).sum(axis=1))
        cosine[found] = np.round(items @ query / np.where(lengths == 0, 1, lengths), DECIMALS)
    order = np.lexsort((row, -cosines), axis=1)[:, :topk]
    return tuple(np.take_along_axis(array, order, axis=1) for array in (distance, row, cosines))


# --- approximate indexes --------------------------------------------------------------------------


def parameters(kind: str, count: int, bits: int) -> dict[str, int]:
    """The parameters of an index over ``count`` codes; ``benchmarks/search_speed.py`` measures their recall.

    - ``ivf``: ``nlist`` is the power of two nearest to the square root of the count, so that ranking the lists and
      scanning one cost about the same; ``nprobe`` 16 of them are scanned.
    - ``hnsw``: 32 links a node and 128 candidates in a search; the graph's depth follows the count by itself.
    - ``hash``: buckets by the first ``b`` bits, as many as leave about 256 codes a bucket; those within ``nflip``
      bits, a sixth of ``b`` rounded up, are scanned.
    """
    if kind == "ivf":
        nlist = 2 ** round(math.log2(max(1, count)) / 2)
        return {"nlist": nlist, "nprobe": min(16, nlist)}
    if kind == "hnsw":
        return {"links": 32, "ef_search": 128}
    if kind == "hash":
        b = min(bits, max(1, round(math.log2(max(1, count))) - 8))
        return {"b": b, "nflip": math.ceil(b / 6)}
    return {}


def make(kind: str, codes: np.ndarray, chosen: dict[str, int],
         progress: Callable[[int], object] = lambda rows: None) -> faiss.IndexBinary:
    """A faiss index of a kind other than flat over packed codes (n, bytes); calls ``progress`` with rows added."""
    import faiss

    dim = 8 * codes.shape[1]
    if kind == "ivf":
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(dim), dim, chosen["nlist"])
        index.cp.min_points_per_centroid = 1  # no warning on standard error for small databases
        rows = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), 64 * chosen["nlist"])).astype(np.int64))
        index.train(np.ascontiguousarray(codes[rows]))
    elif kind == "hnsw":
        index = faiss.IndexBinaryHNSW(dim, chosen["links"])
    else:
        index = faiss.IndexBinaryHash(dim, chosen["b"])
    configure(index, chosen)
    add(index, codes, progress)
    return index


def add(index: faiss.IndexBinary, codes: np.ndarray, progress: Callable[[int], object] = lambda rows: None) -> None:
    """Append packed codes to a faiss index in blocks."""
    for start in range(0, len(codes), ADDED_ROWS):
        block = np.ascontiguousarray(codes[start:start + ADDED_ROWS])
        index.add(block)
        progress(len(block))


def configure(index: faiss.IndexBinary, chosen: dict[str, int]) -> None:
    """Set how far a search looks."""
    import faiss

    if isinstance(index, faiss.IndexBinaryIVF):
        index.nprobe = chosen["nprobe"]
    elif isinstance(index, faiss.IndexBinaryHNSW):
        index.hnsw.efSearch = chosen["ef_search"]
    else:
        index.nflip = chosen["nflip"]
