"""The one rule by which the data sets of this folder that come without a split are split."""

from __future__ import annotations

import numpy as np

from extraction.splits import draw

QUERY_SHARE = 0.15
MAX_QUERIES, MAX_TRAIN = 1000, 5000


def random_split(count: int) -> dict[str, np.ndarray]:
    """15 % of the rows as queries, at most 1,000, and of the others at most 5,000 to train on; see :func:`draw`."""
    return draw(count, min(MAX_QUERIES, int(QUERY_SHARE * count)), 0, MAX_TRAIN)
