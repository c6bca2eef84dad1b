"""The layout ``flickr30k``: Flickr30k, see :mod:`extraction.flickr`."""

from __future__ import annotations

import argparse
from pathlib import Path

from extraction.collection import Collection, Published
from extraction.download import add_root
from extraction.flickr import read_flickr
from extraction.karpathy import karpathy
from extraction.splits import Usual

SUMMARY = "Flickr30k as it is downloaded: 31,783 photographs with five captions each, without labels"
OUT = Path("data/flickr30k/flickr30k.h5")
USUAL = Usual("1000")
JSON = "dataset_flickr30k.json"
NAMES = ("results_20130124.token", "captions.txt", "results.csv", JSON)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_root(parser, "the pictures and results_20130124.token, Kaggle's captions.txt or results.csv, or " + JSON)


def read(root: Path) -> Collection:
    """All pairs. Raises InputError."""
    return read_flickr(root, "Flickr30k", NAMES, Published(31783, 158915),
                       lambda download: karpathy(download, JSON, "filename"))
