"""Nearest codes by Hamming distance, over packed codes alone: exact, approximate, by a code's beginning, and merged
from parts.

Codes are uint8 rows from ``metric.pack_codes``. Every search orders its results by distance and, among equal distances,
by row: whoever splits the rows and merges the answers gets the same answer.

The exact search (:func:`common.hamming_loops.find_nearest`) runs on the code array where it is, also a memory-mapped
one, and needs next to no memory besides. Radius searches and the approximate indexes are faiss's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import faiss
import numpy as np
import torch

from common.hamming_loops import find_nearest, in_threads

KINDS = ("flat", "ivf", "hnsw", "hash")
NO_ROW = -1  # stands where an approximate index found fewer items than asked for

QUERY_BLOCK = 256  # queries of a thread that go through the codes together
CODE_BLOCK = 8192  # codes that they are compared with before the next, so that these stay in the cache
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

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Searcher.nearest`; exact. (q, min(topk, n))."""
        topk = min(topk, len(self.codes))
        if not topk or not len(queries):
            return np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        pairs = len(queries) * len(self.codes)
        if len(queries) < torch.get_num_threads():  # share the codes
            parts = in_threads(lambda rows: self._nearest(queries, rows, topk), len(self.codes), pairs)
            return merge_nearest(parts, topk)
        every = slice(0, len(self.codes))
        parts = in_threads(lambda some: self._nearest(queries[some], every, topk), len(queries), pairs)
        return tuple(np.concatenate(arrays) for arrays in zip(*parts))

    def _nearest(self, queries: np.ndarray, rows: slice, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """The answer for one part of the codes, in one thread."""
        topk = min(topk, rows.stop - rows.start)
        distance, row = np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        (item, width), (query, _) = as_words(self.codes[rows]), as_words(queries)
        for start in range(0, len(queries), QUERY_BLOCK):
            some = slice(start, start + QUERY_BLOCK)
            find_nearest(query[start * width:(start + QUERY_BLOCK) * width], item, (0,) * width, CODE_BLOCK,
                         distance[some], row[some])
        return distance, row + (self.first_row + rows.start)

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`Searcher.within`; exact."""
        found = faiss.RangeSearchResult(len(queries))
        faiss.hamming_range_search(faiss.swig_ptr(queries), faiss.swig_ptr(self.codes), len(queries), len(self.codes),
                                   radius + 1, queries.shape[1], found)  # faiss's radius is exclusive
        limits = faiss.rev_swig_ptr(found.lims, len(queries) + 1).astype(np.int64)
        distance = faiss.rev_swig_ptr(found.distances, int(limits[-1])).astype(np.int32)
        row = faiss.rev_swig_ptr(found.labels, int(limits[-1])) + self.first_row
        order = np.lexsort((row, distance, _owner(limits)))
        return limits, distance[order], row[order]

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
    if isinstance(index, faiss.IndexBinaryIVF):
        index.nprobe = chosen["nprobe"]
    elif isinstance(index, faiss.IndexBinaryHNSW):
        index.hnsw.efSearch = chosen["ef_search"]
    else:
        index.nflip = chosen["nflip"]
