"""CAGAN: hash functions that learn a similarity made from both modalities, beside a network over its graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from benchmarks.baselines.base import DeepBaseline, step
from benchmarks.baselines.deep import ScaledTanh, cosines


class CAGAN(DeepBaseline):
    """CLIP-based adaptive graph attention network: codes whose cosines are a similarity of three parts.

    With S_I and S_T the cosines of a batch's features, mapped to 2 cos - 1, and rows(S) the rows of S at length 1,

        S = mu [eta S_I + beta S_T + lambda rows(S_I) rows(S_T)'].

    A :class:`GraphCode` for each modality, used in training alone, makes codes G_I and G_T of the batch's graph, with
    which the hash functions' codes B_I and B_T learn. cos(A, B) being the cosines of all rows of both,

        loss = delta [mse(S, cos(B_I, B_I)) + mse(S, cos(B_T, B_T))]
               + mse(S, cos(B_I, B_T)) + mse(S, cos(B_T, B_I)) + mse(S, cos(G_I, G_T)) - mean cosine of partners
               + phi [mse(S, cos(G_I, B_I)) + mse(S, cos(G_I, B_T))].

    All codes are tanh(sqrt(epoch) h), epoch 1 the first. Networks and constants are those of the authors' code. Its
    texts are bags of tags, and S_T there 1 if two of them share one, else -1; for the dense features here it is made as
    S_I is. As there, features are not brought to length 1 each, at which the networks learn too slowly.
    """

    name = "CAGAN"
    reference = "Li et al., CLIP-Based Adaptive Graph Attention Network, Sensors 2023"
    unit = False
    epochs, batch_size = 20, 32
    image_share, text_share, joint_share, scale = 0.5, 0.2, 0.3, 1.4  # eta, beta, lambda, mu
    within, graph = 0.1, 0.15  # delta, phi

    def _build(self, image, text):
        dims, count = (image.shape[1], text.shape[1]), min(self.batch_size, len(image))
        self.hash = nn.ModuleList(
            ScaledTanh(nn.Linear(dim, 4096), nn.ReLU(), nn.Linear(4096, self.bits)) for dim in dims)
        self.graphs = nn.ModuleList(GraphCode(dim, self.bits, count) for dim in dims)
        self.networks = nn.ModuleList([self.hash, self.graphs]).to(self.device)
        self.optimizer = torch.optim.SGD(self.networks.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4,
                                         fused=True)

    def _epoch(self, epoch, image, text):
        for net in (*self.hash, *(graph.code for graph in self.graphs)):
            net.scale = epoch**0.5
        for rows in self._batches(len(image)):
            sides = image[rows], text[rows]
            affinity = self.affinity(*sides)
            codes = [net(x) for net, x in zip(self.hash, sides)]
            graph_codes = [net(x, affinity) for net, x in zip(self.graphs, sides)]
            yield step(self.loss(affinity, codes, graph_codes), self.optimizer)

    @classmethod
    def affinity(cls, image: Tensor, text: Tensor) -> Tensor:
        """S (m, m) of features (m, d_i) and (m, d_t); not symmetric."""
        image, text = 2 * cosines(image) - 1, 2 * cosines(text) - 1
        joint = normalize(image, dim=1) @ normalize(text, dim=1).T
        return cls.scale * (cls.image_share * image + cls.text_share * text + cls.joint_share * joint)

    @classmethod
    def loss(cls, affinity: Tensor, codes: Sequence[Tensor], graph_codes: Sequence[Tensor]) -> Tensor:
        """The loss of the hash functions' codes, two (m, bits), and of the graph's, for ``affinity`` (m, m)."""
        (image, text), (graph_image, graph_text) = codes, graph_codes
        across = cosines(image, text)
        return (cls.within * (mse_loss(cosines(image), affinity) + mse_loss(cosines(text), affinity))
                + mse_loss(across, affinity) + mse_loss(across.T, affinity) - across.diagonal().mean()
                + mse_loss(cosines(graph_image, graph_text), affinity)
                + cls.graph * (mse_loss(cosines(graph_image, image), affinity)
                               + mse_loss(cosines(graph_image, text), affinity)))


class GraphCode(nn.Module):
    """Two layers of a graph network and a hash layer, over the graph of a batch and what is learned on top of it."""

    learned = 0.45  # weight of what is added to the graph: one number for every two places in a batch

    def __init__(self, dim: int, bits: int, items: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, 2048), nn.Linear(2048, 1024)])
        for layer in self.layers:
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -layer.out_features**-0.5, layer.out_features**-0.5)
        self.code = ScaledTanh(nn.Linear(1024, bits))
        self.added = nn.Parameter(torch.empty(items, items))
        nn.init.kaiming_uniform_(self.added)

    def forward(self, features: Tensor, affinity: Tensor) -> Tensor:
        """Codes (m, bits) of a batch's features (m, d), for S (m, m)."""
        graph = affinity + self.learned * self.added
        for layer in self.layers:
            features = layer(graph @ features).relu()
        return self.code(features)
