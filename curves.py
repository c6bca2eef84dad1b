"""The curves of a run: what ``metrics.json`` holds under ``"curves"`` and what plots.py draws.

    curves["64"]["unpaired"]["i2t"] = {
        "recall": [0.02, 0.04, ..., 1.0],   "precision": as many,
        "n": [1, 2, 5, ..., 1000],          "precision_at_n": as many; no N beyond the database}
    curves["64"]["code_histogram"] = {"edges": [-1.0, -0.95, ..., 1.0], "share": one fewer}

Protocols are ``unpaired`` and ``paired``, directions ``i2t`` and ``t2i``. All figures are expectations over a random
order of the ties, means over all queries, rounded to 5 places.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import metric
from load_data import Dataset, Split
from model import FusionModel, HashModel

RECALL_LEVELS = np.arange(1, 51) / 50
NS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
BINS = 40


def model_curves(model: HashModel, data: Dataset, scale: float) -> tuple[dict, list[np.ndarray]]:
    """The curves of every code length of ``model``, and the unpaired +-1 codes of its longest.

    What is held of an item is one byte a bit: memory stays small beside the features.

    Args:
        scale: that of the codes before the sign, for their histogram.

    Returns:
        What the module describes; and the codes, (n, bits) each, of query images, query texts, retrieval images,
        retrieval texts.
    """
    counts: dict[int, np.ndarray] = {bits: np.zeros(BINS, np.int64) for bits in model.hash_lens}
    codes: list[dict[str, list[np.ndarray]]] = []
    for split in (data.query, data.retrieval):
        chunks: dict[str, list[list[np.ndarray]]] = {}
        for outputs in model_outputs(model, split):
            for protocol, sides in outputs.items():
                chunks.setdefault(protocol, []).append([metric.sign_codes(x.cpu().numpy()) for x in sides])
            if split is data.retrieval:
                for x in outputs["unpaired"]:
                    for bits, part in model.split(model.ImageMlp.binarize(x, scale)).items():
                        counts[bits] += np.histogram(part.cpu().numpy(), bins=BINS, range=(-1, 1))[0]
        codes.append({protocol: [np.concatenate(side) for side in zip(*parts)] for protocol, parts in chunks.items()})
    query, retrieval = codes
    labels = data.query.label.numpy(), data.retrieval.label.numpy()
    curves: dict[str, dict] = {}
    start = 0
    for bits in model.hash_lens:  # side by side in the codes
        part = slice(start, start + bits)
        start += bits
        curves[str(bits)] = {"code_histogram": _shares(counts[bits])}
        for protocol, asked in query.items():
            stored = retrieval[protocol]
            way = curves[str(bits)][protocol] = {
                "i2t": retrieval_curves(asked[0][:, part], stored[-1][:, part], *labels)}
            way["t2i"] = way["i2t"] if len(asked) == 1 else (  # both sides of a pair have one code
                retrieval_curves(asked[1][:, part], stored[0][:, part], *labels))
        if bits == max(model.hash_lens):
            longest = [side[:, part] for sides in (query, retrieval) for side in sides["unpaired"]]
    return curves, longest


def unpaired_embeddings(model: FusionModel, data: Dataset) -> list[np.ndarray]:
    """The embeddings (n, width) of query images, query texts, retrieval images and retrieval texts, each alone."""
    parts = [list(model_outputs(model, split)) for split in (data.query, data.retrieval)]
    return [torch.cat([part["unpaired"][side] for part in split]).cpu().numpy() for split in parts for side in (0, 1)]


@torch.no_grad()
def model_outputs(model: FusionModel | HashModel, split: Split, rows: int = 8192) -> Iterator[dict[str, list[Tensor]]]:
    """What ``model`` makes of a split, part by part: by protocol images and texts, or one tensor where both are one."""
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(split), rows):
        image, text = (side[start:start + rows].to(device) for side in (split.image, split.text))
        yield {protocol: list({id(side): side for side in sides}.values())
               for protocol, sides in model(image, text).items()}


def retrieval_curves(query_codes: ArrayLike, retrieval_codes: ArrayLike, query_labels: ArrayLike,
                     retrieval_labels: ArrayLike) -> dict[str, list[float]]:
    """Precision at fixed recall levels, and precision@N, of +-1 codes (n, bits) and multi-hot labels (n, classes).

    Raises:
        InputError: as :func:`metric.hamming_histogram`.
    """
    histogram = metric.hamming_histogram(query_codes, retrieval_codes, query_labels, retrieval_labels)
    ns = [n for n in NS if n <= len(retrieval_codes)]
    return {"recall": _rounded(RECALL_LEVELS), "precision": _rounded(precision_at_recall(histogram, RECALL_LEVELS)),
            "n": ns, "precision_at_n": _rounded(metric.precision_at_n(histogram, ns))}


def precision_at_recall(histogram: ArrayLike, levels: ArrayLike) -> np.ndarray:
    """Mean over queries of the precision where the ranking reaches each recall of ``levels`` (in (0, 1]).

    Relevant items are spread evenly within a tie group, as they are on average over its orders: precision and recall
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
