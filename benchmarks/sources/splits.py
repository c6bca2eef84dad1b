"""The split of the data sets that come without one."""

from __future__ import annotations

import numpy as np

from extraction.dataset_file import split


def usual_split(count: int, train: int | None = None) -> dict[str, np.ndarray]:
    """15 % of the rows, at most 1,000, as queries, at random; the rest to search, and at most ``train`` to train on."""
    return split(count, min(count * 15 // 100, 1000), 0, train)
