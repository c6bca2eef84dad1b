"""Retrieval metrics for hash codes, from one histogram per query.

An item is relevant to a query when they share at least one label; the database is ranked by Hamming distance.
Distances are small integers, so most of a ranking is ties, and the order within a tie is an accident. Every
ranking figure but ``legacy_mean_average_precision`` is the exact expectation over a random order of the ties
(McSherry & Najork, ECIR 2008; He et al., CVPR 2018, arXiv 1705.08562). All it takes is the number of relevant
and irrelevant items at each distance: ``hamming_histogram``.

Conventions: codes are +-1 arrays (n, bits), labels are multi-hot arrays (n, classes) of 0 and 1. A query without a
relevant item scores 0 and stays in the mean. A cut (``topk``, N) beyond the database means the whole database. Figures
are shares from 0 to 1, not percentages. Every function but ``average_precision`` raises ``InputError``, which is a
ValueError, for arguments of another shape, with other values, or that do not fit each other.

To use this in another project, copy ``metric.py`` and ``common/hamming_loops.py`` (keeping the folder ``common``). They
need NumPy and Numba, and not PyTorch; there, malformed arguments raise a plain ValueError.
"""

from __future__ import annotations

import operator
from typing import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from common.hamming_loops import compiled, count_distances, count_rivals, count_shared_labels, in_threads

try:
    from common.errors import InputError
except ModuleNotFoundError:  # this file was copied into another project
    InputError = ValueError

MAX_BITS = 32767  # of a code: twice a distance must fit 16 bits
COSINE_DECIMALS = 12  # cosines that are equal to so many decimals count as equal

_CELLS = 1 << 18  # of the counts of graded relevance that are held at once
_PAIRS_A_QUERY = 2048  # whose comparison takes about as long as the average precision of a query, from its histogram
_ROWS = 32768  # rows packed at once, so that the scratch memory stays in the cache however large the database is


# ---------------------------------------------------------------------------------------------- codes


def sign_codes(x: ArrayLike) -> np.ndarray:
    """The hash codes, int8 (n, bits), of network outputs (n, bits): +1 where x >= 0, else -1.

    Raises InputError for outputs that are not finite.
    """
    return np.where(_finite(x) >= 0, np.int8(1), np.int8(-1))


def pack_codes(codes: ArrayLike) -> np.ndarray:
    """Pack +-1 codes (n, bits) into uint8 rows (n, ceil(bits / 8)), the layout of faiss's binary indexes.

    Bit j (of value 2**j) of byte i is set where ``codes[:, 8 * i + j]`` is +1; unused high bits are 0. Raises
    InputError for anything but -1 and +1.
    """
    return _pack("codes", _matrix("codes", codes), negative=-1)


def hamming_distance(query: ArrayLike, retrieval: ArrayLike) -> np.ndarray:
    """All Hamming distances, int32 (queries, items), of +-1 codes or of uint8 rows from ``pack_codes``.

    The whole matrix is held in memory; for a full database use ``hamming_histogram``. Raises InputError if the two
    sides differ in their form or their length.
    """
    query, retrieval = _matrix("query codes", query), _matrix("retrieval codes", retrieval)
    packed = query.dtype == np.uint8
    if packed != (retrieval.dtype == np.uint8) or query.shape[1] != retrieval.shape[1]:
        raise InputError(f"query codes {_describe(query)} and retrieval codes {_describe(retrieval)} differ: "
                         "expected both +-1 or both packed, of one length")
    if not packed:
        query = _pack("query codes", query, negative=-1)
        retrieval = _pack("retrieval codes", retrieval, negative=-1)
    distance = np.empty((len(query), len(retrieval)), np.int32)
    words = _words(retrieval)
    for row, code in zip(distance, _words(query).T):
        row[:] = _distance(code, words)
    return distance


# ---------------------------------------------------------------------------------------------- histograms


def hamming_histogram(query_codes: ArrayLike, retrieval_codes: ArrayLike,
                      query_labels: ArrayLike, retrieval_labels: ArrayLike) -> np.ndarray:
    """For each query, the number of irrelevant and of relevant database items at each Hamming distance.

    Args:
        query_codes, retrieval_codes: +-1 codes (queries, bits) and (items, bits), of at most MAX_BITS bits.
        query_labels, retrieval_labels: multi-hot labels (queries, classes) and (items, classes).

    Returns ``count[query, distance, relevant]``, int64 (queries, bits + 1, 2). Beyond the packed data and the result,
    this takes a few megabytes of memory whatever the sizes. The counts over parts of a database add up to those of the
    whole. Raises InputError.
    """
    return hamming_histograms([(query_codes, retrieval_codes)], query_labels, retrieval_labels)[0]


