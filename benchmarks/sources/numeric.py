"""Data sets of numbers that were measured, without an encoder: the digits of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.atomic_files import write_atomically
from common.errors import InputError

QUERIES = 300


def make_digits(out: Path, archive: Path | None = None) -> None:
    """The 1,797 handwritten digits of scikit-learn: the left half of each is its image, the right half its text."""
    if archive is not None:
        raise InputError(f"--archive {archive}: the digits come with scikit-learn; leave it out")
    try:
        from sklearn.datasets import load_digits  # here: it takes a second to load
    except ImportError as error:
        raise InputError(f"digits: {error}; pip install scikit-learn") from None

    digits = load_digits()
    left, right = (half.reshape(-1, 32) for half in np.split(digits.images, 2, axis=2))
    rows = np.random.default_rng(0).permutation(len(left))
    write_atomically(out, lambda file: np.savez(
        file, image=left, text=right, label=digits.target, train_idx=rows[QUERIES:], query_idx=rows[:QUERIES],
        retrieval_idx=rows[QUERIES:]))
