"""What is odd about a data set but stops nothing."""

from __future__ import annotations

from typing import Mapping

import numpy as np

from common.errors import listing
from formats.arrays import block_rows
from pairs.rows import SPLITS, Rows


def find_oddities(rows: Mapping[str, Rows]) -> list[str]:
    """A line, with counts, for each thing that is odd about the splits of a data set, whose labels are multi-hot."""
    found = []
    for name in SPLITS:
        part = rows[name]
        count = len(part.index)
        if part.label.shape[1] and (unlabelled := int((~part.label.any(axis=1)).sum())):
            found.append(f"{name}: {unlabelled:,} of {count:,} rows have no label: nothing is relevant to them")
        for key in ("image", "text"):
            features = getattr(part, key)
            if zero := _zero_rows(features):
                found.append(f"{name}: {zero:,} of {len(features):,} rows have {key} features that are all zero")
    train, query, retrieval = (rows[name] for name in SPLITS)
    queries = len(query.index)
    if query.label.shape[1]:
        labelled = query.label.any(axis=1)
        missed = labelled & ~query.label[:, retrieval.label.any(axis=0)].any(axis=1)
        if count := int(missed.sum()):
            found.append(f"query: {count:,} of {queries:,} rows share no label with any item of retrieval")
        if (query.label.all(axis=0) & retrieval.label.all(axis=0)).any():
            found.append("every item is relevant to every query: one label is common to all of them")
    else:
        columns = f" (columns found: {listing(query.meta)})" if query.meta else ""
        found.append(f"no labels{columns}: tests count how often a query finds its own partner, and give no mAP")
        if queries <= 10:
            of = "R@10" if len(query.text) <= 10 else "R@10 of texts that ask for images"
            found.append(f"query: with {queries} rows, {of} is 1 whatever the codes")
    others = [retrieval] + [train] * (not np.may_share_memory(train.image, retrieval.image))
    known = np.concatenate([_pair_hashes(part) for part in others])
    if count := int(np.isin(_pair_hashes(query), known).sum()):
        found.append(f"query: {count:,} of {queries:,} rows have the features of a row of train or retrieval")
    return found


def _zero_rows(features: np.ndarray) -> int:
    """How many rows are all zero; counted in blocks, since the features may be larger than memory."""
    rows = block_rows(features.shape, 4)
    return sum(int((~(features[start:start + rows] != 0).any(axis=1)).sum()) for start in range(0, len(features), rows))


def _pair_hashes(part: Rows) -> np.ndarray:
    """The hashes of the images with their first texts, (n,)."""
    text = part.text
    if part.texts is not None:
        text = text[np.searchsorted(part.texts.image, np.arange(len(part.index)))]
    return row_hashes(part.image, text)


def row_hashes(*features: np.ndarray) -> np.ndarray:
    """A number (n,) for each row of float32 features (n, d), or of several side by side: the same for the same bits."""
    random = np.random.default_rng(0)
    hashes = np.zeros(len(features[0]), np.uint64)
    for part in features:
        factors = random.integers(1, 2**63, part.shape[1], np.uint64)
        rows = block_rows(part.shape, 8)
        for start in range(0, len(hashes), rows):
            hashes[start:start + rows] += part[start:start + rows].view(np.uint32) @ factors
    return hashes
