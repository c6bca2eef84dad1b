"""Which training pairs are alike, judged without labels: the structure that the contrastive losses aim at."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

DIMENSIONS = 128
RIDGE = 0.5  # of a modality's mean variance


def shared_space(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Both modalities in the space of what they have in common, by regularised canonical correlation analysis.

    The canonical directions (Hotelling, 1936; with a ridge, Vinod, 1976) are those in which images and texts of the
    same pair agree; each is weighted by its correlation, so that what only one modality shows counts little.

    Args:
        image, text: (n, d_i) and (n, d_t) features of the training pairs, centred.

    Returns:
        Two (n, min(128, d_i, d_t)), rows of length 1.
    """
    factors = []
    for side in (image, text):
        covariance = (side.T @ side).double() / len(side)
        ridge = RIDGE * covariance.diagonal().mean()
        factors.append(torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)).to(covariance)))
    cross = torch.linalg.solve_triangular(factors[0], (image.T @ text).double() / len(image), upper=False)
    cross = torch.linalg.solve_triangular(factors[1], cross.T, upper=False).T
    left, correlation, right = torch.linalg.svd(cross, full_matrices=False)
    return tuple(
        normalize(side @ torch.linalg.solve_triangular(factor.T, basis[:, :DIMENSIONS] * correlation[:DIMENSIONS],
                                                       upper=True).to(side.dtype), dim=1)
        for side, factor, basis in ((image, factors[0], left), (text, factors[1], right.T)))


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
