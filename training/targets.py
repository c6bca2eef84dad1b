"""What the training pairs tell of themselves, without labels: which are neighbours, and how surely partners can be told.

The neighbours that the contrastive losses aim at, and the two temperatures that follow from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from training.cca import CCA

DIMENSIONS = 128  # of the shared space
MAX_FRACTION = 1 / 4  # of a batch: more company than that says little of a pair
RIDGE = 0.5  # of a modality's mean variance
MIN_TEMPERATURE = 0.05
MAX_TEMPERATURE = 0.5  # UCMFH's, here that of pairs which can't be told apart at all
HOLDOUT_STEP = 8  # every eighth pair is held out, to see how surely partners can be told
MIN_HELD_OUT_PAIRS = 16  # that say how surely partners can be told
SAMPLED_BATCHES = 8  # that the temperature of the neighbours is measured on


def shared_space(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Both modalities of training pairs, (n, d_i) and (n, d_t), in the space of what they have in common (training/cca.py).

    Each canonical direction is weighted by its correlation, so that what only one modality shows counts little.

    Returns:
        Two (n, min(128, d_i, d_t)), rows of length 1.
    """
    maps = CCA(image, text).maps(RIDGE, DIMENSIONS)
    return tuple(normalize(project(side), dim=1).to(side.dtype) for project, side in zip(maps, (image, text)))


def neighbour_counts(batch: int) -> list[int]:
    """The numbers of neighbours that a pair is taken to have in a batch: 2, 4, 8, ... up to a quarter of the batch, or
    1 in a batch of fewer than eight.

    How many pairs show the same thing depends on classes that nobody has named. No number is chosen: all of these
    scales count alike, as in the multi-scale neighbour embedding of Lee, Peluffo-Ordonez & Verleysen (Neurocomputing
    2015).
    """
    return [2**power for power in range(1, int(MAX_FRACTION * batch).bit_length())] or [1]


def feature_neighbours(image: Tensor, text: Tensor, temperatures: Sequence[float]) -> Tensor:
    """How much the other pairs of a batch are neighbours of each pair by their features: softmax(similarity /
    temperature) in each row, 0 for the pair itself, and the mean of that over the temperatures.

    The similarity is the mean of the two modalities' cosines, as in DJSRH (Su et al., ICCV 2019): pairs are neighbours
    when both their images and their texts say so.

    Args:
        image, text: (B, d) each, rows of length 1, from :func:`shared_space`.

    Returns:
        (B, B), rows adding up to 1.
    """
    similarity = ((image @ image.T + text @ text.T) / 2).fill_diagonal_(-torch.inf)
    return sum(torch.softmax(similarity / temperature, dim=1) for temperature in temperatures) / len(temperatures)


def neighbour_temperature(image: Tensor, text: Tensor, batch: int, count: float) -> float:
    """The temperature of :func:`feature_neighbours` at which a pair has ``count`` neighbours in its batch, on average.

    The number of a pair's neighbours is the perplexity of its row, the exponential of its entropy, as t-SNE sets its
    bandwidth (van der Maaten & Hinton, JMLR 2008, eq. 4).

    Args:
        image, text: (n, d) each, rows of length 1, from :func:`shared_space`; n at least ``batch``.
    """
    rows = _shuffled(len(image))[:len(image) // batch * batch].view(-1, batch)[:SAMPLED_BATCHES]

    def neighbours(temperature: float) -> float:
        targets = torch.cat([feature_neighbours(image[some], text[some], [temperature]) for some in rows])
        return exp(-torch.xlogy(targets, targets).sum(dim=1).mean().item())

    return _where(neighbours, count, 1e-3, 10.0)


def contrast_temperatures(image: Tensor, text: Tensor, lengths: Sequence[int], batch: int) -> dict[int, float]:
    r"""The temperature of the contrastive loss for each code length, from how surely partners can be told.

        temperature = 0.5 * u,      u = min_t L(t) / ln(batch)

    L(t) is InfoNCE (van den Oord et al., 2018, eq. 4, both directions) at temperature t, on batches of pairs that were
    held out when the canonical directions were computed, with the cosines in as many of the directions as the code has
    bits. u is the part of the uncertainty about an item's partner that the features leave: 1 where they say nothing,
    which gives UCMFH's 0.5; near 0 where partners are certain. The better partners can be told, the finer the
    differences that a code can learn, and a low temperature is what makes it learn them.

    Args:
        image, text: (n, d_i) and (n, d_t) features of the training pairs.

    Returns:
        Temperatures from 0.05 to 0.5 by code length; 0.5 where fewer than 16 pairs can be held out.
    """
    rows = _shuffled(len(image))
    held_out, rest = rows[::HOLDOUT_STEP], torch.cat([rows[start::HOLDOUT_STEP] for start in range(1, HOLDOUT_STEP)])
    if not measurable(len(rows), batch):
        return dict.fromkeys(lengths, MAX_TEMPERATURE)
    batch = min(batch, len(held_out))
    maps = CCA(image[rest], text[rest]).maps(RIDGE, max(lengths))
    held_out = held_out[:len(held_out) // batch * batch]
    sides = [project(side[held_out]) for project, side in zip(maps, (image, text))]
    partner = torch.arange(batch, device=image.device).repeat(len(held_out) // batch)

    def temperature(bits: int) -> float:
        image, text = (normalize(side[:, :bits], dim=1).unflatten(0, (-1, batch)) for side in sides)
        cosine = image @ text.mT
        both = torch.cat([cosine, cosine.mT]).flatten(0, 1)

        def loss(log_t: float) -> float:
            return cross_entropy(both / exp(log_t), partner.repeat(2)).item()

        least = minimize_scalar(loss, bounds=(log(0.01), log(10.0)), method="bounded").fun  # convex in 1 / t
        return min(max(MAX_TEMPERATURE * float(least) / log(batch), MIN_TEMPERATURE), MAX_TEMPERATURE)

    return {bits: temperature(bits) for bits in lengths}


def measurable(pairs: int, batch: int) -> bool:
    """Whether so many training pairs, in such batches, are enough for :func:`contrast_temperatures` to measure."""
    return min(batch, -(-pairs // HOLDOUT_STEP)) >= MIN_HELD_OUT_PAIRS


def _shuffled(rows: int) -> Tensor:
    """The same order every time: what the data say must not depend on a run's seed."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))


def _where(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """The argument at which a rising function has a value, by bisection of its logarithm; or the nearest bound."""
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low * high) ** 0.5
