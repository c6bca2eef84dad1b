"""Sample retrievals of a run: a few queries and their nearest items, for the report and the terminal."""

from __future__ import annotations

import unicodedata

import numpy as np

import metric
from load_data import Dataset, Split

MAX_QUERIES = 8
MAX_ITEMS = 10  # a query
MAX_TEXT = 200  # characters


def sample_retrievals(data: Dataset, query_image: np.ndarray, query_text: np.ndarray, retrieval_image: np.ndarray,
                      retrieval_text: np.ndarray, hashing: bool = True) -> dict | None:
    """The 10 nearest items of 8 queries in both directions; the queries are spread evenly over the query split.

    Items rank by Hamming distance, or by 1 - cosine without ``hashing``, and at equal distance by their row number.

    Args:
        data: the data set, whose ``query`` and ``retrieval`` splits the codes belong to, row by row.
        query_image, query_text: +-1 codes (queries, bits), or real embeddings (queries, width) without ``hashing``.
        retrieval_image, retrieval_text: the same of the items, (items, bits) or (items, width).

    Returns:
        None for a data set without a ``caption`` column, else ``{"bits": ..., "i2t": [...], "t2i": [...]}``: bits is
        None without ``hashing``, and the lists hold ``{"query": item, "items": [item, ...]}``. Every item has ``row``,
        ``text`` and ``labels``, and, where the data set has them, ``emoji`` and ``picture`` (the path of
        ``image_file``, if it lies beside the data set). Retrieved items also have ``distance`` and ``relevant``,
        which is None without labels.
    """
    if any("caption" not in split.meta for split in (data.query, data.retrieval)):
        return None
    rows = np.linspace(0, len(data.query) - 1, min(MAX_QUERIES, len(data.query))).round().astype(int)
    result: dict = {"bits": query_image.shape[1] if hashing else None}
    for direction, queries, items in (("i2t", query_image, retrieval_text), ("t2i", query_text, retrieval_image)):
        if hashing:
            distances = metric.hamming_distance(queries[rows], items)
        else:
            unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries[rows], items)]
            distances = 1 - unit[0] @ unit[1].T
        result[direction] = []
        for row, distance in zip(rows, distances):
            nearest = np.argsort(distance, kind="stable")[:MAX_ITEMS]
            relevant = data.retrieval.label[nearest].int() @ data.query.label[row].int() > 0
            result[direction].append({"query": describe(data, data.query, row), "items": [
                {**describe(data, data.retrieval, item), "distance": round(distance[item].item(), 4),
                 "relevant": bool(hit) if data.num_classes else None} for item, hit in zip(nearest, relevant)]})
    return result


def describe(data: Dataset, split: Split, row: int) -> dict:
    """What can be shown of the pair in a row of a split."""
    meta = split.meta
    labels = np.flatnonzero(split.label[row]).tolist()
    text = str(meta["annotation" if "annotation" in meta else "caption"][row])
    item = {"row": int(split.index[row]), "text": text[:MAX_TEXT],
            "labels": [data.label_names[label] if data.label_names else str(label) for label in labels]}
    if "emoji" in meta:
        item["emoji"] = shown(str(meta["emoji"][row]))
    if "image_file" in meta and data.path is not None:
        picture = (data.path if data.path.is_dir() else data.path.parent) / str(meta["image_file"][row])
        if picture.is_file():
            item["picture"] = str(picture)
    return item


def shown(emoji: str) -> str:
    """The emoji, or an empty string for private-use code points, which only OpenMoji's own font can show."""
    return "" if any(unicodedata.category(character) == "Co" for character in emoji) else emoji
