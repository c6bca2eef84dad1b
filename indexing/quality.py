"""How well an index ranks the items of its data set for the queries of the query split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import metric
from common.errors import InputError
from indexing.index import NO_ID, Hits, Index
from load_data import Dataset

TOPK = 50
RECALL_TOPK = 10


class Quality(NamedTuple):
    """The measures of one ranking; None for what can't be measured."""

    ranking: str
    map_at_50: float | None  # None without labels
    recall_at_10: float | None
    tied_at_10: float | None = None  # the share of queries whose first 10 items share one score, or one distance


def measure(index: Index, data: Dataset, modality: str, rerank: Sequence[int], bits: int | None = None,
            rescore: Sequence[int] = ()) -> list[Quality]:
    """mAP@50 and recall@10 of an index of one split of ``data``, by queries of one modality; of the first ``bits`` bits
    of its codes, if given, as those of an index that holds no more.

    recall@10 is the share of the 10 items nearest to a query by the cosine of x, in float32, that are among the first
    10 of the ranking. The rankings are: by Hamming distance, averaged over all orders of the ties; by Hamming distance,
    ties by id; and with the best N reranked, for each N of ``rerank``, and rescored, for each N of ``rescore``, that
    the index has items for.

    Raises:
        InputError: the index has fewer than 50 items, other items than the split, no codes of ``bits`` bits, or no x
            for ``rescore``.
    """
    bits = index.check_length("bits", bits)
    name = index.about["source"]["split"]
    split, of = getattr(data, name), "text" if index.about["modality"] == "text" else "image"
    stored, asked = split.items(of), data.query.items(modality)
    order = np.argsort(stored.index)
    if index.about["source"].get("updated") or not np.array_equal(stored.index[order], index.ids):
        raise InputError(f"{index.folder}: holds other items than the {name} split of {data.name}; build an index of "
                         f"that split alone")
    if len(index) < TOPK:
        raise InputError(f"{index.folder}: holds {len(index)} items; mAP@{TOPK} and recall@{RECALL_TOPK} need {TOPK} "
                         f"or more")
    labelled = bool(data.num_classes)
    whole = index.encode(**{modality: getattr(data.query, modality).numpy()})
    features = {"image": split.image, "text": split.text if of == "text" else split.text[split.first_text]}
    items = index.encode(**{side: features[side].numpy()[order] for side in features
                            if index.about["modality"] in (side, "both")}).first_bits(bits)
    queries = whole.first_bits(bits)
    query_unit, item_unit = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries.x, items.x))
    nearest = [np.argsort(-(item_unit @ unit), kind="stable")[:RECALL_TOPK] for unit in query_unit]
    labels, item_labels = asked.label.numpy(), stored.label.numpy()[order]
    averaged = None
    if labelled:
        averaged = metric.mean_average_precision(queries.codes, items.codes, labels, item_labels, TOPK)
    measured = [Quality("Hamming, ties averaged", averaged, None)]
    for ranking, options in rankings(index, rerank, rescore):
        hits = index.query_encoded(whole, TOPK, bits=bits, **options)
        rows = np.where(hits.id == NO_ID, -1, np.searchsorted(index.ids, hits.id))
        recall = np.mean([np.isin(best, found[:RECALL_TOPK]).mean() for best, found in zip(nearest, rows)])
        measured.append(Quality(ranking, _map(rows, labels, item_labels) if labelled else None, float(recall),
                                tied(hits)))
    return measured


def rankings(index: Index, rerank: Sequence[int], rescore: Sequence[int]) -> list[tuple[str, dict[str, int]]]:
    """The rankings that :meth:`Index.query` gives, by name, and what it has to be asked for each."""
    found = [("Hamming, ties by id", {})]
    for option, numbers in (("rerank", rerank), ("rescore", rescore)):
        found += [(f"the best {number:,} {option.removesuffix('e')}ed", {option: number})
                  for number in numbers if number <= len(index)]
    return found


def tied(hits: Hits) -> float:
    """The share of queries whose first 10 items share one score, or without scores one distance."""
    scores = (hits.distance if hits.score is None else hits.score)[:, :RECALL_TOPK]
    return float((scores == scores[:, :1]).all(axis=1).mean())


def _map(rows: np.ndarray, labels: np.ndarray, item_labels: np.ndarray) -> float:
    """Mean average precision of ranked rows (q, topk), -1 where there is no item."""
    return float(np.mean([metric.average_precision((item_labels[found] @ label > 0) & (found != -1))
                          for found, label in zip(rows, labels)]))