def hamming_histograms(rankings: Sequence[tuple[ArrayLike, ArrayLike]],
                       query_labels: ArrayLike, retrieval_labels: ArrayLike) -> list[np.ndarray]:
    """``hamming_histogram`` of several rankings of the same items for the same queries, in one pass over the labels.

    Each ranking is a pair (query codes, retrieval codes); the lengths of codes may differ between rankings. Returns the
    histogram of each. Raises InputError.
    """
    query, retrieval, query_labels, retrieval_labels, bits = _pack_all(rankings, query_labels, retrieval_labels)
    words = np.cumsum([0, *map(len, query)])
    query, retrieval = np.concatenate(query), np.concatenate(retrieval)
    if max(bits) > MAX_BITS:
        raise InputError(f"codes have {max(bits)} bits, expected at most {MAX_BITS}")
    queries = query.shape[1]
    counts = np.zeros((len(rankings), queries, 2 * (max(bits) + 1)), np.int64)
    in_threads(lambda some: count_distances(query, retrieval, words, query_labels, retrieval_labels,
                                            some.start, some.stop, counts),
               queries, len(rankings) * queries * retrieval.shape[1])
    return [count[:, :2 * (each + 1)].reshape(queries, -1, 2) for count, each in zip(counts, bits)]


def map_from_histogram(histogram: ArrayLike, topk: int | None = None) -> float:
    """Tie-aware mean average precision (mAP) over all queries of a histogram from ``hamming_histogram``.

    A tie group of n items, r of them relevant, after N0 items with R0 relevant, m = (r - 1) / (n - 1) (0 when
    n = 1) and the harmonic numbers H, adds on average

        (r / n) * [ m * n + (R0 + 1 - m * (N0 + 1)) * (H(N0 + n) - H(N0)) ]

    to the sum of precisions at the relevant items (McSherry & Najork, ECIR 2008); average precision is that
    sum divided by the number of relevant items. With ``topk``, only the first ``topk`` places count, and the
    divisor is the number of relevant items among them (0 if there are none), as in UCMFH. The group that the
    cut falls into is averaged over the hypergeometric number of relevant items in the places left. Raises InputError.
    """
    return float(average_precision_by_query(histogram, topk).mean())


def average_precision_by_query(histogram: ArrayLike, topk: int | None = None) -> np.ndarray:
    """The expected average precision of each query, (queries,), whose mean is ``map_from_histogram``.

    Raises InputError.
    """
    histogram = _check_histogram(histogram)
    limit = int(histogram[0].sum())
    return _by_query(histogram, limit, limit if topk is None else min(_positive("topk", topk), limit))


def map_within_radius(histogram: ArrayLike, radius: int = 2) -> float:
    """Tie-aware mAP over the items within a Hamming radius, of a histogram from ``hamming_histogram``.

    The average precision of a query is that of the ranking of the items at most ``radius`` bits away, divided by the
    number of relevant items among these; a query that has no relevant item there scores 0. Ties are averaged as in
    ``map_from_histogram``. Raises InputError.
    """
    histogram = _check_histogram(histogram)
    within = np.ascontiguousarray(histogram[:, :_whole("radius", radius, least=0) + 1])
    limit = int(histogram[0].sum())
    return float(_by_query(within, limit, limit).mean())


def precision_at_n(histogram: ArrayLike, ns: Iterable[int]) -> np.ndarray:
    """Mean over queries of the expected share of relevant items among the first N, for each N of ``ns``: (len(ns),).

    The histogram is one from ``hamming_histogram``. Raises InputError.
    """
    histogram = _check_histogram(histogram)
    relevant, size = _relevant_and_size(histogram)
    before = size.cumsum(axis=1) - size
    share = relevant / np.maximum(size, 1)
    limit = int(size[0].sum())
    result = []
    for n in ns:
        n = min(_positive("N", n), limit)
        result.append((np.clip(n - before, 0, size) * share).sum(axis=1).mean() / n)
    return np.array(result)


