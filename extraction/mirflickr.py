"""The layout ``mirflickr``: MIRFlickr-25K (Huiskes and Lew, ACM MIR 2008), photographs with their tags and 24 labels.

``mirflickr25k.zip`` has ``mirflickr/im1.jpg`` to ``im25000.jpg``, ``meta/tags/tags1.txt`` (a tag a line) and
``doc/common_tags.txt`` (the 1,386 tags of at least 20 pictures, each with its count); the labels come as
``mirflickr25k_annotations_v080.zip``, a list of picture numbers each. The 14 narrower lists, ``*_r1.txt``, are no
labels of their own.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from common.errors import InputError, listing
from extraction.collection import Collection, Published
from extraction.download import Download, File, Pictures, add_root, clean
from extraction.splits import Usual

SUMMARY = "MIRFlickr-25K as it is downloaded: 20,015 photographs, their tags and 24 labels"
OUT = Path("data/mirflickr/mirflickr.h5")
USUAL = Usual("2000", 5000)
LABELS = ("animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake", "male",
          "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset", "transport",
          "tree", "water")
PUBLISHED = Published(20015, 20015, 24, dict(zip(LABELS, (
    2647, 179, 644, 986, 3230, 581, 4614, 1554, 813, 6320, 704, 4743, 2243, 7848, 7413, 2740, 811, 1133, 6818, 8463,
    1840, 2450, 3981, 2885))))
PICTURES_SOURCE, LABELS_SOURCE = "mirflickr25k.zip", "mirflickr25k_annotations_v080.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser, f"{PICTURES_SOURCE} and {LABELS_SOURCE}")


def read(root: Path) -> Collection:
    """The pairs with a label and one of the common tags, in the order of the pictures' numbers. Raises InputError.

    The text is all tags of a picture as ``meta/tags`` has them, joined by spaces.
    """
    download = Download(root)
    labels = _labels(download)
    common = {line.split()[0] for line in download.one("common_tags.txt", PICTURES_SOURCE).lines() if line.split()}
    tag_files = download.find(r"tags/tags\d+\.txt", parts=2)
    if not tag_files:
        raise download.missing("meta/tags/tags1.txt", PICTURES_SOURCE)
    pictures = download.find(r"im\d+\.jpg")
    numbers, captions, problems = [], [], []
    for number in sorted(labels):
        file = tag_files.get(f"tags/tags{number}.txt")
        if file is None:
            problems.append(f"meta/tags/tags{number}.txt: not there, though {labels[number][0]}.txt has {number}; that "
                            f"picture is left out")
            continue
        tags = [tag for line in file.lines() if (tag := clean(line))]
        if not common.isdisjoint(tags):
            numbers.append(number)
            captions.append([" ".join(tags)])
    names = [f"im{number}.jpg" for number in numbers]
    attributes = {"source": f"MIRFlickr-25K, {root}",
                  "filter": f"{len(numbers):,} of the {len(labels):,} pictures with one of the 24 labels have one of "
                            f"the {len(common):,} common tags as well"}
    return Collection(Pictures([pictures.get(name) for name in names]), captions,
                      [labels[number] for number in numbers],
                      columns={"id": list(map(str, numbers)), "image_file": names}, attributes=attributes,
                      label_names=LABELS, problems=problems, published=PUBLISHED)


def _labels(download: Download) -> dict[int, list[str]]:
    """The labels of each picture that has any, by its number."""
    files = download.find(rf"({'|'.join(LABELS)})\.txt")
    if absent := [name for label in LABELS if (name := f"{label}.txt") not in files]:
        raise download.missing(listing(absent), LABELS_SOURCE)
    labels: dict[int, list[str]] = {}
    for label in LABELS:
        for number in dict.fromkeys(_numbers(files[f"{label}.txt"])):
            labels.setdefault(number, []).append(label)
    return labels


def _numbers(file: File) -> list[int]:
    numbers = []
    for line, text in enumerate(file.lines(), 1):
        if text.strip():
            if not re.fullmatch(r"\s*\d{1,9}\s*", text):
                raise InputError(f"{file}: line {line}: {text.strip()!r}; expected the number of a picture")
            numbers.append(int(text))
    return numbers
