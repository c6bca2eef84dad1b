"""The layout ``flickr8k``: Flickr8k, see :mod:`extraction.flickr`."""

from __future__ import annotations

import argparse
from pathlib import Path

from extraction.collection import Collection, Lists, Published
from extraction.download import Download, add_root
from extraction.flickr import read_flickr
from extraction.karpathy import karpathy
from extraction.splits import Usual

SUMMARY = "Flickr8k as it is downloaded: 8,091 photographs with five captions each, without labels"
OUT = Path("data/flickr8k/flickr8k.h5")
USUAL = Usual("1000")
JSON = "dataset_flickr8k.json"
NAMES = ("Flickr8k.token.txt", "captions.txt", JSON)
WITHOUT = "2258277193_586949ec62.jpg.1"  # in Flickr8k.token.txt, with five captions of a picture that isn't given out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser, f"Flickr8k_Dataset.zip and Flickr8k_text.zip, Kaggle's captions.txt, or {JSON}, and the pictures")


def read(root: Path) -> Collection:
    """All pairs. Raises InputError."""
    return read_flickr(root, "Flickr8k", NAMES, Published(8091, 40455), _official, WITHOUT)


def _official(download: Download) -> Lists:
    """Karpathy's split, which is that of the data set's own lists of 6,000, 1,000 and 1,000 pictures."""
    if download.find(JSON):
        return karpathy(download, JSON, "filename")
    lists = {part: [line.strip() for line in download.one(f"Flickr_8k.{part}Images.txt", "Flickr8k_text.zip").lines()
                    if line.strip()] for part in ("train", "dev", "test")}
    return Lists({"query": lists["test"], "retrieval": lists["train"] + lists["dev"], "train": lists["train"]},
                 "Flickr_8k.testImages.txt as query, trainImages and devImages as retrieval, trainImages as train")