def precision_recall(histogram: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of retrieving all items within Hamming radius 0, 1, ..., bits.

    The histogram is one from ``hamming_histogram``. Returns two arrays (bits + 1,), the means over queries at each
    radius. A query that retrieves nothing has precision 0, as is usual for a failed hash lookup; one without relevant
    items has recall 0. Raises InputError.
    """
    histogram = _check_histogram(histogram)
    relevant, retrieved = (counts.cumsum(axis=1) for counts in _relevant_and_size(histogram))
    precision = relevant / np.maximum(retrieved, 1)
    recall = relevant / np.maximum(relevant[:, -1:], 1)
    return precision.mean(axis=0), recall.mean(axis=0)


# ---------------------------------------------------------------------------------------------- in one call


def evaluate(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike,
             retrieval_labels: ArrayLike, topks: Sequence[int | None] = (None, 50)) -> dict[str, float]:
    """Tie-aware mAP at each cut of ``topks`` in one pass over the data: ``{"map": ..., "map@50": ...}``.

    The arguments are those of ``hamming_histogram``; the cut None is the whole ranking. Raises InputError.
    """
    return maps_from_histogram(hamming_histogram(query_codes, retrieval_codes, query_labels, retrieval_labels), topks)


def evaluate_in_full(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike,
                     retrieval_labels: ArrayLike) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What papers report of a ranking, by name, and the average precision of each query, (queries,), by name.

    The first are ``map`` and ``map@50`` of :func:`evaluate`, ``map@radius2`` of :func:`map_within_radius`, and
    ``ndcg@50`` and ``ndcg@1000`` of :func:`ndcg`; the second are what ``map`` and ``map@50`` are the means of. The
    arguments are those of ``hamming_histogram``. Raises InputError.
    """
    sides = query_codes, retrieval_codes, query_labels, retrieval_labels
    histogram = hamming_histogram(*sides)
    precision = {"map": average_precision_by_query(histogram), "map@50": average_precision_by_query(histogram, 50)}
    return ({**{name: float(values.mean()) for name, values in precision.items()},
             "map@radius2": map_within_radius(histogram), **ndcg(*sides)}, precision)


def maps_from_histogram(histogram: ArrayLike, topks: Sequence[int | None] = (None, 50)) -> dict[str, float]:
    """``map_from_histogram`` at each cut of ``topks``, by name, as in :func:`evaluate`. Raises InputError."""
    histogram = _check_histogram(histogram)
    limit = int(histogram[0].sum())
    cuts = [limit if topk is None else min(_positive("topk", topk), limit) for topk in topks]
    return {"map" if topk is None else f"map@{topk}": float(_by_query(histogram, limit, cut).mean())
            for topk, cut in zip(topks, cuts)}


def ndcg(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike, retrieval_labels: ArrayLike,
         topks: Sequence[int] = (50, 1000)) -> dict[str, float]:
    """Normalised discounted cumulative gain at each cut of ``topks``: ``{"ndcg@50": ..., "ndcg@1000": ...}``.

    The relevance r of an item is the number of labels that it shares with the query; its gain is 2^r - 1 (Burges et
    al., ICML 2005), discounted by 1 / log2(p + 1) in place p, 1 the first. The sum over the first ``topk`` places is
    divided by the one that the best order of the whole database gives. In each place of a tie group the expected gain is the
    mean of the group (McSherry & Najork, ECIR 2008); this is exact, since the divisor doesn't depend on the order.

    The arguments are those of ``hamming_histogram``. Raises InputError.
    """
    (query,), (retrieval,), query_labels, retrieval_labels, (bits,) = _pack_all(
        [(query_codes, retrieval_codes)], query_labels, retrieval_labels)
    queries, items = query.shape[1], retrieval.shape[1]
    cuts = [min(_positive("topk", topk), items) for topk in topks]
    grades = 1 + min(int(np.bitwise_count(labels).sum(axis=0).max()) for labels in (query_labels, retrieval_labels))
    discount = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, items + 2)))))  # summed over the first places
    found = np.empty((len(cuts), queries))
    rows = max(1, _CELLS // ((bits + 1) * grades))

    def of_some(some: slice) -> None:
        for start in range(some.start, some.stop, rows):
            block = slice(start, min(start + rows, some.stop))
            count = np.zeros((block.stop - start, bits + 1, grades), np.int64)
            count_shared_labels(query, retrieval, query_labels, retrieval_labels, start, count)
            best = count.sum(axis=1)[:, ::-1]
            # The gains of a query are scaled so that its most relevant items gain about 1: 2^r alone would overflow.
            most = float(grades) - 1 - (best > 0).argmax(axis=1, keepdims=True)
            gain = np.exp2(np.minimum(np.arange(grades) - most, 0)) - np.exp2(-most)
            for row, cut in enumerate(cuts):
                ideal = _gained(best, best * gain[:, ::-1], discount, cut)
                gained = _gained(count.sum(axis=2), (count @ gain[:, :, None])[:, :, 0], discount, cut)
                found[row, block] = np.divide(gained, ideal, out=np.zeros(len(ideal)), where=ideal > 0)

    in_threads(of_some, queries, queries * items)
    return {f"ndcg@{topk}": float(row.mean()) for topk, row in zip(topks, found)}


def evaluate_cosine(query: ArrayLike, retrieval: ArrayLike, query_labels: ArrayLike, retrieval_labels: ArrayLike,
                    topks: Sequence[int | None] = (None, 50)) -> dict[str, float]:
    """Tie-aware mAP of real-valued embeddings (n, d), ranked by cosine, at each cut of ``topks``: see :func:`evaluate`.

    Raises InputError for embeddings that are not finite, and for labels as ``hamming_histogram`` does.
    """
    precision = cosine_average_precision(query, retrieval, query_labels, retrieval_labels, topks)
    return {name: float(values.cumsum()[-1] / len(values)) for name, values in precision.items()}


def cosine_average_precision(query: ArrayLike, retrieval: ArrayLike, query_labels: ArrayLike,
                             retrieval_labels: ArrayLike, topks: Sequence[int | None] = (None, 50)
                             ) -> dict[str, np.ndarray]:
    """The average precision of each query, (queries,), whose means are :func:`evaluate_cosine`. Raises InputError."""
    query, retrieval = (_unit_rows(name, value) for name, value in (("query", query), ("retrieval", retrieval)))
    query_labels, retrieval_labels = _pack_pair("labels", query_labels, retrieval_labels, negative=0)[:2]
    _same_rows("query embeddings", query, "query labels", query_labels.T)
    _same_rows("retrieval embeddings", retrieval, "retrieval labels", retrieval_labels.T)
    found: dict[str, list[float]] = {}
    for vector, label in zip(query, query_labels.T):
        # Equal cosines are one tie group, as equal Hamming distances are. They are rounded, because products are.
        _, group = np.unique(-np.round(retrieval @ vector, COSINE_DECIMALS), return_inverse=True)
        relevant = _relevant(label, retrieval_labels).astype(np.int64)
        histogram = np.bincount(2 * group + relevant, minlength=2 * (group.max() + 1)).reshape(1, -1, 2)
        for name, value in maps_from_histogram(histogram, topks).items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def partner_recall(images: ArrayLike, texts: ArrayLike, ks: Iterable[int] = (1, 5, 10),
                   image_of_text: ArrayLike | None = None) -> dict[str, dict[str, float]]:
    """R@K of pairs among themselves, exact with ties: the share of images that have a text of their own among the first
    K texts (``["i2t"]["recall@10"]``), and of texts that have their image among the first K images (``["t2i"]``).

    Recall at K of the right item, for an image any of its texts, is the usual figure of image-text retrieval (Hodosh et
    al., JAIR 2013). The nearest right items may tie: if c of them are among n items at the same distance, behind N0
    nearer items, then one of them is among the first K with the probability 1 - C(n - c, K - N0) / C(n, K - N0), the
    hypergeometric chance of at least one; for a single one it is (K - N0) / n.

    Args:
        images, texts: +-1 codes (n, bits) and (m, bits).
        image_of_text: (m,), the row of the image that each text belongs to, never falling; without it m = n, and row i
            of one is the partner of row i of the other.

    Raises InputError.
    """
    ks = [_positive("K", k) for k in ks]
    images, texts = _matrix("image codes", images), _matrix("text codes", texts)
    if images.shape[1] != texts.shape[1] or image_of_text is None and len(images) != len(texts):
        raise InputError(f"image codes {_describe(images)} and text codes {_describe(texts)} differ: expected pairs of "
                         f"codes of one length")
    owner = np.arange(len(images)) if image_of_text is None else np.asarray(image_of_text)
    owner = owner.astype(np.int64) if owner.dtype.kind in "iu" else owner[:0]  # differences of unsigned ones wrap
    if owner.shape != (len(texts),) or (np.diff(owner) < 0).any() or len(np.unique(owner)) != len(images) \
            or owner[0] or owner[-1] != len(images) - 1:
        raise InputError(f"image_of_text {_describe(owner)}: expected, for {_describe(texts)} text codes, the row of one "
                         f"of {len(images):,} images each, never falling, with a text for every image")
    first = np.searchsorted(owner, np.arange(len(images)))
    own = (images[owner] != texts).sum(axis=1)  # the distance of each text from its image
    best = np.minimum.reduceat(own, first)
    right = np.add.reduceat(own == best[owner], first)  # texts of an image that are as near as its nearest
    sides = [_words(pack_codes(side)) for side in (images, texts)]
    limits = [limit.astype(np.int32) for limit in (best, own)]
    of_image = np.zeros((2, len(images)), np.int64)

    def count(some: slice) -> np.ndarray:
        of_text = np.zeros((2, len(texts)), np.int64)  # of each thread its own
        count_rivals(*sides, *limits, some.start, some.stop, of_image, of_text)
        return of_text

    of_text = sum(in_threads(count, len(images), len(images) * len(texts)))
    partners = right, np.ones(len(texts))
    return {direction: {f"recall@{k}": float(_chance_of_one(*counts, right, k).mean()) for k in ks}
            for direction, counts, right in zip(("i2t", "t2i"), (of_image, of_text), partners)}


def _chance_of_one(before, size, right, k):
    """The chance that one of ``right`` items in a tie group of ``size`` behind ``before`` items is among the first k."""
    places = np.clip(k - before, 0, size)
    missed = np.ones(len(size))
    for taken in range(int(right.max())):  # C(size - right, places) / C(size, places), a factor for each right item
        missed = np.where(taken < right, missed * np.clip(size - places - taken, 0, None)
                          / np.maximum(size - taken, 1), missed)
    return 1 - missed


def mean_average_precision(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike,
                           retrieval_labels: ArrayLike, topk: int | None = None) -> float:
    """Tie-aware mAP (``map_from_histogram``) over the whole ranking, or over its first ``topk`` places.

    Args:
        query_codes, retrieval_codes: +-1 codes (queries, bits) and (items, bits).
        query_labels, retrieval_labels: multi-hot labels (queries, classes) and (items, classes).
        topk: a whole number of at least 1, or None.

    Raises InputError.
    """
    return map_from_histogram(
        hamming_histogram(query_codes, retrieval_codes, query_labels, retrieval_labels), topk)


def legacy_mean_average_precision(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike,
                                  retrieval_labels: ArrayLike, topk: int | None = 50) -> float:
    """mAP with the ties in one order, as in UCMFH's ``calculate_top_map`` (``calculate_map`` if ``topk`` is None).

    The arguments are those of ``mean_average_precision``. The average precision is the mean of i / rank_i over the
    relevant items among the first ``topk``; a query with none counts as 0. Ties keep their order in the database. UCMFH
    sorts with ``numpy.argsort``, whose default leaves the order of ties open, so that its numbers are defined only once
    an order is chosen: this one. Raises InputError.
    """
    (query,), (retrieval,), query_labels, retrieval_labels, _ = _pack_all(
        [(query_codes, retrieval_codes)], query_labels, retrieval_labels)
    topk = None if topk is None else _positive("topk", topk)
    total = 0.0
    for code, label in zip(query.T, query_labels.T):
        order = np.argsort(_distance(code, retrieval), kind="stable")[:topk]
        total += average_precision(_relevant(label, retrieval_labels)[order])
    return float(total / query.shape[1])


def average_precision(relevant: ArrayLike) -> float:
    """Average precision of one ranking in the order that it has: the mean of i / rank_i over the relevant places.

    Args:
        relevant: whether the item at each place is relevant, bool (places,); 0 is returned where none is.
    """
    rank = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(rank) + 1) / rank)) if len(rank) else 0.0


