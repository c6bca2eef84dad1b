r"""The layout ``nus-wide``: NUS-WIDE (Chua et al., CIVR 2009), photographs with their tags and the 10 or 21 most
frequent of its 81 concepts as labels.

``Groundtruth/AllLabels/Labels_<concept>.txt`` (81 files) and ``NUS_WID_Tags/AllTags1k.txt`` have a line for each line
of ``ImageList/Imagelist.txt``, whose lines read ``actor\0001_2124494179.jpg``; ``NUS_WID_Tags/All_Tags.txt`` has the id
(2124494179) and the tags. Six ids come twice in the list. The pictures lie in 704 folders or, in some copies, in one;
many copies lack some.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from common.errors import InputError, listing
from extraction.collection import Collection, Lists, Published
from extraction.download import Download, File, Pictures, add_root, clean
from extraction.splits import Usual

SUMMARY = "NUS-WIDE as it is downloaded: 186,577 photographs, their tags and 10 labels, or 195,834 and 21"
OUT = Path("data/nus-wide/nus-wide.h5")
USUAL = Usual("2000", 5000)
CONCEPTS = {"sky": 74190, "clouds": 54087, "person": 51577, "water": 35264, "animal": 33887, "grass": 22561,
            "buildings": 17835, "window": 15051, "plants": 14345, "lake": 13392, "ocean": 11307, "road": 9524,
            "flowers": 8605, "sunset": 8418, "reflection": 7875, "rocks": 6327, "vehicle": 6099, "snow": 5404,
            "tree": 5352, "beach": 5239, "mountain": 5099}  # the most frequent ones, with their pictures
LABEL_FILES = 81
UNTAGGED = "a photo"
PAIRS = {(10, False): 186577, (10, True): 181365, (21, False): 195834, (21, True): 190421}  # by concepts and --tagged
TAGGED_COUNTS = (72659, 53066, 49230, 34760, 33071, 22085, 17348, 14505, 14167, 13264)  # of the first ten concepts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser, "ImageList, Groundtruth, NUS_WID_Tags and the pictures")
    parser.add_argument("--concepts", type=int, choices=(10, 21), default=10,
                        help="how many of the most frequent concepts are labels; a pair has at least one of them "
                             "(default: 10)")
    parser.add_argument("--tagged", action="store_true",
                        help="only pairs with one of the 1,000 most frequent tags: 181,365 with 10 concepts, 190,421 "
                             "with 21")


def read(root: Path, concepts: int = 10, tagged: bool = False) -> Collection:
    """The pairs with one of the concepts, in the order of Imagelist.txt. Raises InputError.

    The text is all tags of a picture as All_Tags.txt has them, joined by spaces, or UNTAGGED where there are none: the
    published counts include these pictures.
    """
    download = Download(root)
    names = [line.strip().replace("\\", "/")
             for line in download.one("Imagelist.txt", "ImageList.zip").lines() if line.strip()]
    ids = [_id(name) for name in names]
    names_of_labels = sorted(list(CONCEPTS)[:concepts])
    has, problems = _concepts(download, names_of_labels, len(names))
    keep = has.any(axis=0)
    if tagged:
        keep &= _has_tag(download.one("AllTags1k.txt", "NUS_WID_Tags.zip"), len(names))
    tags = _tags(download.one("All_Tags.txt", "NUS_WID_Tags.zip"), ids, problems)
    rows = [row for row in np.flatnonzero(keep).tolist() if tags[row] is not None]
    captions = [[clean(tags[row]) or UNTAGGED] for row in rows]
    untagged = captions.count([UNTAGGED])
    pictures = download.find(r"(.*/)?\d+_\d+\.jpg", parts=2)
    by_file_name = {name.rpartition("/")[2]: file for name, file in reversed(pictures.items())}
    files = [pictures.get(names[row]) or by_file_name.get(names[row].rpartition("/")[2]) for row in rows]
    labels = [[name for name, positive in zip(names_of_labels, column) if positive] for column in has.T[rows].tolist()]
    attributes = {"source": f"NUS-WIDE, {root}",
                  "filter": f"{len(rows):,} of {len(names):,} pictures: with one of the {concepts} most frequent "
                            f"concepts{', and with one of the 1,000 most frequent tags' * tagged}; {untagged:,} of "
                            f"them have no tag, and {UNTAGGED!r} as text"}
    return Collection(Pictures(files), captions, labels,
                      columns={"id": [ids[row] for row in rows], "image_file": [names[row] for row in rows]},
                      attributes=attributes, label_names=names_of_labels, problems=problems,
                      published=_published(concepts, tagged),
                      official=lambda: _official(download))


def _published(concepts: int, tagged: bool) -> Published:
    counts = dict(list(CONCEPTS.items())[:concepts])
    if tagged:
        counts = dict(zip(CONCEPTS, TAGGED_COUNTS)) if concepts == 10 else {}
    pairs = PAIRS[concepts, tagged]
    return Published(pairs, pairs, concepts, counts)


def _id(name: str) -> str:
    match = re.fullmatch(r"(?:.*/)?\d+_(\d+)\.jpg", name)
    if match is None:
        raise InputError(rf"Imagelist.txt: {name!r}; expected lines such as actor\0001_2124494179.jpg")
    return match[1]


def _concepts(download: Download, wanted: list[str], count: int) -> tuple[np.ndarray, list[str]]:
    """Whether each picture has each wanted concept, (concepts, count) bool, and what is wrong with the other files."""
    files = {name.removeprefix("AllLabels/Labels_").removesuffix(".txt"): file
             for name, file in download.find(r"AllLabels/Labels_[a-z]+\.txt", parts=2).items()}
    if absent := [f"Labels_{concept}.txt" for concept in wanted if concept not in files]:
        raise download.missing(f"AllLabels/{listing(absent)}", "Groundtruth.zip")
    has, problems = np.empty((len(wanted), count), bool), []
    for concept, file in sorted(files.items()):
        try:
            column = _column(file, count)
        except InputError as error:
            if concept in wanted:
                raise
            problems.append(f"{error}; it is not among the {len(wanted)} concepts")
            continue
        if concept in wanted:
            has[wanted.index(concept)] = column
    if len(files) < LABEL_FILES:
        problems.append(f"AllLabels: {len(files)} files; the whole data set has {LABEL_FILES}, of which the "
                        f"{len(wanted)} concepts are there")
    return has, problems


def _column(file: File, count: int) -> np.ndarray:
    """A file of a 0 or a 1 a line, (count,) bool. Raises InputError."""
    content = file.read_bytes()
    digits = content.translate(None, b" \t\r\n")
    if len(digits) != count or digits.count(b"0") + digits.count(b"1") != count or (
            content.rstrip().count(b"\n") != count - 1):
        values = content.split()
        for line, value in enumerate(values, 1):
            if value not in (b"0", b"1"):
                raise InputError(f"{file}: line {line}: {value.decode('utf-8', 'replace')!r}; expected 0 or 1")
        raise _other_length(file, len(values), count)
    return np.frombuffer(digits, np.uint8) == ord("1")


def _has_tag(file: File, count: int) -> np.ndarray:
    """Whether each line of AllTags1k.txt, 0 or 1 for each of the 1,000 tags, has a 1, (count,) bool."""
    with file.open() as lines:  # half a gigabyte
        has = np.array([b"1" in line for line in lines if line.strip()])
    if len(has) != count:
        raise _other_length(file, len(has), count)
    return has


def _other_length(file: File, found: int, count: int) -> InputError:
    return InputError(f"{file}: {found:,} lines; expected {count:,}, as many as Imagelist.txt has")


def _tags(file: File, ids: list[str], problems: list[str]) -> list[str | None]:
    """The tags of each picture; None where the file has no line with its id, which is added to the problems."""
    lines: dict[str, list[str]] = {}
    for line in filter(str.strip, file.lines()):
        id_, *rest = line.split(None, 1)
        lines.setdefault(id_, []).append(rest[0] if rest else "")
    if not lines.keys() & set(ids):
        raise InputError(f"{file}: no line begins with an id of Imagelist.txt; expected lines such as "
                         f"'2124494179 cat animal'")
    tags: list[str | None] = []
    for id_ in ids:  # an id that comes twice in the list has two lines here, in the same order
        of_id = lines.get(id_)
        if of_id is None:
            problems.append(f"All_Tags.txt: no line for the id {id_}; its picture is left out")
        tags.append(None if of_id is None else of_id.pop(0) if len(of_id) > 1 else of_id[0])
    problems += [f"All_Tags.txt: the id {id_} is not in Imagelist.txt" for id_ in lines.keys() - set(ids)]
    return tags


def _official(download: Download) -> Lists:
    """The test pictures as queries, the training pictures as database and training split."""
    test, train = ([line.strip() for line in download.one(name, "ImageList.zip").lines() if line.strip()]
                   for name in ("TestImagelist.txt", "TrainImagelist.txt"))
    return Lists({"query": test, "retrieval": train, "train": train},
                 "TestImagelist.txt as query, TrainImagelist.txt as retrieval and train")
