"""The curves of a run: what ``metrics.json`` holds under ``"curves"`` and what plots.py draws; how a training went.

    curves["64"]["unpaired"]["i2t"] = {
        "recall": [0.02, 0.04, ..., 1.0],   "precision": as many,
        "n": [1, 2, 5, ..., 1000],          "precision_at_n": as many; no N beyond the database}
    curves["64"]["code_histogram"] = {"edges": [-1.0, -0.95, ..., 1.0], "share": one fewer}

Protocols are ``unpaired`` and ``paired``, directions ``i2t`` and ``t2i``. All figures are means over all queries,
rounded to 5 places. Precision@N is the expectation over a random order of the ties; precision at a recall is
interpolated within them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import metric
from load_data import Dataset, Split
from model import HashModel

RECALL_LEVELS = np.arange(1, 51) / 50
NS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
BINS = 40
Outputs = Callable[[Split], Iterable[dict[str, list[Tensor]]]]


def model_curves(model: HashModel, data: Dataset, outputs: Outputs, scale: float) -> tuple[dict, list[np.ndarray]]:
    """The curves of every code length of ``model``, and the unpaired +-1 codes of its longest.

    What is held of an item is one byte a bit: memory stays small beside the features.

    Args:
        outputs: gives the model's outputs for a split, some rows at a time, by protocol: images and texts, or one
            tensor where both are the same (``Solver.outputs``).
        scale: that of the codes before the sign, for their histogram.

    Returns:
        What the module describes; and the codes, (n, bits) each, of query images, query texts, retrieval images,
        retrieval texts.
    """
    counts = {bits: np.zeros(BINS, np.int64) for bits in model.hash_lens}
    codes: list[dict[str, list[np.ndarray]]] = []
    for split in (data.query, data.retrieval):
        chunks: dict[str, list[list[np.ndarray]]] = {}
        for chunk in outputs(split):
            for protocol, sides in chunk.items():
                chunks.setdefault(protocol, []).append([metric.sign_codes(x.cpu().numpy()) for x in sides])
            if split is data.retrieval:
                for x in chunk["unpaired"]:
                    for bits, values in model.split(model.ImageMlp.binarize(x, scale)).items():
                        counts[bits] += np.histogram(values.cpu().numpy(), BINS, (-1, 1))[0]
        codes.append({protocol: [np.concatenate(side) for side in zip(*parts)] for protocol, parts in chunks.items()})
    query, retrieval = codes

    rankings, start = {}, 0
    for bits in model.hash_lens:  # side by side in the codes
        part = slice(start, start + bits)
        start += bits
        for protocol, asked in query.items():
            rankings[bits, protocol, "i2t"] = asked[0][:, part], retrieval[protocol][-1][:, part]
            if len(asked) == 2:  # otherwise t2i is the same ranking
                rankings[bits, protocol, "t2i"] = asked[1][:, part], retrieval[protocol][0][:, part]
        if bits == max(model.hash_lens):
            longest = [side[:, part] for sides in (query, retrieval) for side in sides["unpaired"]]
    histograms = metric.hamming_histograms(list(rankings.values()), data.query.label, data.retrieval.label)
    found = {ranking: curves_of(histogram) for ranking, histogram in zip(rankings, histograms)}
    return {str(bits): {"code_histogram": _shares(counts[bits]), **{
        protocol: {way: found.get((bits, protocol, way)) or found[bits, protocol, "i2t"] for way in ("i2t", "t2i")}
        for protocol in query}} for bits in model.hash_lens}, longest


def unpaired_embeddings(data: Dataset, outputs: Outputs) -> list[np.ndarray]:
    """The embeddings (n, width) of query images, query texts, retrieval images and retrieval texts, each alone."""
    parts = [[chunk["unpaired"] for chunk in outputs(split)] for split in (data.query, data.retrieval)]
    return [torch.cat(side).cpu().numpy() for split in parts for side in zip(*split)]


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
    return _shares(np.histogram(codes, bins=BINS, range=(-1, 1))[0])


def _shares(counts: np.ndarray) -> dict[str, list[float]]:
    return {"edges": _rounded(np.linspace(-1, 1, BINS + 1)), "share": _rounded(counts / counts.sum())}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 5).tolist()


# --- of a training ------------------------------------------------------------------------------------------------


def reached(at: Sequence[int], curve: Sequence[float], goal: float) -> float:
    """The first of the epochs ``at`` at which ``curve`` has at least ``goal``; infinite if there is none."""
    return next((float(epoch) for epoch, value in zip(at, curve) if value >= goal), float("inf"))


def variation(values: Sequence[float]) -> float:
    """How far a curve jumps about in its second half: the mean absolute second difference, 0 for a straight line; NaN
    with fewer than three values there.
    """
    half = np.array(values[len(values) // 2:])
    return float(np.abs(np.diff(half, 2)).mean()) if len(half) > 2 else float("nan")