# ---------------------------------------------------------------------------------------------- code quality


def quantization_error(x: ArrayLike) -> float:
    """Mean of (|x| - 1)^2 over network outputs (n, bits): what the sign throws away, 0 for binary outputs.

    It is ||sign(X) - X||_F^2 / (n * bits): the quantization loss of ITQ (Gong & Lazebnik, CVPR 2011, eq. 2),
    per bit. Raises InputError for outputs that are not finite.
    """
    return float(np.mean((np.abs(_finite(x)) - 1) ** 2, dtype=np.float64))


def bit_balance(codes: ArrayLike) -> float:
    """Mean over bits of |mean of the bit|, of +-1 codes (n, bits): 0 if balanced, 1 if constant. Raises InputError."""
    codes = _matrix("codes", codes)
    _pack("codes", codes, negative=-1)  # refuses anything but +-1
    return float(np.mean(np.abs(codes.mean(axis=0, dtype=np.float64))))


def saturation(x: ArrayLike, threshold: float = 0.9) -> float:
    """Share of network outputs (n, bits) with |x| > ``threshold``. Raises InputError if they are not finite."""
    return float(np.mean(np.abs(_finite(x)) > threshold))


# ---------------------------------------------------------------------------------------------- internals


def _by_query(histogram, limit, topk):
    """Expected average precision of each query, (queries,); no query has more than ``limit`` items."""
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, limit + 1))))
    precision = np.empty(len(histogram))
    _average_precision(histogram, topk, harmonic, precision)
    return precision


