"""Nearest codes by Hamming distance, over packed codes alone: exact, approximate, and merged from parts.

Codes are uint8 rows from ``metric.pack_codes``. Every search orders its results by distance and, among equal distances,
by row: whoever splits the rows and merges the answers gets the same answer.

The exact search runs on the code array where it is, also a memory-mapped one. Where faiss has a vectorised kernel
(codes of a multiple of 64 bits), it goes through the codes in blocks whose distances stay in the cache and looks
closer only at those below the k-th distance so far: a later row at that very distance loses the tie. Other lengths use
faiss's counting search, which keeps a list of rows for each distance instead of a heap and so breaks ties by row, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import faiss
import numpy as np

KINDS = ("flat", "ivf", "hnsw", "hash")
NOTHING = -1  # the row where an approximate index found fewer than asked for

_QUERIES = 32  # searched at once by a thread
_CACHED = 3 << 19  # bytes of codes and distances at once, which stay in the cache
_FIRST = 1024  # rows that give the first k-th distance
_WAITING = 1 << 14  # candidates that make a merge worth its time
_ADD_ROWS = 1 << 18


class Searcher(Protocol):
    """What answers queries: :class:`Flat`, :class:`Approximate`, or :class:`shards.Sharded`."""

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``topk`` nearest of each query (q, bytes): distances int32 and rows int64, (q, topk) each."""

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All rows within ``radius``: limits (q + 1,), and distances and rows, query i's at limits[i]:limits[i + 1]."""


class Flat:
    """Exact search over packed codes (n, bytes), of which the first is row ``first_row`` of a larger array."""

    def __init__(self, codes: np.ndarray, first_row: int = 0):
        self.codes, self.first_row = codes, first_row

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Searcher.nearest`; exact. (q, min(topk, n))."""
        topk = min(topk, len(self.codes))
        distance, row = np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        threads = faiss.omp_get_max_threads()
        step = max(1, min(_QUERIES, -(-len(queries) // threads)))

        def search(start: int) -> None:
            part = slice(start, start + step)
            distance[part], row[part] = _nearest(np.ascontiguousarray(queries[part]), self.codes, topk)

        starts = range(0, len(queries) if topk else 0, step)
        if len(starts) > 1 and threads > 1:
            with ThreadPoolExecutor(threads) as pool:  # numpy and faiss let go of Python's lock
                list(pool.map(search, starts))
        else:
            with _threads_for(len(queries)):
                for start in starts:
                    search(start)
        return distance, row + self.first_row

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


class Approximate(Flat):
    """Nearest codes from a faiss index over the same codes; ``within`` stays exact."""

    def __init__(self, codes: np.ndarray, index: faiss.IndexBinary):
        super().__init__(codes)
        self.index = index

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`Searcher.nearest`, but may miss some. Places left empty, at the end, have row :data:`NOTHING`."""
        with _threads_for(len(queries)):
            distance, row = self.index.search(queries, topk)
        distance[row == NOTHING] = np.iinfo(np.int32).max
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


def _nearest(queries: np.ndarray, codes: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
    """:meth:`Flat.nearest` of a few queries, in one thread."""
    count, width = queries.shape
    done = min(max(topk, _FIRST), len(codes)) if width % 8 == 0 else len(codes)
    distance, row = faiss.knn_hamming(queries, codes[:done], topk, variant="mc")  # mc: the counting search
    block = max(1, _CACHED // (4 * count + width))
    codes = codes.view(np.ndarray)  # slicing a memmap takes longer
    pairs, near = np.empty(count * block, np.int32), np.empty(count * block, bool)
    waiting: list[tuple[np.ndarray, ...]] = []  # query, distance and row of what may be among the nearest
    number, merge_at = 0, 2 * done
    while done < len(codes):
        rows = min(block, len(codes) - done)
        faiss.hammings(faiss.swig_ptr(queries), faiss.swig_ptr(codes[done:]), count, rows, width, faiss.swig_ptr(pairs))
        shape, size = (count, rows), count * rows
        np.less(pairs[:size].reshape(shape), distance[:, -1:], out=near[:size].reshape(shape))
        if (found := np.flatnonzero(near[:size])).size:
            waiting.append((found // rows, pairs[found], found % rows + done))
            number += len(found)
        done += rows
        # As the k-th distance falls ever more slowly, merging at every doubling is enough.
        if waiting and (number > _WAITING or done >= merge_at or done == len(codes)):
            waiting.append((np.repeat(np.arange(count), topk), distance.ravel(), row.ravel()))
            owner, near_distance, near_row = (np.concatenate(arrays) for arrays in zip(*waiting))
            order = np.lexsort((near_row, near_distance, owner))
            first = np.searchsorted(owner[order], np.arange(count))
            best = order[first[:, None] + np.arange(topk)]
            distance, row = near_distance[best], near_row[best]
            waiting, number, merge_at = [], 0, max(merge_at, 2 * done)
    return distance, row


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
        found = candidates != NOTHING
        bits = np.unpackbits(codes[candidates[found]], axis=1, count=len(query), bitorder="little")
        product[found] = bits @ (2 * query) - query.sum()  # in float64 equal codes have equal products
    order = np.lexsort((row, -products), axis=1)[:, :topk]
    return tuple(np.take_along_axis(array, order, axis=1) for array in (distance, row, products))


# --- approximate indexes --------------------------------------------------------------------------


def parameters(kind: str, count: int, bits: int) -> dict[str, int]:
    """What an index over ``count`` codes is made with; ``benchmark_search.py`` measures the recall (SEARCH.md).

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
    for start in range(0, len(codes), _ADD_ROWS):
        block = np.ascontiguousarray(codes[start:start + _ADD_ROWS])
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
