"""Which captions of an image are taken, where it has several, and what is done about odd ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHOICES = ("all", "mean", "first", "random")
HELP = ("of an image with several captions: all as texts of their own (default), the mean of their features, the "
        "first, or one at random")

LONGEST = 10_000  # characters; encoders read the first thousand or two, and tokenise all that they are given


def readable(captions: Sequence[Sequence[str]], names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The captions of each image without those that say nothing, and what was wrong, a line each.

    A caption of more than 10,000 characters is cut, and NULs and halves of UTF-16 pairs, which HDF5 can't hold, become
    spaces and question marks. ``names`` has what to call each image.
    """
    kept, problems = [], []
    for of_image, name in zip(captions, names, strict=True):
        kept.append([])
        for number, caption in enumerate(of_image, 1):
            where = f"{name}: caption" + (f" {number}" if len(of_image) > 1 else "")
            text = caption[:LONGEST]
            if len(caption) > LONGEST:
                problems.append(f"{where}: {len(caption):,} characters, of which the first {LONGEST:,} are taken")
            clean = text.replace("\0", " ").encode("utf-8", "replace").decode()
            if clean != text:  # else the text itself is kept, not a copy: there may be a million of them
                problems.append(f"{where}: has NULs or damaged characters, which are replaced")
                text = clean
            if text.strip():
                kept[-1].append(text)
            elif len(of_image) > 1:
                problems.append(f"{where}: empty, left out")
    return kept, problems


def choose(captions: Sequence[Sequence[str]], choice: str, seed: int) -> Sequence[Sequence[str]]:
    """The captions of each image that are encoded: one with ``first`` or ``random``, which ``seed`` draws; else all.

    An image without any stays as it is.
    """
    if choice == "first":
        return [of_image[:1] for of_image in captions]
    if choice == "random":
        rng = np.random.default_rng(seed)
        return [[of_image[rng.integers(len(of_image))]] if of_image else [] for of_image in captions]
    return captions
