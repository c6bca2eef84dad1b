"""Regularised canonical correlation analysis (CCA): the directions in which images and texts of a pair agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import solve_triangular
from torch.nn.functional import normalize

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # each times a modality's mean variance
HOLDOUT_STEP = 8  # every eighth pair is held out, here to judge the ridge by each eighth in turn


@dataclass
class CentredLinear:
    """x -> (x - mean) @ weight, (n, d) -> (n, k), in float64."""

    mean: Tensor  # (d,)
    weight: Tensor  # (d, k)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.double() - self.mean) @ self.weight


class CCA:
    """The canonical directions of training pairs (Hotelling, 1936), with a ridge (Vinod, 1976) given when asked for.

    With the covariances C of the centred features, I the identity and r the ridge, the directions a and b maximise

        a' C_it b    where    a' (C_ii + r var_i I) a = b' (C_tt + r var_t I) b = 1,

    var being a modality's mean variance. After whitening both sides (Cholesky) they are singular vectors, and the
    singular values are their correlations.

    Args:
        image, text: (n, d_i) and (n, d_t) features, row i of both from the same pair.
    """

    def __init__(self, image: Tensor, text: Tensor):
        image, text = image.double(), text.double()
        self.means = image.mean(dim=0), text.mean(dim=0)
        image, text = image - self.means[0], text - self.means[1]
        self.covariances = image.T @ image / len(image), text.T @ text / len(text)
        self.cross = image.T @ text / len(image)

    def directions(self, ridge: float, dimensions: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first canonical directions of images (d_i, k) and texts (d_t, k), and their correlations (k,), falling.

        k is ``dimensions``, or min(d_i, d_t) if that is less.
        """
        def root(covariance: Tensor) -> Tensor:
            added = (ridge * covariance.diagonal().mean()).clamp(min=1e-300)  # one row repeated has no variance
            return torch.linalg.cholesky(covariance + added * torch.eye(len(covariance)).to(covariance))

        image, text = map(root, self.covariances)
        whitened = solve_triangular(text, solve_triangular(image, self.cross, upper=False).T, upper=False).T
        left, correlations, right = torch.linalg.svd(whitened, full_matrices=False)
        return (solve_triangular(image.T, left[:, :dimensions], upper=True),
                solve_triangular(text.T, right.T[:, :dimensions], upper=True), correlations[:dimensions])

    def maps(self, ridge: float, dimensions: int) -> tuple[CentredLinear, CentredLinear]:
        """From image and text features to the shared space of k dimensions, each direction times its correlation."""
        *directions, correlations = self.directions(ridge, dimensions)
        return tuple(CentredLinear(mean, direction * correlations) for mean, direction in zip(self.means, directions))


def partner_rank(image: Tensor, text: Tensor) -> float:
    """How well partners find each other: the geometric mean, over items and both ways, of the partner's rank by cosine.

    1 is perfect. Every item counts, not only those near the top as in recall at a cut or the mean reciprocal rank.

    Args:
        image, text: (n, k) each, row i of both from the same pair.
    """
    cosine = normalize(image, dim=1) @ normalize(text, dim=1).T
    own = cosine.diagonal()
    ranks = torch.cat([(cosine >= own[:, None]).sum(dim=1), (cosine >= own).sum(dim=0)])
    return ranks.double().log().mean().exp().item()


def choose_ridge(image: Tensor, text: Tensor, dimensions: int, seed: int) -> float:
    """The ridge of ``RIDGES`` at which left-out partners find each other best in ``dimensions`` canonical directions.

    No label is used: each eighth of the pairs, split at random by ``seed``, is left out of the analysis once and scored
    by :func:`partner_rank`, and the geometric mean over the eighths decides.
    """
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed)).to(image.device)
    eighths = [order[start::HOLDOUT_STEP] for start in range(HOLDOUT_STEP)]
    ranks = dict.fromkeys(RIDGES, 1.0)
    for held_out in eighths:
        kept = torch.cat([eighth for eighth in eighths if eighth is not held_out])
        cca = CCA(image[kept], text[kept])
        for ridge in RIDGES:
            image_map, text_map = cca.maps(ridge, dimensions)
            ranks[ridge] *= partner_rank(image_map(image[held_out]), text_map(text[held_out]))
    return min(ranks, key=ranks.get)
