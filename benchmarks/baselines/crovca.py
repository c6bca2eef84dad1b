"""CroVCA: the bits of one view are the targets of the other, and a coding rate keeps the codes apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from benchmarks.baselines.base import DeepBaseline, step


class CroVCA(DeepBaseline):
    """Cross-view code alignment: cross-entropy between the bits of two views, a coding rate against collapse.

    With Z the outputs of a view for m items, p bits each, Z- their rows at length 1, and V and W the two views,

        L_align = mean of -log sigmoid(+-z) over both views, + where the other view's output is positive, else -,
        R(Z) = (m + p) / (2 m p) log det(1 + p / (m eps) Z-' Z-),
        loss = L_align - lambda [R(Z_V) + R(Z_W)] / 2.

    The network, :class:`HashCoder`, is the small one of the authors' code, the constants and the optimizer are its
    defaults. There, both views are crops of an image and share a network; here they are the image and the text of a
    pair, each with a network of its own. The published 5 epochs over the 10,000 training images of MS-COCO are 195
    steps; fewer pairs are trained on for so many epochs that there are as many steps. Codes of items are
    2 sigmoid(z) - 1, the expected bits.
    """

    name = "CroVCA"
    reference = "Moummad, Zaher, Goëau & Joly, Image Hashing via Cross-View Code Alignment, arXiv 2510.27584, 2025"
    epochs, least_steps, batch_size = 5, 195, 256
    eps, weight = 0.05, 0.1

    def _build(self, image, text):
        self.networks = self.hash = nn.ModuleList(
            HashCoder(side.shape[1], self.bits) for side in (image, text)).to(self.device)
        self.optimizer = torch.optim.AdamW(self.hash.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
        batches = len(image) // min(self.batch_size, len(image))
        self.epochs = max(self.epochs, math.ceil(self.least_steps / batches))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.epochs * batches, eta_min=1e-6)

    def _epoch(self, epoch, image, text):
        for rows in self._batches(len(image)):
            yield step(self.loss(self.hash[0](image[rows]), self.hash[1](text[rows])), self.optimizer)
            self.schedule.step()

    @classmethod
    def loss(cls, image: Tensor, text: Tensor) -> Tensor:
        """The loss of outputs (m, bits) of images and texts."""
        align = sum(binary_cross_entropy_with_logits(a, (b > 0).to(a)) for a, b in ((image, text), (text, image)))
        return (align - cls.weight * (cls.coding_rate(image) + cls.coding_rate(text))) / 2

    @classmethod
    def coding_rate(cls, outputs: Tensor) -> Tensor:
        """R of outputs (m, p): the more directions the rows spread in, the higher."""
        items, bits = outputs.shape
        unit = normalize(outputs, dim=1)
        spread = torch.eye(bits).to(unit) + bits / (items * cls.eps) * unit.T @ unit
        return (items + bits) / (2 * items * bits) * torch.linalg.slogdet(spread).logabsdet

    def _codes(self, side, image, text):
        return torch.tanh(super()._codes(side, image, text) / 2)


class HashCoder(nn.Sequential):
    """A hidden layer as wide as the features, and batch normalisation of the outputs, which balances every bit."""

    def __init__(self, dim: int, bits: int):
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, bits), nn.BatchNorm1d(bits))
        for layer in (self[0], self[2]):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
