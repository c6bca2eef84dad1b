"""The splits of Karpathy and Fei-Fei (CVPR 2015) for captions: dataset_coco.json, dataset_flickr30k.json and so on.

Each has ``images``, a list of ``filename``, ``split`` (train, restval, val or test) and ``sentences``; COCO's also has
``cocoid``. They come together as ``caption_datasets.zip``.
"""

from __future__ import annotations


from common import json_text
from common.errors import InputError
from extraction.collection import Lists
from extraction.download import Download, File

SOURCE = "caption_datasets.zip"


def karpathy(download: Download, name: str, key: str) -> Lists:
    """The test pictures as queries; all others are the database, and those of train and restval are trained on.

    Args:
        name: of the JSON file.
        key: filename or cocoid: what names a picture.

    Raises InputError.
    """
    images = karpathy_images(download.one(name, SOURCE), key)
    parts = {"query": ("test",), "retrieval": ("train", "restval", "val"), "train": ("train", "restval")}
    lists = {part: [str(image[key]) for image in images if image["split"] in splits] for part, splits in parts.items()}
    return Lists(lists, f"{name}: test as query, train, restval and val as retrieval, train and restval as train",
                 by_id=key == "cocoid")


def karpathy_images(file: File, *keys: str) -> list[dict]:
    """The entries of the pictures, each with ``split`` and the other ``keys``. Raises InputError."""
    try:
        images = json_text.parse(file.read_bytes())["images"]
        if all(key in image for image in images for key in ("split", *keys)):
            return images
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{file}: not a whole JSON file of Karpathy's splits; expected 'images' with "
                     f"{', '.join(map(repr, ('split', *keys)))}; get it with {SOURCE}")
