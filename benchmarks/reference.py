"""A plain reference to measure speed against: what UCMFH computes, in the plainest way.

It is written from UCMFH's equations alone and shares no code with benchmarks/baselines/ucmfh.py, which is built from
this project's own fast parts: a reference made of them would measure them against themselves. tests/test_speed.py
compares the loss and the mAP of both.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from load_data import Split
from training.device import now


class Reference(nn.Module):
    """UCMFH's networks for one code length: two Transformer layers over the pair as one token, two heads."""

    def __init__(self, width: int, bits: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(2 * width, nhead=4, dim_feedforward=2048, dropout=0.1, batch_first=False)
        self.fusion = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(width, 4096), nn.ReLU(), nn.Dropout(0.3),
                                                 nn.Linear(4096, bits), nn.Tanh()) for _ in ("image", "text"))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fused image and text (n, width) and their codes (n, bits)."""
        token = torch.cat([image, text], dim=1)[None]  # a sequence of one for each of the n pairs
        fused = functional.normalize(self.fusion(token)[0], dim=1).chunk(2, dim=1)
        return *fused, *(head(side) for head, side in zip(self.heads, fused))


def reference_loss(image: Tensor, text: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent with every cosine from a broadcast (2B, 2B, d), sum and all."""
    z = torch.cat([image, text])
    similarity = torch.exp(functional.cosine_similarity(z[:, None], z[None], dim=2) / temperature)
    partner = torch.cat([similarity.diagonal(len(image)), similarity.diagonal(-len(image))])
    others = similarity.sum(dim=1) - similarity.diagonal()
    return -torch.log(partner / others).mean()


class ReferenceTraining:
    """Training of the reference on batches that worker processes of a DataLoader bring."""

    def __init__(self, split: Split, bits: int, batch: int, device: torch.device, workers: int):
        self.model = Reference(split.image.shape[1], bits).to(device).train()
        self.optimizer = torch.optim.Adam([{"params": self.model.fusion.parameters(), "lr": 1e-4},
                                           {"params": self.model.heads.parameters(), "lr": 1e-3}], betas=(0.5, 0.999))
        self.loader = DataLoader(TensorDataset(split.image, split.text), batch, shuffle=True, drop_last=True,
                                 num_workers=workers)
        self.device = device

    def seconds(self, steps: int) -> float:
        """Seconds an epoch, from its first ``steps`` steps, without the start of the workers."""
        batches = iter(self.loader)
        first = [next(batches)]
        started = now(self.device)
        for step in range(min(steps, len(self.loader))):
            image, text = (side.to(self.device) for side in (first.pop() if first else next(batches)))
            fused_image, fused_text, image_code, text_code = self.model(image, text)
            loss = reference_loss(fused_image, fused_text) + 0.5 * reference_loss(image_code, text_code)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
        return (now(self.device) - started) / (step + 1) * len(self.loader)


def reference_map(query: np.ndarray, retrieval: np.ndarray, query_labels: np.ndarray,
                  retrieval_labels: np.ndarray) -> float:
    """mAP@all of +-1 codes, a sort for each query, ties in whatever order the sort leaves them."""
    total = 0.0
    for code, label in zip(query, query_labels):
        relevant = retrieval_labels @ label > 0
        distance = 0.5 * (len(code) - retrieval @ code)
        places = np.flatnonzero(relevant[np.argsort(distance)]) + 1
        if len(places):
            total += np.mean(np.arange(1, len(places) + 1) / places)
    return total / len(query)
