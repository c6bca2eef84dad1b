"""What a source has: pictures, their texts and labels, before anything is encoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from extraction.download import Pictures

if TYPE_CHECKING:
    from PIL.Image import Image


class Lists(NamedTuple):
    """The pictures of each part of a split, as a publication names them."""

    parts: dict[str, list[str]]  # names, ids or row numbers by part: query and, if they are given, retrieval and train
    where: str  # the file or files that they were read from
    by_id: bool = False  # the entries are ids


class Published(NamedTuple):
    """What the whole data set has under the filter that was asked for, as publications count it."""

    pairs: int
    captions: int | None = None
    label_count: int = 0
    labels: dict[str, int] = {}  # pairs by label, where publications give them


@dataclass
class Collection:
    """n pictures and what belongs to each of them; entry i of every member is about picture i."""

    images: Iterable[Image | Path]  # n, read one after the other when they are encoded
    captions: Sequence[Sequence[str]]  # of each picture, one or more
    labels: Sequence[Sequence[str]] | None  # the names of each picture's labels; None: there are no labels
    splits: dict[str, np.ndarray] = field(default_factory=dict)  # query_idx, retrieval_idx, train_idx: sorted rows
    columns: dict[str, Sequence[str]] = field(default_factory=dict)  # further strings by name, n each
    attributes: dict[str, str] = field(default_factory=dict)  # of the file: source, licence, filter, split
    label_names: Sequence[str] | None = None  # all labels, in their order; None: those that occur, alphabetically
    problems: list[str] = field(default_factory=list)  # what is wrong or was left out, such as "im3.jpg: not there"
    published: Published | None = None
    official: Callable[[], Lists] | None = None  # reads the published split, if the source has one

    def __len__(self) -> int:
        return len(self.captions)

    def select(self, rows: np.ndarray) -> Collection:
        """The collection of some rows, (m,) ascending; ``splits`` has the new numbers of those that are left.

        The images have to be :class:`extraction.download.Pictures`.
        """
        if len(rows) == len(self):
            return self
        number = np.full(len(self), -1, np.int32)
        number[rows] = np.arange(len(rows))
        splits = {name: moved[moved >= 0] for name, moved in ((name, number[of]) for name, of in self.splits.items())}
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        return dataclasses.replace(self, images=Pictures([self.images.files[row] for row in rows]),
                                   captions=[self.captions[row] for row in rows], labels=labels, splits=splits,
                                   columns=columns)
