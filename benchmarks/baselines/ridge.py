"""The ridge of the canonical correlation analysis, chosen without labels: by how left-out partners find each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.cca import CCA

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # each times a modality's mean variance
FOLDS = 8


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

    No label is used: each eighth of the pairs, drawn by ``seed``, is left out of the analysis once and scored by
    :func:`partner_rank`, and the geometric mean over the eighths decides.
    """
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed)).to(image.device)
    eighths = [order[start::FOLDS] for start in range(FOLDS)]
    ranks = dict.fromkeys(RIDGES, 1.0)
    for held_out in eighths:
        kept = torch.cat([eighth for eighth in eighths if eighth is not held_out])
        cca = CCA(image[kept], text[kept])
        for ridge in RIDGES:
            image_map, text_map = cca.maps(ridge, dimensions)
            ranks[ridge] *= partner_rank(image_map(image[held_out]), text_map(text[held_out]))
    return min(ranks, key=ranks.get)
