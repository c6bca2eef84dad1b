"""How files of this project and of others name the arrays of a data set: every spelling that is known is here.

Names from other projects' code, as it reads its own files: UCMFH and LCFH (pickles), CIRH (``I_tr``, ``I_te``,
``I_db``), UCCH (``XAll``, ``VDatabase``, ``train_imgs_deep``), DCMHT (``index``, ``caption``, ``category``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

FIELD_SPELLINGS = {"image": "image", "images": "image", "I": "image", "XAll": "image", "imgs_deep": "image",
                   "text": "text", "texts": "text", "tags": "text", "T": "text", "YAll": "text",
                   "label": "label", "labels": "label", "L": "label", "LAll": "label", "imgs_labels": "label"}
SPLIT_SPELLINGS = {"train": "train", "tr": "train", "query": "query", "test": "query", "te": "query",
                   "retrieval": "retrieval", "db": "retrieval", "retrival": "retrieval"}
LAYOUTS = (  # how a file names the arrays of its splits: train/image, train_image, I_tr
    re.compile(r"(?P<split>[^/]+)/(?P<field>[^/]+)"),
    re.compile(r"(?P<split>[^/_]+)_(?P<field>[^/]+)"),
    re.compile(r"(?P<field>[ITL])_(?P<split>[^/_]+)"),
)
RENAMED = {"VDatabase": "I_tr", "YDatabase": "T_tr", "databaseL": "L_tr",  # UCCH's file of IAPR TC-12
           "VTest": "I_te", "YTest": "T_te", "testL": "L_te"}
IF_NUMBERS = {"index": "image", "caption": "text", "category": "label"}  # DCMHT's, where they hold features
RAW = {"index": "paths of pictures", "caption": "captions", "IAll": "pixels"}  # and where they hold none

LAST_ARE_QUERIES = {"mirflickr": 2_000, "nus-wide-tc10": 2_100, "mscoco": 5_000}  # in UCCH's code, by its file names
COMMANDS = {24: "mirflickr", 80: "coco", 10: "nus-wide", 21: "nus-wide --concepts 21"}  # by the number of labels
ALL_COMMANDS = ("mirflickr", "nus-wide", "coco")

_PLACE = "in one file or in the files of one folder"
EXPECTED_KEYS = ("I_tr, T_tr, L_tr, I_te, T_te, L_te, or image, text, label with train_idx, query_idx, retrieval_idx, "
                 f"or train/image, train/text, ... (with labels or without), {_PLACE}")
EXPECTED_SPLITS = f"train, query, retrieval, or train, test, {_PLACE}"


def last_are_queries(names: Iterable[str]) -> int | None:
    """How many rows at the end are the queries in UCCH's code, by the names of its files; None for other files."""
    return next((count for name in names for start, count in LAST_ARE_QUERIES.items()
                 if name.casefold().startswith(start)), None)
