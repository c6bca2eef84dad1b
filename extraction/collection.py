"""What a source has: pictures, their texts and labels, before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Collection:
    """n pictures and what belongs to each of them; entry i of every member is about picture i."""

    images: Iterable[Image | Path]  # n, read one after the other when they are encoded
    captions: Sequence[Sequence[str]]  # of each picture, one or more
    labels: Sequence[Sequence[str]] | None  # the names of each picture's labels; None: there are no labels
    splits: dict[str, np.ndarray]  # query_idx, retrieval_idx, train_idx: sorted row numbers
    columns: dict[str, Sequence[str]] = field(default_factory=dict)  # further strings by name, n each
    attributes: dict[str, str] = field(default_factory=dict)  # of the file: source, licence, filter, split

    def __len__(self) -> int:
        return len(self.captions)