def _gained(size, gain, discount, cut):
    """The discounted gain of the first ``cut`` places, (queries,), of tie groups in order: sizes and summed gains."""
    end = size.cumsum(axis=1)
    places = discount[np.minimum(end, cut)] - discount[np.minimum(end - size, cut)]
    return (places * gain / np.maximum(size, 1)).sum(axis=1)


def _average_precision(histogram, topk, harmonic, precision):
    """Expected average precision of each query, (queries,); the formulas are in ``map_from_histogram``."""
    in_threads(lambda some: _average_precision_of(some.start, some.stop, histogram, topk, harmonic, precision),
               len(histogram), len(histogram) * _PAIRS_A_QUERY)


@compiled
def _average_precision_of(first, last, histogram, topk, harmonic, precision):
    for query in range(first, last):
        gain, found, before, left, cut = 0.0, 0, 0, topk, -1
        for distance in range(histogram.shape[1]):
            relevant = histogram[query, distance, 1]
            size = histogram[query, distance, 0] + relevant
            if size > left:
                cut = distance
                break
            if relevant:  # others add nothing, and most distances of long codes have no items
                gain += _group_gain(size, relevant, before, found, harmonic)
            found, before, left = found + relevant, before + size, left - size
        if cut < 0:
            precision[query] = gain / max(found, 1)
            continue
        # Given how many relevant items are drawn from the group that the cut falls into, into the places left
        # (perhaps none), those places are a tie group of their own.
        precision[query] = 0.0
        least, chance = _hypergeometric(histogram[query, cut].sum(), histogram[query, cut, 1], left)
        for i in range(len(chance)):
            expected = gain + _group_gain(left, least + i, before, found, harmonic)
            precision[query] += chance[i] * expected / max(found + least + i, 1)


