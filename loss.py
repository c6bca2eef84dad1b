"""The contrastive losses on pairs of codes (or of real-valued embeddings)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class ContrastiveLoss(nn.Module):
    r"""NT-Xent over the 2B embeddings of B pairs (Chen et al., SimCLR, ICML 2020, eq. 1), as UCMFH uses it.

    With z the L2-normalised embeddings of both sides, s_kl = z_k . z_l / temperature and p(k) the partner of k,

        loss = 1/(2B) * sum_k [ log sum_{l != k} exp(s_kl) - s_kp(k) ]

    The similarities are one matrix product, and any batch of two pairs or more is meaningful.

    NT-Xent counts every other pair as a negative, also those that show the same thing. Where ``neighbours`` (B, B) are
    given, whose row i says how much the other pairs are neighbours of pair i and adds up to 1 (training/targets.py),
    the positive s_kp(k) becomes

        (1 - w) * s_kp(k) + w * sum_j neighbours_ij * (s_kj + s_k,B+j) / 2,      k = i or B + i, w = weight
    """

    def __init__(self, temperature: float = 0.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, image: Tensor, text: Tensor, neighbours: Tensor | None = None,
                weight: float | Tensor = 0.5) -> Tensor:
        """The loss, (), of ``image`` (B, d) and ``text`` (B, d), row i of one being the partner of row i of the other.
        """
        alignment, uniformity = self.terms(image, text, neighbours, weight)
        return uniformity - alignment

    def terms(self, image: Tensor, text: Tensor, neighbours: Tensor | None,
              weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the positives, which pull together, and of the log-sums, which spread everything else."""
        pairs = len(image)
        wide = torch.promote_types(image.dtype, torch.float32)  # whatever the precision of the network
        with torch.autocast(image.device.type, enabled=False):
            embeddings = normalize(torch.cat([image, text]).to(wide), dim=1)
            similarity = embeddings @ embeddings.T / self.temperature
        alignment = torch.diagonal(similarity, pairs).mean()  # s is symmetric: both sides have the same partners
        if neighbours is not None:
            closeness = (neighbours.repeat(2, 2) * similarity).sum() / (4 * pairs)
            alignment = (1 - weight) * alignment + weight * closeness
        itself = torch.eye(2 * pairs, dtype=torch.bool, device=image.device)
        return alignment, torch.logsumexp(similarity.masked_fill(itself, -torch.inf), dim=1).mean()


class BalancedContrastiveLoss(ContrastiveLoss):
    r"""NT-Xent whose positives and negatives are weighted against each other.

        loss = 2 * [ (1 - w) * uniformity - w * alignment ],      w = positive_weight

    ``alignment`` and ``uniformity`` are the two terms of :class:`ContrastiveLoss` (named after Wang & Isola, ICML
    2020). At 0.5 it is NT-Xent; above, partners pull harder; below, the codes spread harder. The weight changes the
    *ratio* of the terms, hence the direction of the gradient. A factor on the whole loss would do nothing: Adam divides
    it out.
    """

    def __init__(self, temperature: float = 0.5, positive_weight: float = 0.5):
        super().__init__(temperature)
        self.positive_weight = positive_weight

    def forward(self, image: Tensor, text: Tensor, neighbours: Tensor | None = None,
                weight: float | Tensor = 0.5) -> Tensor:
        """As :meth:`ContrastiveLoss.forward`."""
        alignment, uniformity = self.terms(image, text, neighbours, weight)
        return 2 * ((1 - self.positive_weight) * uniformity - self.positive_weight * alignment)
