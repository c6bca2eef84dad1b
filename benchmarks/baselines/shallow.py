"""The methods without networks: canonical correlation analysis, its rotation (CCA-ITQ), random hyperplanes (LSH)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.baselines.base import Baseline, Unsuited
from benchmarks.baselines.ridge import choose_ridge
from training.cca import CCA, CentredLinear


class CanonicalSign(Baseline):
    """CCA: a bit is the sign of a canonical direction, the directions of the highest correlation first.

    The ridge is the one of :func:`ridge.choose_ridge`, which needs no labels; the directions then come from all pairs.
    There are min(d_i, d_t) of them, and no more bits.
    """

    name, reference = "CCA", "Hotelling, Relations between two sets of variates, Biometrika 1936"
    bounded = False

    def _fit(self, image, text, on_epoch):
        dimensions = self._dimensions(min(image.shape[1], text.shape[1]))
        ridge = choose_ridge(image, text, dimensions, self.seed)
        maps = CCA(image, text).maps(ridge, dimensions)
        mixing = self._mixing(torch.cat([maps[0](image), maps[1](text)]))
        self.hash = [CentredLinear(side.mean, side.weight @ mixing) for side in maps]

    def _dimensions(self, limit: int) -> int:
        if self.bits > limit:
            raise Unsuited(f"{self.name}: {self.bits} bits asked for, but these features have {limit} canonical "
                             f"directions; use {limit} bits or fewer")
        return self.bits

    def _mixing(self, shared: Tensor) -> Tensor:
        """(k, bits): what the canonical directions are multiplied by, given both sides' training items (2n, k)."""
        return torch.eye(self.bits).to(shared)


class CanonicalITQ(CanonicalSign):
    """CCA + iterative quantization: canonical directions, each times its correlation, rotated towards binary codes.

    The weights are those of the authors' code. The paper has one side only; here one rotation serves both, learned from
    the projected images and texts together.
    """

    name = "CCA-ITQ"
    reference = "Gong, Lazebnik, Gordo & Perronnin, Iterative Quantization, TPAMI 2013"

    def _mixing(self, shared):
        return itq_rotation(shared)


class CanonicalLSH(CanonicalSign):
    """Locality-sensitive hashing: random hyperplanes in the space of all canonical directions, weighted as in CCA-ITQ.

    Any number of bits; the probability that two items differ in a bit is their angle / pi.
    """

    name, reference = "LSH", "Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002"

    def _dimensions(self, limit):
        return limit

    def _mixing(self, shared):
        return torch.randn(shared.shape[1], self.bits).to(shared)


def itq_rotation(points: Tensor, iterations: int = 50) -> Tensor:
    """The rotation R (k, k) that brings ``points`` V (n, k) nearest to binary codes: min ||sign(VR) - VR||^2.

    From a random rotation (torch's generator), B = sign(VR) and R = the orthogonal Procrustes solution of ||B - VR|| by
    turns, neither of which can raise the loss (Gong et al., TPAMI 2013: "Iterative Quantization", 50 iterations).
    """
    rotation = torch.linalg.qr(torch.randn(points.shape[1], points.shape[1]).to(points)).Q
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(points.T @ torch.where(points @ rotation >= 0, 1.0, -1.0).to(points))
        rotation = left @ right
    return rotation
