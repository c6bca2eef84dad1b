"""Loops over all pairs of a query's and an item's code, compiled by Numba: count the distances, find the nearest.

The loops take codes as unsigned integers, count the bits of their exclusive or in vector registers, and keep their
scratch memory in the cache. They release Python's lock, so that threads can share the work. This file needs NumPy and
Numba alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numba import njit
from numba.extending import intrinsic

_ITEMS = 8192  # items whose distances are counted at once
_CHUNK = 256  # items that one comparison can rule out: a small chunk costs comparisons, a large one second looks

Result = TypeVar("Result")


def compiled(function: Callable) -> Callable:
    """The function as machine code, made at the first call with each type of arguments and kept for later runs."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder can be written to: the machine code is for this run alone
        return njit(nogil=True)(function)


@intrinsic
def bit_count(context, word):
    """The number of 1 bits of an unsigned integer, as one of its type."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])  # of LLVM

    return word(word), generate


def num_threads() -> int:
    """As many threads as PyTorch uses, if it is loaded; else OMP_NUM_THREADS, or one for each core that is allowed."""
    if torch := sys.modules.get("torch"):  # torch.set_num_threads(1) keeps these loops to one thread, too
        return torch.get_num_threads()
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list gives a number for each nested level
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(call: Callable[[slice], Result], count: int, pairs: int) -> list[Result]:
    """Cut ``range(count)`` into slices and run ``call`` on each, in :func:`num_threads` threads or fewer.

    Args:
        call: is given a slice.
        count: the number of rows to cut.
        pairs: the number of pairs of codes to be compared in all. A thread is worth waking for a million of them.

    Returns the results in the order of the slices.
    """
    parts = max(1, min(num_threads(), count, pairs >> 20))
    slices = [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
    if parts == 1:
        return [call(slices[0])]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(call, slices))


@compiled
def count_distances(query, item, words, query_label, item_label, first, last, counts):
    """Count, for some queries and several rankings of the same items, the items at each distance by their relevance.

    Args:
        query, item: the codes of all rankings, stacked, uint64 (words, queries) and (words, items).
        words: int64 (rankings + 1,); the rows of ranking r are words[r] to words[r + 1].
        query_label, item_label: one bit for each label, uint64 likewise; an item is relevant to a query if they share
            a label.
        first, last: the queries to count for, without the last.
        counts: int64 (rankings, queries, 2 * (bits + 1)); an item adds 1 at [ranking, query, 2 * distance + relevant].
    """
    keys, marks = np.empty(_ITEMS, np.uint16), np.empty(_ITEMS, np.uint16)
    tables = np.zeros((4, counts.shape[2]), np.uint32)  # of _tally
    for start in range(0, item.shape[1], _ITEMS):
        stop = min(start + _ITEMS, item.shape[1])
        key, relevant = keys[:stop - start], marks[:stop - start]
        for i in range(first, last):
            relevant[:] = 0
            for word in range(len(item_label)):
                mask, part = query_label[word, i], item_label[word, start:stop]
                for j in range(len(part)):
                    relevant[j] |= np.uint16((part[j] & mask) != 0)
            for ranking in range(len(counts)):
                for j in range(len(key)):
                    key[j] = relevant[j]
                for word in range(words[ranking], words[ranking + 1]):
                    code, part = query[word, i], item[word, start:stop]
                    for j in range(len(part)):
                        key[j] += np.uint16(2 * bit_count(part[j] ^ code))
                _tally(key, tables)
                for table in range(4):
                    for place in range(tables.shape[1]):
                        counts[ranking, i, place] += tables[table, place]
                        tables[table, place] = 0


@compiled
def _tally(key, tables):
    """Count how often each key (n,) occurs, in the tables (4, keys) together.

    Items that follow each other are often equally far, and adding to one place twice in a row takes longer.
    """
    whole = len(key) // 4 * 4
    for j in range(0, whole, 4):
        for table in range(4):
            tables[table, key[j + table]] += np.uint32(1)
    for j in range(whole, len(key)):
        tables[0, key[j]] += np.uint32(1)


@compiled
def count_rivals(image, text, image_limit, text_limit, first, last, of_image, of_text):
    """Count, for images and texts in turn, those of the other side that are nearer than a limit, and those at it.

    Args:
        image, text: their codes, uint64 (words, n) and (words, m).
        image_limit, text_limit: a distance for each image and each text, int32 (n,) and (m,).
        first, last: the images to compare with all texts, without the last.
        of_image, of_text: int64 (2, n) and (2, m); each of the other side adds 1 at [0] if it is nearer, at [1] if its
            distance is the limit.
    """
    distance = np.empty(text.shape[1], np.int32)
    for i in range(first, last):
        distance[:] = 0
        for word in range(len(text)):
            code, part = image[word, i], text[word]
            for j in range(len(part)):
                distance[j] += np.int32(bit_count(part[j] ^ code))
        limit, nearer, tied = image_limit[i], 0, 0
        for j in range(len(distance)):
            nearer += distance[j] < limit
            tied += distance[j] == limit
            of_text[0, j] += distance[j] < text_limit[j]
            of_text[1, j] += distance[j] == text_limit[j]
        of_image[0, i] += nearer
        of_image[1, i] += tied


@compiled
def count_shared_labels(query, item, query_label, item_label, first, counts):
    """Count, for some queries, the items at each distance by the number of labels that they share with the query.

    Args:
        query, item, query_label, item_label: as for :func:`count_distances`, of one ranking.
        first: the first of the queries.
        counts: int64 (queries, bits + 1, labels + 1); an item adds 1 at [query - first, distance, shared labels].
    """
    grades = np.uint64(counts.shape[2])
    keys = np.empty(_ITEMS, np.uint32)
    tables = np.empty((4, counts.shape[1] * counts.shape[2]), np.uint32)  # of _tally
    for i in range(len(counts)):
        tables[:] = 0
        for start in range(0, item.shape[1], _ITEMS):
            stop = min(start + _ITEMS, item.shape[1])
            key = keys[:stop - start]
            key[:] = 0
            for word in range(len(item)):
                code, part = query[word, first + i], item[word, start:stop]
                for j in range(len(part)):
                    key[j] += np.uint32(grades * bit_count(part[j] ^ code))
            for word in range(len(item_label)):
                mask, part = query_label[word, first + i], item_label[word, start:stop]
                for j in range(len(part)):
                    key[j] += np.uint32(bit_count(part[j] & mask))
            _tally(key, tables)
        count = counts[i].ravel()
        for table in range(4):
            for place in range(len(count)):
                count[place] += tables[table, place]


@compiled
def find_nearest(query, item, words, block, distance, row):
    """Find the items nearest to each query, sorted by distance and, among equal distances, by row.

    Args:
        query, item: codes, unsigned integers of one type, (queries * words,) and (items * words,).
        words: a tuple of as many numbers as a code has words: its length is known when the loops are compiled.
        block: the number of items that all queries are compared with before the next, so that they stay in the cache.
        distance, row: int32 and int64 (queries, topk), topk being at most the number of items; the result is put here.
    """
    width, queries, topk = len(words), len(distance), distance.shape[1]
    farther = np.uint64(8 * item.itemsize * width + 1)  # than any item
    room = 2 * topk + 16
    near, at = np.empty((queries, room), np.int32), np.empty((queries, room), np.int64)
    held, limit = np.zeros(queries, np.int64), np.full(queries, farther)  # only what is nearer than limit can count
    for start in range(0, len(item), block * width):
        stop = min(start + block * width, len(item))
        for i in range(queries):
            code = query[i * width:(i + 1) * width]
            for first in range(start, stop, _CHUNK * width):
                part = item[first:min(first + _CHUNK * width, stop)]
                least = farther
                for j in range(len(part) // width):
                    least = min(least, distance_to(part, j, code, words))
                if least >= limit[i]:
                    continue
                for j in range(len(part) // width):
                    apart = distance_to(part, j, code, words)
                    if apart < limit[i]:
                        near[i, held[i]], at[i, held[i]] = apart, first // width + j
                        held[i] += 1
                        if held[i] == room:
                            _sort(near[i], at[i], topk, farther)
                            held[i], limit[i] = topk, near[i, topk - 1]  # a later row loses a tie
    for i in range(queries):
        _sort(near[i, :held[i]], at[i, :held[i]], topk, farther)
        distance[i], row[i] = near[i, :topk], at[i, :topk]


@compiled
def distance_to(item, j, code, words):
    """The Hamming distance of item j to one code, uint64; ``item`` and ``words`` as for :func:`find_nearest`."""
    width, apart = len(words), np.uint64(0)
    for k in range(width):
        apart += bit_count(item[j * width + k] ^ code[k])
    return apart


@compiled
def _sort(distance, row, keep, farther):
    """Bring the ``keep`` nearest of candidates (n,) to the front, sorted, equal distances in the order they were in."""
    place = np.zeros(farther + 1, np.int64)
    for each in distance:
        place[each + 1] += 1
    for each in range(farther):
        place[each + 1] += place[each]
    unsorted_distance, unsorted_row = distance.copy(), row.copy()
    for i in range(len(unsorted_distance)):
        to = place[unsorted_distance[i]]
        place[unsorted_distance[i]] += 1
        if to < keep:
            distance[to], row[to] = unsorted_distance[i], unsorted_row[i]
