"""Which captions of an image are taken, where it has several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHOICES = ("all", "mean", "first", "random")
HELP = ("of an image with several captions: all as texts of their own (default), the mean of their features, the "
        "first, or one at random")


def choose(captions: Sequence[Sequence[str]], choice: str, seed: int) -> Sequence[Sequence[str]]:
    """The captions of each image that are encoded: one with ``first`` or ``random``, which ``seed`` draws; else all."""
    if choice == "first":
        return [[first] for first, *_ in captions]
    if choice == "random":
        rng = np.random.default_rng(seed)
        return [[of_image[rng.integers(len(of_image))]] for of_image in captions]
    return captions