@compiled
def _group_gain(size, relevant, before, found, harmonic):
    """What a tie group adds, in the formula of ``map_from_histogram``; 0 for an empty group."""
    slope = (relevant - 1) / max(size - 1, 1)
    gain = slope * size + (found + 1 - slope * (before + 1)) * (harmonic[before + size] - harmonic[before])
    return relevant / max(size, 1) * gain


@compiled
def _hypergeometric(size, relevant, places):
    """The least number of relevant items among ``places`` draws from a group, and the chances of it and of each more.

    The chances come from the ratio of neighbours, P(x + 1) / P(x): accurate where factorials overflow.
    """
    least = max(0, places - (size - relevant))
    chance = np.zeros(min(relevant, places) - least + 1)
    for i in range(len(chance) - 1):
        x = least + i
        irrelevant = size - relevant - places + x + 1
        chance[i + 1] = chance[i] + np.log((relevant - x) * (places - x) / ((x + 1) * irrelevant))
    chance = np.exp(chance - chance.max())
    return least, chance / chance.sum()


def _relevant_and_size(histogram):
    """Relevant items, and all items, at each distance: two arrays (queries, bits + 1)."""
    return histogram[:, :, 1], histogram[:, :, 0] + histogram[:, :, 1]


def _distance(code, items):
    """Hamming distances of one code (words,) to items (words, n)."""
    distance = np.bitwise_count(items[0] ^ code[0])
    if len(code) > 1:
        distance = distance.astype(np.min_scalar_type(8 * items.dtype.itemsize * len(code)))
        for item, word in zip(items[1:], code[1:]):
            distance += np.bitwise_count(item ^ word)
    return distance


