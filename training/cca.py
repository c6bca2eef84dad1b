"""Regularised canonical correlation analysis (CCA): the directions in which images and texts of a pair agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import solve_triangular


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
