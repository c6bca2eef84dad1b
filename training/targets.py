"""What the training pairs tell of themselves, without labels: which are alike, and how surely partners can be told.

The structure that the contrastive losses aim at, and the two temperatures that follow from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from training.cca import CCA, HELD_OUT

DIMENSIONS = 128
RIDGE = 0.5  # of a modality's mean variance
UNSURE = 0.5  # UCMFH's temperature, here that of pairs which can't be told apart at all
LOWEST = 0.05
FEWEST = 16  # held-out pairs that say how surely partners can be told
SAMPLE = 8  # batches that the structure temperature is measured on


def shared_space(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Both modalities of training pairs, (n, d_i) and (n, d_t), in the space of what they have in common (training/cca.py).

    Each canonical direction is weighted by its correlation, so that what only one modality shows counts little.

    Returns:
        Two (n, min(128, d_i, d_t)), rows of length 1.
    """
    maps = CCA(image, text).maps(RIDGE, DIMENSIONS)
    return tuple(normalize(project(side), dim=1).to(side.dtype) for project, side in zip(maps, (image, text)))


def structure_targets(image: Tensor, text: Tensor, temperature: float) -> Tensor:
    """How much the other pairs of a batch are like each pair: rows of softmax(similarity / temperature), 0 for itself.

    The similarity is the mean of the two modalities' cosines, as in DJSRH (Su et al., ICCV 2019): pairs are alike when
    both their images and their texts say so.

    Args:
        image, text: (B, d) each, rows of length 1, from :func:`shared_space`.

    Returns:
        (B, B), rows adding up to 1.
    """
    similarity = (image @ image.T + text @ text.T) / 2
    return torch.softmax(similarity.fill_diagonal_(-torch.inf) / temperature, dim=1)


def nearest_codes(image: Tensor, text: Tensor, alike: float) -> Tensor:
    """Which pairs of a batch have the most similar codes: rows of 1 / k for the k nearest by Hamming distance.

    A pair's code is the sign of the sum of its two sides, as in late fusion; k is the share ``alike`` of the batch.
    Nearest neighbours in the space being learned serve as positives as in NNCLR (Dwibedi et al., ICCV 2021), here for
    codes and within the batch.

    Args:
        image, text: (B, bits) each, x of tanh(scale * x).

    Returns:
        (B, B), rows adding up to 1, 0 for the pair itself.
    """
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        codes = torch.where(image + text >= 0, 1.0, -1.0)
        similarity = (codes @ codes.T).fill_diagonal_(-torch.inf)
        nearest = similarity.topk(min(max(1, round(alike * len(codes))), len(codes) - 1), dim=1).indices
        return torch.zeros_like(similarity).scatter_(1, nearest, 1 / nearest.shape[1])


def structure_temperature(image: Tensor, text: Tensor, batch: int, alike: float) -> float:
    """The temperature at which a pair is like the share ``alike`` of its batch, on average.

    The number of pairs that one is like is the perplexity of its row of :func:`structure_targets`, the exponential of
    its entropy, as t-SNE sets its bandwidth (van der Maaten & Hinton, JMLR 2008, eq. 4).

    Args:
        image, text: (n, d) each, rows of length 1, from :func:`shared_space`; n at least ``batch``.
    """
    rows = _shuffled(len(image))[:len(image) // batch * batch].view(-1, batch)[:SAMPLE]

    def number_alike(temperature: float) -> float:
        targets = torch.cat([structure_targets(image[some], text[some], temperature) for some in rows])
        return exp(-torch.xlogy(targets, targets).sum(dim=1).mean().item())

    return _where(number_alike, alike * batch, 1e-3, 10.0)


def contrast_temperatures(image: Tensor, text: Tensor, lengths: Sequence[int], batch: int) -> dict[int, float]:
    r"""The temperature of the contrastive loss for each code length, from how surely partners can be told.

        temperature = 0.5 * u,      u = min_t L(t) / ln(batch)

    L(t) is InfoNCE (van den Oord et al., 2018, eq. 4, both directions) at temperature t, on batches of pairs that were
    held out when the canonical directions were computed, with the cosines in as many of the directions as the code has
    bits. u is the share of the uncertainty about an item's partner that the features leave: 1 where they say nothing,
    which gives UCMFH's 0.5; near 0 where partners are certain. The better partners can be told, the finer the
    differences that a code can learn, and a low temperature is what makes it learn them.

    Args:
        image, text: (n, d_i) and (n, d_t) features of the training pairs.

    Returns:
        Temperatures from 0.05 to 0.5 by code length; 0.5 where fewer than 16 pairs can be held out.
    """
    rows = _shuffled(len(image))
    held_out, rest = rows[::HELD_OUT], torch.cat([rows[start::HELD_OUT] for start in range(1, HELD_OUT)])
    if not measurable(len(rows), batch):
        return dict.fromkeys(lengths, UNSURE)
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
        return min(max(UNSURE * float(least) / log(batch), LOWEST), UNSURE)

    return {bits: temperature(bits) for bits in lengths}


def measurable(pairs: int, batch: int) -> bool:
    """Whether so many training pairs, in such batches, are enough for :func:`contrast_temperatures` to measure."""
    return min(batch, -(-pairs // HELD_OUT)) >= FEWEST


def _shuffled(rows: int) -> Tensor:
    """The same order every time: what the data say must not depend on a run's seed."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(0))


def _where(rising: Callable[[float], float], value: float, low: float, high: float) -> float:
    """The argument at which a rising function has a value, by bisection of its logarithm; or the nearest bound."""
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low * high) ** 0.5