def _relevant(label, item_labels):
    """Whether items (words, n) share a label with one label mask (words,): bool (n,)."""
    shared = item_labels[0] & label[0]
    for item, word in zip(item_labels[1:], label[1:]):
        shared |= item & word
    return shared != 0


def _words(packed):
    """Packed rows (n, bytes) as contiguous columns (words, n) of uint64."""
    padded = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    padded[:, :packed.shape[1]] = packed
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _pack(name, values, negative):
    """Pack a matrix of 1 and ``negative`` (-1 in codes, 0 in labels) into uint8 rows; refuse other values."""
    packed = np.empty((len(values), -(-values.shape[1] // 8)), np.uint8)
    for start in range(0, len(values), _ROWS):
        block = values[start:start + _ROWS]
        positive = block == 1
        wrong = ~(positive | (block == negative))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(f"{name}: found {block[row, column]} in row {start + row}, column {column}, "
                             f"expected only {negative} and 1")
        packed[start:start + _ROWS] = np.packbits(positive, axis=1, bitorder="little")
    return packed


def _pack_all(rankings, query_labels, retrieval_labels):
    """Check the codes of each ranking, and the labels; return them as words (words, n), and the numbers of bits."""
    query_labels, retrieval_labels, _ = _pack_pair("labels", query_labels, retrieval_labels, negative=0)
    query, retrieval, bits = zip(*(_pack_pair("codes", *codes, negative=-1) for codes in rankings))
    for asked, stored in zip(query, retrieval):
        _same_rows("query codes", asked.T, "query labels", query_labels.T)
        _same_rows("retrieval codes", stored.T, "retrieval labels", retrieval_labels.T)
    return query, retrieval, query_labels, retrieval_labels, bits


def _pack_pair(what, query, retrieval, negative):
    """Check the codes or labels of both sides; return them as words (words, n), and their number of columns."""
    query, retrieval = _matrix(f"query {what}", query), _matrix(f"retrieval {what}", retrieval)
    columns = query.shape[1], retrieval.shape[1]
    if columns[0] != columns[1]:
        unit = "bits" if what == "codes" else "classes"
        raise InputError(f"query {what} have {columns[0]} {unit} and retrieval {what} {columns[1]}, expected as many")
    query, retrieval = _pack(f"query {what}", query, negative), _pack(f"retrieval {what}", retrieval, negative)
    return _words(query), _words(retrieval), columns[0]


def _same_rows(name, rows, other, others):
    if len(rows) != len(others):
        raise InputError(f"{name} have {len(rows)} rows and {other} {len(others)}, expected as many")


def _matrix(name, value):
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name}: {error}, expected (rows, columns)") from None
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name}: found shape {array.shape}, expected (rows, columns), neither of them 0")
    return array


def _describe(array):
    return f"{array.dtype} {array.shape}"


def _unit_rows(name, value):
    rows = _matrix(name, _finite(value)).astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _finite(x):
    array = _matrix("hash outputs", x)
    if array.dtype.kind not in "biuf":
        raise InputError(f"hash outputs: found {_describe(array)}, expected numbers")
    if not np.isfinite(array).all():
        raise InputError("hash outputs: found NaN or infinity, expected finite numbers")
    return array.astype(np.result_type(array, np.float32), copy=False)  # float16 is too coarse to compute in


def _positive(name, value):
    return _whole(name, value, least=1)


def _whole(name, value, least):
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise InputError(f"{name}: found {value!r}, expected a whole number of at least {least}")
    return number


def _check_histogram(histogram):
    array = np.asarray(histogram)
    if array.ndim != 3 or array.shape[2] != 2 or 0 in array.shape or array.dtype.kind not in "iu":
        raise InputError(f"histogram: found {_describe(array)}, expected integers (queries, bits + 1, 2)")
    items = array.sum(axis=(1, 2))
    if array.min() < 0 or items[0] == 0 or (items != items[0]).any():
        raise InputError(f"histogram: found from {items.min()} to {items.max()} items a query, least count "
                         f"{array.min()}, expected counts of one database in every row")
    return array.astype(np.int64, copy=False)
