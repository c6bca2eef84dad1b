"""Sample retrievals of a run: a few queries and their nearest items, for the report and the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import metric
from common.errors import InputError
from load_data import Dataset, Items, attributes
from reporting.emoji import shown

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
        ``text`` and ``labels``, and, where the data set has them, ``emoji`` and ``picture``: the path of ``image_file``
        in the first of the :func:`picture_folders` that has it, or in the last. Retrieved items also have ``distance``
        and ``relevant``, which is None without labels.
    """
    query, by_modality = data.query.items("image"), {side: data.retrieval.items(side) for side in ("image", "text")}
    if any("caption" not in items.columns for items in (query, by_modality["text"])):
        return None
    rows = np.linspace(0, len(data.query) - 1, min(MAX_QUERIES, len(data.query))).round().astype(int)
    result: dict = {"bits": query_image.shape[1] if hashing else None}
    folders = picture_folders(data)
    first_text = data.query.first_text.numpy()[rows]  # of an image with several texts the first is a query, too
    for direction, queries, modality, codes in (("i2t", query_image[rows], "text", retrieval_text),
                                                ("t2i", query_text[first_text], "image", retrieval_image)):
        if hashing:
            distances = metric.hamming_distance(queries, codes)
        else:
            unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, codes)]
            distances = 1 - unit[0] @ unit[1].T
        items = by_modality[modality]
        result[direction] = []
        for row, distance in zip(rows, distances):
            nearest = np.argsort(distance, kind="stable")[:MAX_ITEMS]
            relevant = items.label[nearest].int() @ query.label[row].int() > 0
            result[direction].append({"query": describe(data, query, row, folders), "items": [
                {**describe(data, items, item, folders), "distance": round(distance[item].item(), 4),
                 "relevant": bool(hit) if data.num_classes else None} for item, hit in zip(nearest, relevant)]})
    return result


def picture_folders(data: Dataset) -> list[Path]:
    """Where the pictures of a data set may lie: beside it, and where extract_features.py read them."""
    if data.path is None:
        return []
    try:
        recorded = attributes(data).get("picture_folders", "")
    except InputError:  # the file is gone since it was loaded
        recorded = ""
    beside = data.path if data.path.is_dir() else data.path.parent
    return [beside, *map(Path, recorded.splitlines() if isinstance(recorded, str) else [])]


def describe(data: Dataset, items: Items, row: int, folders: Sequence[Path]) -> dict:
    """What can be shown of the item in a row; its picture is looked for in ``folders``."""
    columns = items.columns
    labels = np.flatnonzero(items.label[row]).tolist()
    text = str(columns["annotation" if "annotation" in columns else "caption"][row])
    item = {"row": int(items.index[row]), "text": text[:MAX_TEXT],
            "labels": [data.label_names[label] if data.label_names else str(label) for label in labels]}
    if "emoji" in columns:
        item["emoji"] = shown(str(columns["emoji"][row]))
    if "image_file" in columns:
        paths = [os.path.abspath(folder / str(columns["image_file"][row])) for folder in folders]
        if paths:
            item["picture"] = next(filter(os.path.isfile, paths), paths[-1])
    return item
