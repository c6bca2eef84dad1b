"""The curves of a run: what ``metrics.json`` holds under ``"curves"`` and what reporting/plots.py draws.

    curves["64"]["unpaired"]["i2t"] = {
        "recall": [0.02, 0.04, ..., 1.0],   "precision": as many,
        "n": [1, 2, 5, ..., 1000],          "precision_at_n": as many; no N beyond the database}
    curves["64"]["code_histogram"] = {"edges": [-1.0, -0.95, ..., 1.0], "share": one fewer}

Protocols are ``unpaired`` and ``paired``, directions ``i2t`` and ``t2i``; without labels there is only the histogram.
All figures are means over all queries, rounded to 5 places. Precision@N is the expectation over a random order of the
ties; precision at a recall is interpolated within them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

import evaluation
import metric
from load_data import Dataset
from model import HashModel

RECALL_LEVELS = np.arange(1, 51) / 50
NS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
BINS = 40


def curves_of(histogram: np.ndarray) -> dict[str, list[float]]:
    """The curves of one ranking, from :func:`metric.hamming_histogram`."""
    ns = [n for n in NS if n <= histogram[0].sum()]
    return {"recall": _rounded(RECALL_LEVELS), "precision": _rounded(precision_at_recall(histogram, RECALL_LEVELS)),
            "n": ns, "precision_at_n": _rounded(metric.precision_at_n(histogram, ns))}


def precision_at_recall(histogram: ArrayLike, levels: ArrayLike) -> np.ndarray:
    """Mean over queries of the precision where the ranking reaches each recall of ``levels`` (in (0, 1]).

    Relevant items are taken to be spread evenly within a tie group: precision and recall
    are interpolated as Davis & Goadrich (ICML 2006, section 4) do, linearly in the counts. A query without relevant
    items counts as 0.

    Args:
        histogram: ``count[query, distance, relevant]`` of :func:`metric.hamming_histogram`.

    Returns:
        (levels,). Unlike :func:`metric.precision_recall`, whose points are Hamming radii, no query fails to retrieve,
        and codes of different lengths or seeds are comparable at the same recall.
    """
    levels = np.asarray(levels, float)
    total = np.zeros(len(levels))
    for counts in np.asarray(histogram):
        relevant, size = counts[:, 1], counts.sum(axis=1)
        found, retrieved = relevant.cumsum(), size.cumsum()
        if found[-1]:
            wanted = np.round(levels * found[-1], 9)  # a level reached at the end of a tie group is reached there
            group = np.searchsorted(found, wanted)
            short = wanted - (found - relevant)[group]  # relevant items still to come in the tie group
            total += wanted / ((retrieved - size)[group] + size[group] * short / relevant[group])
    return total / len(histogram)


def code_histogram(codes: ArrayLike) -> dict[str, list[float]]:
    """Shares of the values of real codes (n, bits), in [-1, 1], in 40 equal bins."""
    return shares(code_counts(codes))


def code_counts(codes: ArrayLike) -> np.ndarray:
    """How many values of real codes (n, bits) lie in each of the bins, (40,); the counts of parts add up."""
    return np.histogram(codes, bins=BINS, range=(-1, 1))[0]


def shares(counts: np.ndarray) -> dict[str, list[float]]:
    """The ``code_histogram`` of counts."""
    return {"edges": _rounded(np.linspace(-1, 1, BINS + 1)), "share": _rounded(counts / counts.sum())}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 5).tolist()


def model_curves(model: HashModel, data: Dataset, scale: float) -> tuple[dict[str, dict], list[Tensor]]:
    """The curves of every code length, without labels only the histogram; and the unpaired hash codes.

    Args:
        scale: that of the codes before the sign, for their histogram.

    Returns:
        What the module describes; and the codes of all lengths side by side, int8 (n, width) each, of query images,
        query texts, retrieval images, retrieval texts.
    """
    counts = dict.fromkeys(model.hash_lens, 0)

    def count(code: Tensor) -> None:
        for bits, values in model.split(code).items():
            counts[bits] = counts[bits] + code_counts(values.numpy(force=True))

    query = evaluation.encode(model, data.query, scale)
    retrieval = evaluation.encode(model, data.retrieval, scale, observe=count)
    ranked = evaluation.rankings(model, query, retrieval)
    found = evaluation.by_length(model, data, ranked, curves_of)
    return ({bits: {"code_histogram": shares(counts[int(bits)]), **figures} for bits, figures in found.items()},
            [*query["unpaired"], *retrieval["unpaired"]])
