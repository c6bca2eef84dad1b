"""The labels of all splits in one form: multi-hot over the same classes."""

from __future__ import annotations

from typing import Mapping

import numpy as np

from common.errors import InputError
from pairs.rows import SPLITS, Rows, check_widths

MAX_CLASSES = 10_000  # a label column with more values than this holds ids, not classes


def unify_labels(where: str, rows: Mapping[str, Rows], label_names: list[str] | None) -> list[str] | None:
    """Make class numbers one-hot over the classes that occur in any split; return the names of these.

    Args:
        where: the file or the data set, for messages.
        rows: of every split; class numbers (n,) become one-hot (n, classes) uint8 in place.
        label_names: a name for each class, if there are names.

    Raises InputError if the splits or the names do not fit each other.
    """
    parts = {id(part): part for part in rows.values()}.values()
    without = [split for split in SPLITS if rows[split].label.shape[1:] == (0,)]
    if 0 < len(without) < len(SPLITS):
        raise InputError(f"{rows[without[0]].found}, hence no label array in {', '.join(without)}; expected one in "
                         f"every split, or in none")
    if without and label_names is not None:
        raise InputError(f"{where}: found label_names, but no label array; expected both, or none")
    if len({part.label.ndim for part in parts}) > 1:
        raise InputError(f"{where}: label: found class numbers in one split and several columns in another; "
                         "expected one form")
    if rows["train"].label.ndim == 1:
        classes = np.unique(np.concatenate([part.label for part in parts]))
        if len(classes) > MAX_CLASSES:
            raise InputError(f"{where}: label: found {len(classes):,} different values; "
                             f"expected class numbers, at most {MAX_CLASSES:,} of them")
        for part in parts:
            part.label = (part.label[:, None] == classes).astype(np.uint8)
        if label_names is not None:
            if 0 < classes[0] and classes[-1] < len(label_names) != len(classes):
                raise InputError(f"{where}: label_names: found {len(label_names)} names for class numbers from "
                                 f"{classes[0]} to {classes[-1]}, which may be counted from 0 or from 1; expected a "
                                 f"name for each of the {len(classes)} classes that occur, in their order")
            first = min(int(classes[0]), 1)  # classes are counted from 0 or from 1
            if classes[-1] - first < len(label_names):
                label_names = [label_names[number - first] for number in classes]
    check_widths(where, "classes", {split: rows[split].label for split in SPLITS})
    width = rows["train"].label.shape[1]
    if label_names is not None and len(label_names) != width:
        raise InputError(f"{where}: label_names: found {len(label_names)} names; "
                         f"expected one for each of {width} classes")
    return label_names
