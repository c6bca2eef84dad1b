"""One search over many processes: each holds a range of the code file, and the nearest are merged exactly.

``torchrun --nproc_per_node=N search.py query ...`` starts the processes, on one machine or on several that see the same
index folder. The first reads and encodes the queries, broadcasts their codes and merges the answers; the others wait
for codes, search their range and send what they found. The answer is that of one process, to the last tie.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from common import processes
from indexing import nearest
from indexing.index import Index

NEAREST, WITHIN, STOP = range(3)  # what the first process asks of the others


@contextlib.contextmanager
def open_index(folder: Path) -> Iterator[Index | None]:
    """The index of a folder, spread over the processes of torchrun.

    The first process gets the index; the others answer its queries until it leaves the context, and get None then.
    Raises InputError as :meth:`Index.load`.
    """
    dist.init_process_group("gloo")
    try:
        while True:
            index, loaded = Index.load(folder, Sharded), [None] * processes.size()
            dist.all_gather_object(loaded, index.about)
            if all(about == index.about for about in loaded):
                break  # else the index was replaced between one process's load and another's
        if processes.rank() == 0:
            try:
                yield index
            finally:
                index.searcher.stop()
        else:
            index.searcher.serve()
            yield None
    finally:
        dist.destroy_process_group()


class Sharded:
    """A :class:`nearest.Searcher` over the ranges of all processes of the default process group.

    The first process asks, with ``nearest`` and ``within``, and ends with ``stop``; the others call ``serve``.
    """

    def __init__(self, codes: np.ndarray):
        """Take this process's range of ``codes``, the packed codes (n, bytes) of the whole database."""
        self.rank, part, self.bits = processes.rank(), processes.part(len(codes)), 8 * codes.shape[1]
        self.whole = nearest.Flat(codes[part], part.start)
        self.shards = {self.bits: self.whole}  # by the number of bits that are compared

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`nearest.Searcher.nearest`; exact."""
        self._ask(NEAREST, queries, topk)
        return self._nearest(queries, topk)

    def within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :meth:`nearest.Searcher.within`; exact."""
        self._ask(WITHIN, queries, radius)
        return self._within(queries, radius)

    def first_bits(self, bits: int) -> Sharded:
        """As :meth:`nearest.Searcher.first_bits`; each process copies these bits of its range when first asked."""
        narrow = copy.copy(self)  # shares the shards
        narrow.bits = bits
        return narrow

    def stop(self) -> None:
        """Let the other processes go."""
        self._ask(STOP, np.empty((0, 0), np.uint8), 0)

    def serve(self) -> None:
        """Answer the first process until it stops."""
        while True:
            question = torch.empty(4, dtype=torch.int64)
            dist.broadcast(question, 0)
            kind, count, number, bits = question.tolist()
            if kind == STOP:
                return
            queries, asked = torch.empty(count, -(-bits // 8), dtype=torch.uint8), self.first_bits(bits)
            dist.broadcast(queries, 0)
            (asked._nearest if kind == NEAREST else asked._within)(queries.numpy(), number)

    def _ask(self, kind: int, queries: np.ndarray, number: int) -> None:
        dist.broadcast(torch.tensor([kind, len(queries), number, self.bits]), 0)
        if kind != STOP:
            dist.broadcast(torch.from_numpy(queries), 0)

    def _nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray] | None:
        distance, row = self._shard().nearest(queries, topk)
        parts = zip(_gather(distance.ravel()), _gather(row.ravel()))
        if self.rank == 0:
            return nearest.merge_nearest([tuple(array.reshape(len(queries), -1) for array in part) for part in parts],
                                         topk)

    def _within(self, queries: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        parts = list(zip(*map(_gather, self._shard().within(queries, radius))))
        if self.rank == 0:
            return nearest.merge_within(parts)

    def _shard(self) -> nearest.Flat:
        if self.bits not in self.shards:
            self.shards[self.bits] = self.whole.first_bits(self.bits)
        return self.shards[self.bits]


def _gather(array: np.ndarray) -> list[np.ndarray]:
    """The arrays (any length,) of all processes in the first one, an empty list in the others."""
    mine = torch.from_numpy(array)
    lengths = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(mine)]))
    longest = int(max(lengths))
    padded = torch.cat([mine, mine.new_zeros(longest - len(mine))])
    first = dist.get_rank() == 0
    parts: list[Tensor] | None = [torch.empty_like(padded) for _ in lengths] if first else None
    dist.gather(padded, parts, 0)
    return [part[:int(length)].numpy() for part, length in zip(parts, lengths)] if first else []
