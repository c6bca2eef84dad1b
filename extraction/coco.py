"""The layout ``coco``: MS-COCO (Lin et al., ECCV 2014), photographs with five captions or more and 80 labels.

``annotations/captions_{train,val}{2014,2017}.json`` and ``instances_*.json``; the pictures are named
``COCO_val2014_000000522418.jpg`` in 2014 and ``000000522418.jpg`` in 2017, by the same ids. Both years have the same
123,287 pictures, captions and instances, and share them out differently. Category ids run to 90, with gaps.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from common import json_text
from common.errors import InputError, listing
from extraction.collection import Collection, Published
from extraction.download import Download, File, Pictures, add_root, clean
from extraction.karpathy import karpathy
from extraction.splits import Usual

SUMMARY = "MS-COCO as it is downloaded: 122,218 photographs, their captions and 80 labels"
OUT = Path("data/mscoco/mscoco.h5")
USUAL = Usual("5000", 10000)
YEARS = ("2017", "2014")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser, "annotations_trainval2017.zip, train2017.zip and val2017.zip, or those of 2014")
    parser.add_argument("--unlabelled", action="store_true",
                        help="also the pictures without an instance, and so without a label: 123,287 pairs")


def read(root: Path, unlabelled: bool = False) -> Collection:
    """The pictures of both parts, with an instance unless ``unlabelled``, in the order of their ids. Raises InputError.

    The captions of a picture are in the order of their own ids; a label is a category with an instance in it, and the
    labels are in the order of the categories' ids.
    """
    download = Download(root)
    year, captions_files, instances_files = _annotations(download)
    names, captions, labels, categories, problems = {}, {}, {}, {}, []
    for file in captions_files:
        content = _load(file, "images", "annotations")
        names |= _pairs(file, content["images"], lambda image: (int(image["id"]), str(image["file_name"])))
        for image, number, text in _each(file, content["annotations"], lambda caption: (
                int(caption["image_id"]), int(caption["id"]), clean(caption["caption"]))):
            captions.setdefault(image, []).append((number, text))
    for file in instances_files:
        content = _load(file, "annotations", "categories")
        category = _pairs(file, content["categories"], lambda category: (int(category["id"]), str(category["name"])))
        categories |= category
        for image, number in _each(file, content["annotations"], tuple):
            if number not in category:
                raise InputError(f"{file}: an instance has the category {number}; expected one of 'categories'")
            labels.setdefault(image, set()).add(category[number])
    for what, of in (("captions", captions), ("instances", labels)):
        problems += [f"{what}: there is no picture {image}" for image in sorted(of.keys() - names.keys())]
    ids, texts = [], []
    for image in sorted(names if unlabelled else names.keys() & labels.keys()):
        text = [text for _, text in sorted(captions.get(image, ())) if text]
        if len(text) < len(captions.get(image, ())):
            problems.append(f"{names[image]}: {len(captions[image]) - len(text)} captions are empty")
        if text:
            ids.append(image)
            texts.append(text)
        else:
            problems.append(f"{names[image]}: has no caption and is left out")
    pictures = {int(name[-16:-4]): file for name, file in download.find(r"(COCO_(train|val)2014_)?\d{12}\.jpg").items()}
    attributes = {"source": f"MS-COCO, annotations of {year}, {root}",
                  "filter": f"{len(ids):,} of {len(names):,} pictures: "
                            f"{'all' if unlabelled else 'those with an instance of a category'}"}
    return Collection(Pictures([pictures.get(image) for image in ids]), texts,
                      [sorted(labels.get(image, ())) for image in ids],
                      label_names=[categories[number] for number in sorted(categories)],
                      columns={"id": list(map(str, ids)), "image_file": [names[image] for image in ids]},
                      attributes=attributes, problems=problems,
                      published=Published(123287, 616767, 80) if unlabelled else Published(122218, None, 80),
                      official=lambda: karpathy(download, "dataset_coco.json", "cocoid"))


def _annotations(download: Download) -> tuple[str, list[File], list[File]]:
    """The year of the annotations that are taken, and their files: of captions and of instances."""
    missing = {}
    for year in YEARS:
        names = [f"{kind}_{part}{year}.json" for kind in ("captions", "instances") for part in ("train", "val")]
        found = download.find(rf"(captions|instances)_(train|val){year}\.json")
        if len(found) == len(names):
            return year, [found[name] for name in names[:2]], [found[name] for name in names[2:]]
        missing[year] = sorted(set(names) - set(found))
    year = min(missing, key=lambda year: len(missing[year]))
    raise download.missing(f"annotations/{listing(missing[year])}", f"annotations_trainval{year}.zip")


def _load(file: File, *keys: str) -> dict[str, list]:
    # The outlines of instances are most of a file: they would take most of the time and gigabytes of memory.
    text = re.sub(rb'"segmentation":\s*\[[^"{}]*\]', b'"segmentation":0', file.read_bytes())
    try:
        content = json_text.parse(text, object_hook=_without_box)
        if all(isinstance(content[key], list) for key in keys):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{file}: not a whole JSON file of COCO; expected {' and '.join(map(repr, keys))}, a list each")


def _without_box(item: dict) -> object:
    """An instance as its picture and its category; anything else as it is."""
    return (item["image_id"], item["category_id"]) if "category_id" in item else item


def _each(file: File, items: list, pick: Callable[[object], tuple]) -> list[tuple]:
    try:
        return [pick(item) for item in items]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: an entry isn't one of COCO's ({type(error).__name__}: {error})") from None


def _pairs(file: File, items: list, pick: Callable[[object], tuple]) -> dict:
    return dict(_each(file, items, pick))
