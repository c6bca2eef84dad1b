"""Sample retrievals: what a few queries find, for the report and the terminal."""

from __future__ import annotations

import unicodedata

import numpy as np

import metric
from load_data import Dataset, Split

QUERIES = 8
TOP = 10


def sample_retrievals(data: Dataset, query_image: np.ndarray, query_text: np.ndarray, retrieval_image: np.ndarray,
                      retrieval_text: np.ndarray, hashing: bool = True) -> dict | None:
    """The 10 nearest items of 8 queries spread evenly over the query split, for both directions.

    Items rank by Hamming distance of +-1 codes (n, bits), or, not ``hashing``, by 1 - cosine of embeddings (n, width);
    items at one distance by their row number. No query is picked by hand.

    Returns:
        None for a data set without a ``caption`` column, else ``{"bits": ..., "i2t": [...], "t2i": [...]}``, lists
        of ``{"query": item, "items": [item, ...]}``. An item has ``row``, ``text``, ``labels``, and, where the data set
        has them, ``emoji`` and ``picture`` (the path of ``image_file``, if it lies beside the data set); those found
        have ``distance`` and ``relevant`` too, which is None without labels.
    """
    if any("caption" not in split.meta for split in (data.query, data.retrieval)):
        return None
    rows = np.linspace(0, len(data.query) - 1, min(QUERIES, len(data.query))).round().astype(int)
    result: dict = {"bits": query_image.shape[1] if hashing else None}
    for way, asked, stored in (("i2t", query_image, retrieval_text), ("t2i", query_text, retrieval_image)):
        if hashing:
            distances = metric.hamming_distance(asked[rows], stored)
        else:
            unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (asked[rows], stored)]
            distances = 1 - unit[0] @ unit[1].T
        result[way] = []
        for row, distance in zip(rows, distances):
            nearest = np.argsort(distance, kind="stable")[:TOP]
            relevant = data.retrieval.label[nearest].int() @ data.query.label[row].int() > 0
            result[way].append({"query": describe(data, data.query, row), "items": [
                {**describe(data, data.retrieval, found), "distance": round(distance[found].item(), 4),
                 "relevant": bool(hit) if data.num_classes else None} for found, hit in zip(nearest, relevant)]})
    return result


def describe(data: Dataset, split: Split, row: int) -> dict:
    """What there is to show of one pair."""
    meta = split.meta
    labels = np.flatnonzero(split.label[row]).tolist()
    text = str(meta["annotation" if "annotation" in meta else "caption"][row])
    item = {"row": int(split.index[row]), "text": text[:200],
            "labels": [data.label_names[label] if data.label_names else str(label) for label in labels]}
    if "emoji" in meta:
        item["emoji"] = shown(str(meta["emoji"][row]))
    if "image_file" in meta and data.path is not None:
        picture = (data.path if data.path.is_dir() else data.path.parent) / str(meta["image_file"][row])
        if picture.is_file():
            item["picture"] = str(picture)
    return item


def shown(emoji: str) -> str:
    """The emoji, or nothing where only OpenMoji's own font has a glyph (private-use code points)."""
    return "" if any(unicodedata.category(sign) == "Co" for sign in emoji) else emoji
