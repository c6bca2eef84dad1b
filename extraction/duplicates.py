"""Pictures whose files have the same content: a query whose picture is in the database too would find itself."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Callable, Iterable

import numpy as np

from common.errors import InputError
from extraction.collection import Collection
from extraction.download import File

TAIL_BYTES = 1024  # pictures of the same size nearly always differ in their last bytes


def separate(collection: Collection, drop: bool) -> Collection:
    """The collection with an attribute ``duplicates``, which counts queries and items of the database that have the
    same picture, if there are any; and without these items, if ``drop`` says so. Its images are Pictures.
    """
    query = set(collection.splits["query_idx"].tolist())
    queries, items = [], []
    for rows in identical(collection.images.files):
        asked = query.intersection(rows)
        if 0 < len(asked) < len(rows):
            queries += asked
            items += set(rows) - asked
    if not items:
        return collection
    said = f"{len(queries):,} queries have the same picture as {len(items):,} items of the database"
    if drop:
        said += ", which were left out"
        collection = collection.select(np.setdiff1d(np.arange(len(collection)), items))
        if not all(map(len, collection.splits.values())):
            raise InputError(f"--drop_duplicates: {said}, and nothing is left to search; leave --drop_duplicates out")
    collection.attributes = {**collection.attributes, "duplicates": said}
    return collection


def identical(files: list[File]) -> list[list[int]]:
    """The groups of rows whose files have the same content. A file that can't be read is like no other.

    Contents are read only where the sizes and the last bytes (or, in an archive, the checksums) are the same.
    """
    groups = [list(range(len(files)))]
    for key in (_size, _tail, _content):
        groups = [group for rows in groups for group in _grouped(rows, files, key)]
    return groups


def _grouped(rows: Iterable[int], files: list[File], key: Callable[[File], object]) -> list[list[int]]:
    by_key = collections.defaultdict(list)
    for row in rows:
        try:
            by_key[key(files[row])].append(row)
        except (InputError, OSError):
            pass  # named when it is encoded
    return [group for group in by_key.values() if len(group) > 1]


def _size(file: File) -> int:
    return os.path.getsize(file.path) if file.member is None else file.info().file_size


def _tail(file: File) -> bytes | int:
    if file.member is not None:
        return file.info().CRC
    with open(file.path, "rb") as opened:
        opened.seek(max(0, os.path.getsize(file.path) - TAIL_BYTES))
        return opened.read()


def _content(file: File) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
