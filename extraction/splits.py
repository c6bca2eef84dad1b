"""Which pairs are queries, which are the database, and which of it are trained on: the same options for every layout.

``--split random`` draws them. ``--split PATH`` reads them: PATH is a text of the queries, one a line, or a folder with
``query.txt`` and, if wanted, ``retrieval.txt`` and ``train.txt`` (also named test and database, and also as
``query/images.txt`` and so on). A line is the name of a picture, its id, or the number of its row. ``--split official``
takes the split that the data set was published with. What isn't said is completed: the database is all that is no
query, and the training split is drawn out of the database.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, listing
from common.input_files import read_text
from extraction.collection import Collection, Lists

FILE_NAMES = {"query": ("query", "test"), "retrieval": ("retrieval", "database"), "train": ("train",)}


class Usual(NamedTuple):
    """The sizes that publications draw of a data set."""

    query: str = "0.1"  # a share or a number
    train: int | None = None  # None: the whole database


def add_arguments(parser: argparse.ArgumentParser, usual: Usual) -> None:
    parser.add_argument("--split", default="random", metavar="random|official|PATH",
                        help="how the pairs are split: at random (default); as published; or as PATH lists it, a text "
                             "of the queries' names, ids or row numbers, or a folder with query.txt and, if wanted, "
                             "retrieval.txt and train.txt")
    parser.add_argument("--query", help=f"of --split random: share (below 1) or number of the pairs that are queries "
                                        f"(default: {usual.query})")
    parser.add_argument("--train", type=int, metavar="N", help="number of the other pairs to train on, drawn at random "
                                                               f"(default: {usual.train or 'all'})")
    parser.add_argument("--seed", type=int, default=0, help="of whatever is drawn at random (default: 0)")
    parser.add_argument("--drop_duplicates", action="store_true",
                        help="leave out of the database what has the same picture as a query")


def draw(count: int, queries: int, seed: int, train: int | None = None) -> dict[str, np.ndarray]:
    """``query_idx``, ``retrieval_idx``, ``train_idx``: sorted row numbers, int32; train is part of retrieval.

    The queries are the first ``queries`` of ``numpy.random.default_rng(seed).permutation(count)``; the rest is
    retrieval, and its first ``train`` (all of it, if not given) are train.
    """
    rows = np.random.default_rng(seed).permutation(count).astype(np.int32)
    rest = rows[queries:]
    return {"query_idx": np.sort(rows[:queries]), "retrieval_idx": np.sort(rest), "train_idx": np.sort(rest[:train])}


def query_count(query: str, count: int) -> int:
    """The number of queries among ``count`` pairs: ``--query`` is a share of them if it is below 1, else their number.

    A share is at least one query. Raises InputError.
    """
    try:
        share = float(query)
        queries = max(1, round(share * count)) if 0 < share < 1 else int(query)
    except ValueError:
        raise InputError(f"--query {query!r}; expected a share between 0 and 1 or a whole number") from None
    if not 0 < queries < count:
        raise InputError(f"--query {query}: {queries} queries of {count} pairs; expected 1 to {count - 1}")
    return queries


def split_collection(collection: Collection, usual: Usual, split: str, query: str | None, train: int | None, seed: int,
                     without_pictures: bool = False) -> Collection:
    """The collection with ``splits``, without the pairs whose picture isn't there or that are in no part of the split.

    Args:
        collection: all that the source lists; its images are Pictures. Row numbers of a list count in it.
        usual: the sizes that are drawn unless ``query`` and ``train`` say others.
        split, query, train, seed: the options of the command.
        without_pictures: split all that is listed, whether its picture is there or not.

    Raises InputError if a query is in the database too, a size doesn't fit, or a list can't be read.
    """
    if not len(collection):
        raise InputError(f"{collection.attributes['source']}: no pair is left: {collection.attributes.get('filter')}")
    if seed < 0:
        raise InputError(f"--seed {seed}; expected a whole number from 0 up")
    if split != "random" and query is not None:
        raise InputError(f"--query {query}: the queries are those of --split {split}; leave --query out")
    if split != "random":
        lists = _official(collection) if split == "official" else read_lists(Path(split))
        collection = _listed(collection, lists, official=split == "official")
    if not without_pictures:
        collection = _there(collection)
    if train is None and "train_idx" not in collection.splits:
        train = usual.train
    if split == "random":
        query = query or usual.query
        queries = query_count(query, len(collection))
        _check_train(train, len(collection) - queries, "the pairs that are not queries")
        splits = draw(len(collection), queries, seed, train)
        said = f"--query {query} --seed {seed}" + ("" if train is None else f" --train {train}")
        return _with(collection, splits, said)
    drawn = "" if train is None else f", --train {train} --seed {seed}"
    return _used(_with(collection, _completed(collection, train, seed), lists.where + drawn))


def _with(collection: Collection, splits: dict[str, np.ndarray], said: str) -> Collection:
    return dataclasses.replace(collection, splits=splits, attributes={**collection.attributes, "split": said})


def _there(collection: Collection) -> Collection:
    """The collection without the pairs whose picture isn't there, each of which is a problem. Raises InputError if none
    is there.
    """
    files, names = collection.images.files, collection.columns["image_file"]
    rows = np.array([row for row, file in enumerate(files) if file is not None], int)
    if not len(rows):
        raise InputError(f"{collection.attributes['source']}: none of the {len(files):,} pictures is there, neither in "
                         f"a folder nor in a zip archive; the first is {names[0]}")
    absent = [f"{name}: not there" for name, file in zip(names, files) if file is None]
    return dataclasses.replace(collection.select(rows), problems=collection.problems + absent)


def _check_train(train: int | None, available: int, which: str) -> None:
    if train is not None and not 2 <= train <= available:
        raise InputError(f"--train {train}: expected 2 to {available}, {which}")


def _completed(collection: Collection, train: int | None, seed: int) -> dict[str, np.ndarray]:
    """The three parts of a split of which the queries are known at least. Raises InputError if they overlap."""
    query = collection.splits["query_idx"]
    retrieval = collection.splits.get("retrieval_idx")
    if retrieval is None:
        retrieval = np.setdiff1d(np.arange(len(collection), dtype=np.int32), query)
    training = collection.splits.get("train_idx", retrieval)
    if train is not None:
        _check_train(train, len(training), "the pairs that are listed to train on, or else the database")
        training = np.sort(np.random.default_rng(seed).permutation(training)[:train])
    splits = {"query_idx": query, "retrieval_idx": retrieval, "train_idx": training}
    for name, rows in splits.items():
        if not len(rows):
            raise InputError(f"--split: no pair is left in {name.removesuffix('_idx')}; expected at least one")
        if name != "query_idx" and len(both := np.intersect1d(query, rows)):
            raise InputError(f"--split: {len(both):,} pairs are in query and in {name.removesuffix('_idx')}, the first "
                             f"is {collection.columns['image_file'][both[0]]}; expected no query in the database")
    return splits


def _used(collection: Collection) -> Collection:
    """The collection without the pairs that are in no part of the split."""
    used = np.unique(np.concatenate(list(collection.splits.values())))
    if len(used) == len(collection):
        return collection
    said = f"{collection.attributes['split']}; {len(collection) - len(used):,} pairs are in no part and left out"
    return _with(selected := collection.select(used), selected.splits, said)


# --- lists --------------------------------------------------------------------------------------------------


def _official(collection: Collection) -> Lists:
    if collection.official is None:
        raise InputError("--split official: this data set was published without a split; draw one with --split random "
                         "--seed S, or give the lists of a publication with --split PATH")
    return collection.official()


def read_lists(path: Path) -> Lists:
    """The parts of a split: those of a folder, or the queries of a text. Raises InputError."""
    if not path.is_dir():
        return Lists({"query": _read_list(path)}, str(path))
    parts, files = {}, []
    for part, names in FILE_NAMES.items():
        candidates = [path / f"{name}{end}" for name in names for end in (".txt", "/images.txt")]
        if there := [file for file in candidates if file.is_file()]:
            if len(there) > 1:
                raise InputError(f"{path}: {listing(file.relative_to(path) for file in there)} are there; expected "
                                 f"one of them")
            parts[part] = _read_list(there[0])
            files += there
    if "query" not in parts:
        raise InputError(f"--split {path}: a folder without query.txt, test.txt, query/images.txt or test/images.txt; "
                         f"expected one of them")
    return Lists(parts, f"{path}: {', '.join(str(file.relative_to(path)) for file in files)}")


def _read_list(path: Path) -> list[str]:
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--split {path}: can't be read ({error.strerror}); expected random, official, a text or a "
                         f"folder") from None
    except ValueError:
        raise InputError(f"{path}: not a text in UTF-8; expected a name, an id or a row number a line") from None
    if not (entries := [line.strip() for line in lines if line.strip()]):
        raise InputError(f"{path}: no line has anything in it; expected a name, an id or a row number a line")
    return entries


def _listed(collection: Collection, lists: Lists, official: bool) -> Collection:
    """The collection with the rows that are listed as ``splits``.

    An entry that is not among the pairs is a problem, except in an official list, which has more than the filter of
    the layout leaves. Raises InputError.
    """
    rows_by = _rows_by_entry(collection, lists)
    splits, problems = {}, list(collection.problems)
    for part, entries in lists.parts.items():
        rows = np.array([row for entry in entries for row in rows_by(entry)], np.int32)
        absent = [entry for entry in entries if not rows_by(entry)]
        if not len(rows):
            raise InputError(f"{lists.where}: none of the {len(entries):,} entries of {part} is among the pairs, the "
                             f"first of which is {entries[0]!r}")
        splits[f"{part}_idx"] = np.unique(rows)
        if not official:
            problems += [f"--split: {part}: {entry} is not among the pairs" for entry in absent]
            problems += [f"--split: {part}: {entry} is listed {times} times"
                         for entry, times in collections.Counter(entries).items() if times > 1]
    return dataclasses.replace(collection, splits=splits, problems=problems)


def _rows_by_entry(collection: Collection, lists: Lists) -> Callable[[str], list[int]]:
    """What gives the rows that an entry of the lists means; more than one if an id occurs more than once."""
    ids = collection.columns.get("id")
    entries = [entry for part in lists.parts.values() for entry in part]
    if not lists.by_id and all(re.fullmatch(r"\d{1,18}", entry) for entry in entries):
        numbers = set(map(int, entries))
        rows = max(numbers) < len(collection)
        named = ids is not None and numbers <= set(map(int, ids))
        if rows == named:
            other = "may be ids and may be row numbers" if rows else (
                f"are neither all ids of the pairs nor all row numbers, 0 to {len(collection) - 1}")
            raise InputError(f"{lists.where}: the numbers {other}; list the names of the pictures, such as "
                             f"{collection.columns['image_file'][0]}")
        if rows:
            return lambda entry: [int(entry)]
    elif not lists.by_id:
        names = [_normal(name) for name in collection.columns["image_file"]]
        if len({_base(name) for name in names}) == len(names):
            by_base = _rows_by(map(_base, names))
            return lambda entry: by_base.get(_base(_normal(entry)), [])
        by_name = _rows_by(names)
        return lambda entry: by_name.get(_normal(entry), [])
    by_id = _rows_by(map(int, ids))
    return lambda entry: by_id.get(int(entry), [])


def _rows_by(keys: Iterable) -> dict[object, list[int]]:
    rows = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return rows


def _normal(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _base(name: str) -> str:
    """The name without its folders; of the two names that a picture of COCO has, that of 2017."""
    return re.sub(r"^COCO_(train|val)2014_", "", posixpath.basename(name))
