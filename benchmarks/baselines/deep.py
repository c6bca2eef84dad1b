"""The methods that train networks with a loss of their own: DJSRH, UCCH and CIRH."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from benchmarks.baselines.base import DeepBaseline, step


class DJSRH(DeepBaseline):
    """Deep joint-semantics reconstructing hashing: codes whose cosines are a similarity made from both modalities.

    With S_I and S_T the cosines of a batch's features, mapped to 2 cos - 1 as in the authors' code, and m its size,

        S~ = beta S_I + (1 - beta) S_T,    S = (1 - eta) S~ + eta S~ S~' / m,
        loss = mse(mu S, cos(B_I, B_T)) + lambda [mse(mu S, cos(B_I, B_I)) + mse(mu S, cos(B_T, B_T))].

    B = tanh(sqrt(epoch) h), epoch 1 the first. Images pass the one layer that the paper puts on AlexNet's features,
    texts also a hidden layer of 4096. As in the authors' code, features are not brought to length 1 each.
    """

    unit = False
    name = "DJSRH"
    reference = "Su, Zhong & Zhang, Deep Joint-Semantics Reconstructing Hashing, ICCV 2019"
    epochs, batch_size = 80, 32
    beta, eta, mu, weight = 0.9, 0.4, 1.5, 0.1

    def _build(self, image, text):
        self.networks = self.hash = nn.ModuleList([
            ScaledTanh(nn.Linear(image.shape[1], self.bits)),
            ScaledTanh(nn.Linear(text.shape[1], 4096), nn.ReLU(), nn.Linear(4096, self.bits))]).to(self.device)
        groups = [{"params": net.parameters(), "lr": lr} for net, lr in zip(self.hash, (1e-3, 1e-2))]
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=5e-4, fused=True)

    def _epoch(self, epoch, image, text):
        for net in self.hash:
            net.scale = epoch**0.5
        for rows in self._batches(len(image)):
            affinity = self.affinity(image[rows], text[rows])
            yield step(self.loss(affinity, self.hash[0](image[rows]), self.hash[1](text[rows])), self.optimizer)

    @classmethod
    def affinity(cls, image: Tensor, text: Tensor) -> Tensor:
        """mu S (m, m) of features (m, d_i) and (m, d_t)."""
        joint = cls.beta * (2 * cosines(image) - 1) + (1 - cls.beta) * (2 * cosines(text) - 1)
        return cls.mu * ((1 - cls.eta) * joint + cls.eta * joint @ joint.T / len(joint))

    @classmethod
    def loss(cls, affinity: Tensor, image: Tensor, text: Tensor) -> Tensor:
        """The loss of codes (m, bits) for ``affinity`` (m, m)."""
        return (mse_loss(cosines(image, text), affinity)
                + cls.weight * (mse_loss(cosines(image), affinity) + mse_loss(cosines(text), affinity)))


class UCCH(DeepBaseline):
    """Unsupervised contrastive cross-modal hashing: contrast with a memory of binary codes, and a ranking of all pairs.

    Outputs z = tanh(f) / |tanh(f)| of both modalities are contrasted with the codes sign(m) of the training pairs,
    K = 4096 of which are drawn at random (with replacement, its own perhaps among them) for each item i:

        L_c = sum over both modalities of -log softmax_j(cos(z_i, sign(m_j)) / T) at j = i

    The memory of a pair moves with its outputs, p_i their mean at length 1: m_i <- norm(mu m_i + (1 - mu) p_i),
    mu = 0.4. In the first epoch, the warm-up, mu = 0 and the codes are the signs of the batch's own p. The ranking loss
    makes negatives that are far from the positive, by a margin of 0.2, count less, by a shift of 0.1: with s_ij the
    cosine of image i and text j, and s'_ij = s_ij if s_ij >= s_ii - 0.2, else s_ij - 0.1,

        L_r = mean_i [log sum_j exp(s'_ij) - s_ii] + the same over columns,       loss = 0.7 L_c + 0.3 L_r.

    As in the authors' code, features are not brought to length 1 each: the learning rate suits longer ones, and nothing
    mixes the two modalities' features. The authors report the epoch that is best on labelled items; here it is the
    last.
    """

    name = "UCCH"
    reference = "Hu et al., Unsupervised Contrastive Cross-modal Hashing, TPAMI 2023"
    unit = False
    epochs, batch_size, width = 20, 256, 8192
    negatives, temperature, momentum = 4096, 0.9, 0.4
    margin, shift, weight = 0.2, 0.1, 0.7

    def _build(self, image, text):
        width = self.width
        self.networks = self.hash = nn.ModuleList([
            nn.Sequential(nn.Linear(image.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                          nn.Linear(width, self.bits), nn.Tanh()),
            nn.Sequential(nn.Linear(text.shape[1], width), nn.ReLU(), nn.Linear(width, self.bits), nn.Tanh())
        ]).to(self.device)
        self.optimizer = torch.optim.Adam(self.hash.parameters(), lr=1e-4, weight_decay=1e-6, fused=True)
        # More -1 than 1, as in the authors' code; it stays only where a pair is left out of the first epoch.
        self.memory = normalize((torch.randn(len(image), self.bits) - 0.5).sign(), dim=1).to(self.device)

    def _epoch(self, epoch, image, text):
        momentum = self.momentum if epoch > 1 else 0.0
        for rows in self._batches(len(image)):
            sides = [normalize(net(x[rows]), dim=1) for net, x in zip(self.hash, (image, text))]
            pair = normalize(sum(sides).detach(), dim=1)
            if epoch > 1:
                codes = self.memory.sign()
                drawn = torch.randint(len(codes), (len(rows), self.negatives)).to(self.device)
                picks = torch.cat([rows[:, None], drawn], dim=1)
            else:
                codes, place = pair.sign(), torch.arange(len(rows), device=self.device)
                picks = (place[:, None] + place) % len(rows)  # its own first, then all others
            contrast = sum(self.contrast(side, codes, picks) for side in sides)
            loss = self.weight * contrast + (1 - self.weight) * self.ranking(*sides)
            yield step(loss, self.optimizer, clip=1.0)
            self.memory[rows] = normalize(momentum * self.memory[rows] + (1 - momentum) * pair, dim=1)

    @classmethod
    def contrast(cls, outputs: Tensor, codes: Tensor, picks: Tensor) -> Tensor:
        """L_c of one modality.

        Args:
            outputs: (B, bits), length 1.
            codes: (n, bits), +-1.
            picks: (B, 1 + K), the row in ``codes`` of each output's own code, then those that it is contrasted with.
        """
        logits = outputs @ codes.T / (cls.temperature * codes.shape[1]**0.5)
        return cross_entropy(logits.gather(1, picks), torch.zeros_like(picks[:, 0]))

    @classmethod
    def ranking(cls, image: Tensor, text: Tensor) -> Tensor:
        """L_r of outputs (B, bits) of length 1."""
        scores = image @ text.T
        own, place = scores.diagonal(), torch.arange(len(scores), device=scores.device)
        return sum(cross_entropy(torch.where(s >= own[:, None] - cls.margin, s, s - cls.shift), place)
                   for s in (scores, scores.T))


class CIRH(DeepBaseline):
    """Correlation-identity reconstruction hashing: codes from a network over the graph of pairs, then hash functions.

    S1 = 0.6 S_I + 0.4 S_T, the features' cosines, in which each row keeps only its two fifths that are largest (the
    published 3000 of 5000 pairs are zeroed, here the same share), S2 = 2 / (1 + exp(-S1)) - 1 + identity, and
    S = 0.6 S1 + 0.4 (S2 + S2') / 2. In every epoch,

    - :class:`GraphNet` learns codes H of pairs, mixed with two of their neighbours, with the loss
      10 [mse of the reconstructed features] + mse(S, cos(H_I)) + mse(S, cos(H_T)) + mse(S, cos(H)) + mse(H, sign(H));
    - the hash functions learn B = sign(H) with the loss
      mse(F_I, B) + mse(F_T, B) + mse(F_I, F_T) + 0.01 [mse(S, cos(F_I, F_T)) + mse(S, cos(F_I)) + mse(S, cos(F_T))].

    All features are at unit length; in the authors' code the network of the graph, and what it reconstructs, are not.
    The neighbours are the second and third nearest in the batch, as in the authors' code. There, S of the second loss
    belongs to other rows than the batch, for want of the shuffle; here to its own.
    """

    name = "CIRH"
    reference = "Zhu et al., Work Together: Correlation-Identity Reconstruction Hashing, TKDE 2023"
    epochs, batch_size = 60, 512
    image_share, first_share, zeroed = 0.6, 0.6, 0.6
    reconstruction, structure = 10.0, 0.01

    def _build(self, image, text):
        image_dim, text_dim = image.shape[1], text.shape[1]
        self.graph = GraphNet(image_dim, text_dim, self.bits)
        self.hash = nn.ModuleList([
            nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, self.bits), nn.Tanh())
            for dim, width in ((image_dim, 4096), (text_dim, text_dim))])
        for net in self.hash:
            nn.init.normal_(net[3].weight)
        self.networks = nn.ModuleList([self.graph, self.hash]).to(self.device)
        self.graph_optimizer = torch.optim.Adam(self.graph.parameters(), lr=1e-3, fused=True)
        self.hash_optimizer = torch.optim.Adam(self.hash.parameters(), lr=1e-4, fused=True)
        self.cuts = self.cut(image, text)

    def _epoch(self, epoch, image, text):
        learned = []
        for rows in self._batches(len(image), least=4):
            affinity = self.affinity(image[rows], text[rows], self.cuts[rows])
            mixed = [self.mix(side[rows], affinity) for side in (image, text)]
            *sides, joint, decoded = self.graph(*mixed, affinity)
            target = joint.detach().sign()
            learned.append((rows, target, affinity))
            loss = (self.reconstruction * sum(map(mse_loss, decoded, mixed)) + mse_loss(joint, target)
                    + sum(mse_loss(cosines(codes), affinity) for codes in (*sides, joint)))
            yield step(loss, self.graph_optimizer)
        for rows, target, affinity in learned:
            loss = self.hash_loss(self.hash[0](image[rows]), self.hash[1](text[rows]), target, affinity)
            yield step(loss, self.hash_optimizer)

    @classmethod
    def cut(cls, image: Tensor, text: Tensor, rows: int = 1024) -> Tensor:
        """Between which similarities each pair is cut (n,): the largest zeroed and the smallest kept, of unit features
        (n, d_i) and (n, d_t) of the training pairs.
        """
        zeroed = round(cls.zeroed * len(image))
        return torch.cat([
            (cls.image_share * i @ image.T + (1 - cls.image_share) * t @ text.T).sort(dim=1)
            .values[:, zeroed - 1:zeroed + 1].mean(dim=1) for i, t in zip(image.split(rows), text.split(rows))])

    @classmethod
    def affinity(cls, image: Tensor, text: Tensor, cut: Tensor) -> Tensor:
        """S (B, B) of a batch of unit features (B, d_i) and (B, d_t), with ``cut`` (B,) of :meth:`cut`."""
        first = cls.image_share * image @ image.T + (1 - cls.image_share) * text @ text.T
        first = torch.where(first >= cut[:, None], first, 0.0)
        second = 2 * torch.sigmoid(first) - 1 + torch.eye(len(first)).to(first)
        return cls.first_share * first + (1 - cls.first_share) * (second + second.T) / 2

    @staticmethod
    def mix(features: Tensor, affinity: Tensor) -> Tensor:
        """Features (B, d), each mixed with those of its second and third neighbour by S (B, B)."""
        third, second = affinity.argsort(dim=1)[:, -4:-2].T  # an item is last in its own row
        return 0.7 * features + 0.2 * features[second] + 0.1 * features[third]

    @classmethod
    def hash_loss(cls, image: Tensor, text: Tensor, target: Tensor, affinity: Tensor) -> Tensor:
        """The loss of the hash functions' outputs (B, bits) for codes (B, bits) and S (B, B)."""
        return (mse_loss(image, target) + mse_loss(text, target) + mse_loss(image, text) + cls.structure * sum(
            mse_loss(cosines(*sides), affinity) for sides in ((image, text), (image,), (text,))))


class GraphNet(nn.Module):
    """CIRH's network over the graph of a batch: each modality alone, both together, and back to the features."""

    def __init__(self, image_dim: int, text_dim: int, bits: int, width: int = 512):
        super().__init__()
        def normed(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))

        dims = image_dim, text_dim
        self.encoders = nn.ModuleList(nn.Sequential(normed(dim, width), nn.ReLU()) for dim in dims)
        self.alone = nn.ModuleList(nn.Linear(width, width) for _ in dims)
        self.alone_norm = nn.ModuleList(nn.BatchNorm1d(width) for _ in dims)
        self.together, self.together_norm = nn.Linear(width, width), nn.BatchNorm1d(width)
        self.to_bits = nn.ModuleList(normed(2 * width, bits) for _ in dims)
        self.together_to_bits, self.to_code = normed(width, bits), normed(3 * bits, bits)
        self.decoders = nn.ModuleList(nn.Sequential(normed(bits, width), nn.ReLU(), normed(width, dim)) for dim in dims)

    def forward(self, image: Tensor, text: Tensor, affinity: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """H_I, H_T and H (B, bits) and both modalities' reconstructed features, for S (B, B)."""
        nodes = [normalize(encode(x), dim=1) for encode, x in zip(self.encoders, (image, text))]
        alone = [norm(affinity @ layer(x)).relu() for norm, layer, x in zip(self.alone_norm, self.alone, nodes)]
        # The graph of both has S within a modality and links partners: [[S, 1], [1, S]].
        image, text = map(self.together, nodes)
        linked = self.together_norm(torch.cat([affinity @ image + text, image + affinity @ text]))
        together = sum(linked.chunk(2)).relu()
        sides = [layer(torch.cat([x, together], dim=1)) for layer, x in zip(self.to_bits, alone)]
        joint = self.to_code(torch.cat([sides[0], self.together_to_bits(together), sides[1]], dim=1)).tanh()
        return *sides, joint, [decode(joint + side.tanh()) for decode, side in zip(self.decoders, sides)]


class ScaledTanh(nn.Sequential):
    """tanh(scale * x), x what the layers make."""

    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.scale * super().forward(x))


def cosines(a: Tensor, b: Tensor | None = None) -> Tensor:
    """(n, m) cosines of rows of ``a`` (n, d) and ``b`` (m, d), or of ``a`` among themselves."""
    a = normalize(a, dim=1)
    return a @ (a if b is None else normalize(b, dim=1)).T
