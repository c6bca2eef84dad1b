"""UCMFH, which this project grew from: the published method, and the settings under which ICMR.py trains its parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.baselines.base import DeepBaseline, step
from loss import ContrastiveLoss
from model import FuseTransEncoder, ImageMlp, TextMlp

TEMPERATURE, HIDDEN = 0.5, 4096  # of the loss; of the heads

# UCMFH's heads and loss as settings of ICMR.py: on the features alone, and with its fusion.
HEADS = dict(hidden=HIDDEN, batch_norm=False, centre=False, noise=0.0, temperature=TEMPERATURE, structure_start=0.0,
             structure_end=0.0)
WHOLE = dict(HEADS, fusion="transformer")


class UCMFH(DeepBaseline):
    """Unsupervised cross-modal fusion hashing, as published: one Transformer over a pair, then a hash head a modality.

    The loss is NT-Xent (:class:`loss.ContrastiveLoss`) at temperature 0.5, of the fused features plus half of that of
    the codes, tanh(x) without a scale. The heads' learning rate is multiplied by 1.2 at steps 30 and 80, which in the
    authors' code are steps, not epochs. A code depends on its own item alone: the authors' evaluation, in which the
    items of a batch attend to each other, is not repeated. Nor is dropout of attention weights (model.FusionLayer).
    """

    name = "UCMFH"
    reference = "Xia et al., When CLIP meets cross-modal hashing retrieval, Information Fusion 2023"
    paired = True
    epochs, batch_size = 100, 128

    def _build(self, image, text):
        self.fusion = FuseTransEncoder(image.shape[1], text.shape[1])
        head = dict(hidden=HIDDEN, dropout=0.3, use_progressive=False, batch_norm=False)
        self.hash = nn.ModuleList(Head(self.fusion.width, self.bits, **head) for Head in (ImageMlp, TextMlp))
        self.networks = nn.ModuleList([self.fusion, self.hash]).to(self.device)
        adam = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)
        self.optimizers = adam(self.fusion.parameters(), lr=1e-4), adam(self.hash.parameters(), lr=1e-3)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizers[1], milestones=[30, 80], gamma=1.2)

    def _epoch(self, epoch, image, text):
        for rows in self._batches(len(image)):
            fused = self.fusion(image[rows], text[rows])
            codes = [head(x) for head, x in zip(self.hash, fused)]
            yield step(self.loss(fused, codes), *self.optimizers)
            self.schedule.step()

    @staticmethod
    def loss(fused: Sequence[Tensor], codes: Sequence[Tensor]) -> Tensor:
        """The loss of fused features, two (B, width), and of their codes, two (B, bits)."""
        contrastive = ContrastiveLoss(temperature=TEMPERATURE)
        return contrastive(*fused) + 0.5 * contrastive(*codes)

    def _codes(self, side, image, text):
        return self.hash[side](self.fusion(image, text)[side])
