"""The histograms of ``metric.hamming_histograms`` from matrix products, for codes that lie on a GPU.

Codes of ``bits`` values -1 and 1 at the Hamming distance d have the inner product bits - 2 d, so that

    bits - query . item + relevant  =  2 d + relevant

is the place of the pair in the query's histogram. Everything here is exact, whatever the device does with sums:

- All factors are -1, 0 and 1, and so are all products, in any floating-point type, TF32 included. However a sum is cut
  and ordered, its partial sums are whole numbers of a magnitude of at most bits, and a place is at most 2 bits + 1.
- float16 holds every whole number up to 2048, hence the places of up to 1,023 bits, even where partial sums are kept in
  float16 (``torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction``). Longer codes are multiplied in
  float32, which holds every whole number up to 2**24.
- A query and an item share a label if the sum of the products of their labels is positive, which rounding and overflow
  of a sum of numbers of one sign cannot change.
- The counts are integers, which may be added in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

FLOAT16_BITS = 1023  # of the longest codes whose places float16 holds
PAIRS = 2**24  # of a query and an item that are counted at once: they take about 250 MB


@torch.no_grad()
def hamming_histograms(rankings: Sequence[tuple[Tensor, Tensor]], query_labels: Tensor, retrieval_labels: Tensor,
                       pairs: int = PAIRS) -> list[np.ndarray]:
    """What ``metric.hamming_histograms`` returns for codes and labels that passed its checks, which aren't made again.

    Args:
        rankings: codes of -1 and 1, (queries, bits) and (items, bits), all on one device, which computes.
        query_labels, retrieval_labels: labels of 0 and 1, (queries, classes) and (items, classes), on any device.
        pairs: the number of pairs to be counted at once, at least one item with all queries. Memory grows with it, not
            with the database.

    Returns the histogram of each ranking, int64 (queries, bits + 1, 2).
    """
    device = rankings[0][0].device
    rankings = [tuple(side.to(_float(side.shape[1])) for side in sides) for sides in rankings]
    query_labels, retrieval_labels = (side.to(device, torch.float16) for side in (query_labels, retrieval_labels))
    queries, items = len(query_labels), len(retrieval_labels)
    # A column a query, so that threads side by side, which have an item and neighbouring queries, add to different places.
    counts = [torch.zeros(2 * (query.shape[1] + 1), queries, dtype=torch.int32, device=device) for query, _ in rankings]
    one = torch.ones((), dtype=torch.int32, device=device)
    step = max(1, pairs // queries)
    for some in (slice(start, start + step) for start in range(0, items, step)):
        relevant = retrieval_labels[some] @ query_labels.T > 0
        for (query, item), count in zip(rankings, counts):
            start = relevant.to(query.dtype).add_(query.shape[1])
            place = torch.addmm(start, item[some], query.T, alpha=-1).long()
            count.scatter_add_(0, place, one.expand_as(place))
    return [count.T.reshape(queries, -1, 2).numpy(force=True).astype(np.int64) for count in counts]


def _float(bits: int) -> torch.dtype:
    """The type that codes of so many bits are multiplied in."""
    return torch.float16 if bits <= FLOAT16_BITS else torch.float32
