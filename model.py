"""The networks: the fusion of UCMFH, the hash heads with their progressive scale, and the two together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

FUSED_WIDTH = 512  # UCMFH's width of one modality
SCHEDULES = ("linear", "exponential", "step", "hashnet")
STEP_LEVELS = 5
NOISE_DIMENSIONS = 384  # narrower features get as much noise in each dimension as features of this width


def scale_at(progress: float, scale_min: float, scale_max: float, schedule: str = "linear") -> float:
    """The scale of ``tanh(scale * x)`` when ``progress``, in [0, 1], of the training is done.

    Every schedule is exactly ``scale_min`` at 0 and ``scale_max`` at 1. ``linear`` grows evenly, ``exponential`` by
    equal factors, ``step`` in five even levels of equal length; with ``hashnet`` the square grows evenly, which is the
    shape of HashNet's sqrt(1 + 0.005 * iteration) (Cao et al., ICCV 2017; the formula is in its code).

    Raises:
        ValueError: an unknown schedule.
    """
    left = 1.0 - progress
    if schedule == "linear":
        return left * scale_min + progress * scale_max
    if schedule == "exponential":
        return scale_min**left * scale_max**progress
    if schedule == "step":
        level = min(int(progress * STEP_LEVELS), STEP_LEVELS - 1) / (STEP_LEVELS - 1)
        return (1.0 - level) * scale_min + level * scale_max
    if schedule == "hashnet":
        return (left * scale_min**2 + progress * scale_max**2) ** 0.5
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")


class FeatureInput(nn.Module):
    """Brings one modality's features to unit length around the mean of the training split.

    The mean direction is common to all items of a modality and says nothing about any of them (the "modality gap",
    Liang et al., NeurIPS 2022). Without ``centre`` the features stay as they come.

    In training, Gaussian noise of ``noise`` times a feature's length is added to it, spread evenly over the dimensions.
    Wide features vary in a few dozen directions, where only a part of the noise falls; narrow ones would drown in it.
    So features of less than 384 dimensions get as much noise in each as those of 384.
    """

    def __init__(self, dim: int, centre: bool = True, noise: float = 0.0):
        super().__init__()
        self.centre, self.noise = centre, noise
        self.register_buffer("mean", torch.zeros(dim))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take the mean from the training features (n, dim)."""
        if self.centre:
            self.mean.copy_(normalize(features, dim=1).mean(dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """(n, dim) -> (n, dim)"""
        x = normalize(normalize(features, dim=1) - self.mean, dim=1) if self.centre else features
        if self.training and self.noise:
            x = x + (torch.randn_like(x) * (self.noise / max(x.shape[1], NOISE_DIMENSIONS) ** 0.5)
                     * x.norm(dim=1, keepdim=True))
        return x


class FusionLayer(nn.Module):
    """A Transformer encoder layer (Vaswani et al., NeurIPS 2017, section 3.1) for a sequence of one token.

    The softmax over a single key is 1, so attention is the value projection followed by the output projection;
    queries, keys and the number of heads have no effect and are not computed.
    """

    def __init__(self, width: int, feedforward: int, dropout: float):
        super().__init__()
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.output(self.value(x))))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(relu(self.linear1(x))))))


class FuseTransEncoder(nn.Module):
    """UCMFH's fusion: image and text features as one token through Transformer layers, cut in two again.

    UCMFH trains on sequences of one token but evaluates with the batch as the sequence, so that there a code depends
    on its neighbours in the batch. Here an item is always one token: its result is its own.

    Features that don't have the same size in both modalities first pass a linear layer to 512 each, UCMFH's size.
    """

    def __init__(self, image_dim: int, text_dim: int, num_layers: int = 2, feedforward: int = 2048,
                 dropout: float = 0.1):
        super().__init__()
        self.width = image_dim if image_dim == text_dim else FUSED_WIDTH
        same = image_dim == text_dim
        self.image = nn.Identity() if same else nn.Linear(image_dim, self.width, bias=False)
        self.text = nn.Identity() if same else nn.Linear(text_dim, self.width, bias=False)
        self.layers = nn.Sequential(*(FusionLayer(2 * self.width, feedforward, dropout) for _ in range(num_layers)))

    def forward(self, image: Tensor | None, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse ``image`` (n, d_i) and ``text`` (n, d_t) into two (n, width); a missing modality is zeros."""
        given = image if image is not None else text
        missing = given.new_zeros(len(given), self.width)
        token = torch.cat([missing if image is None else self.image(image),
                           missing if text is None else self.text(text)], dim=1)
        fused = normalize(self.layers(token), dim=1)
        return fused[:, :self.width], fused[:, self.width:]


class HashMlp(nn.Module):
    """A hash head: ``hash_code = tanh(scale * x)``, x the output of a two-layer perceptron, normalised per bit.

    Batch normalisation without affine parameters puts x in units of its own standard deviation, so that ``scale``
    decides how binary the codes are (otherwise the network can shrink x as the scale grows, and losses on cosines
    don't notice), and centres each bit, so that both signs are used (OrthoHash, Hoe et al., NeurIPS 2021).

    Args:
        input_dim: size of the features.
        hash_lens: bits of the code.
        use_progressive: whether ``scale`` acts; if not, hash_code = tanh(x).

    After a call ``x`` is the call's x, detached, (n, hash_lens), and ``scale`` the scale that acted. What needs x
    before it is squashed reads it there: late fusion and reranking.
    """

    def __init__(self, input_dim: int, hash_lens: int, use_progressive: bool = True, hidden: int = 1024,
                 dropout: float = 0.3, batch_norm: bool = True):
        super().__init__()
        self.use_progressive = use_progressive
        self.fc1 = nn.Linear(input_dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.tohash = nn.Linear(hidden, hash_lens)
        self.norm = nn.BatchNorm1d(hash_lens, affine=False) if batch_norm else nn.Identity()
        self.x: Tensor | None = None
        self.scale: float | Tensor = 1.0

    def perceptron(self, features: Tensor) -> Tensor:
        """x before it is normalised: (n, input_dim) -> (n, hash_lens)."""
        return self.tohash(self.dropout(relu(self.fc1(normalize(features, dim=1)))))

    def forward(self, features: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Codes in (-1, 1) of features: (n, input_dim) -> (n, hash_lens); the larger the scale, the nearer to -1 and 1.
        """
        if not self.use_progressive:
            scale = 1.0
        x = self.norm(self.perceptron(features))
        self.x, self.scale = x.detach(), scale
        return torch.tanh(scale * x)


class ImageMlp(HashMlp):
    """The hash head of images."""


class TextMlp(HashMlp):
    """The hash head of texts."""


class FusionModel(nn.Module):
    """Real-valued retrieval (tasks 0 and 2): both modalities, or one alone, into one space of cosines."""

    def __init__(self, image_dim: int, text_dim: int, centre: bool = True, noise: float = 0.0):
        super().__init__()
        self.settings = dict(image_dim=image_dim, text_dim=text_dim, centre=centre, noise=noise)
        self.image_input = FeatureInput(image_dim, centre, noise)
        self.text_input = FeatureInput(text_dim, centre, noise)
        self.FuseTrans = FuseTransEncoder(image_dim, text_dim)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Image and text embeddings (n, width) by protocol: ``unpaired`` (each alone) and ``paired`` (each with both).
        """
        image, text = self.image_input(image), self.text_input(text)
        return {"unpaired": (self.FuseTrans(image, None)[0], self.FuseTrans(None, text)[1]),
                "paired": self.FuseTrans(image, text)}


class HashModel(nn.Module):
    """Hash codes of every length asked for (tasks 1 and 3), from an image, a text, or both.

    The code lengths share the hidden layer of each head. With ``nested`` they also share their bits: a head's output is
    the longest code, and its first bits are the shorter ones (Nested Hash Layer, arXiv 2412.08922). Otherwise every
    length has bits of its own, side by side in the output in the order of ``hash_lens``. :meth:`split` tells them apart.

    ``fusion`` says how an item with both modalities gets its code. ``late``: its code is the sign of the sum of the two
    heads' x, so the image side and the text side of a pair have the same code, and nothing but the heads is trained.
    ``transformer``: as in UCMFH, the heads see the two halves of the fused token.
    """

    def __init__(self, image_dim: int, text_dim: int, hash_lens: Sequence[int], use_progressive: bool = True,
                 fusion: str = "late", centre: bool = True, noise: float = 0.0, hidden: int = 1024,
                 batch_norm: bool = True, nested: bool = False):
        super().__init__()
        self.hash_lens, self.nested = list(hash_lens), nested
        self.settings = dict(image_dim=image_dim, text_dim=text_dim, hash_lens=self.hash_lens, fusion=fusion,
                             use_progressive=use_progressive, centre=centre, noise=noise, hidden=hidden,
                             batch_norm=batch_norm, nested=nested)
        self.image_input = FeatureInput(image_dim, centre, noise)
        self.text_input = FeatureInput(text_dim, centre, noise)
        self.FuseTrans = FuseTransEncoder(image_dim, text_dim) if fusion == "transformer" else None
        if self.FuseTrans is not None:
            image_dim = text_dim = self.FuseTrans.width
        heads = dict(hidden=hidden, batch_norm=batch_norm)
        self.ImageMlp = ImageMlp(image_dim, self.width, use_progressive, **heads)
        self.TextMlp = TextMlp(text_dim, self.width, use_progressive, **heads)

    @property
    def width(self) -> int:
        """The bits that a head gives."""
        return max(self.hash_lens) if self.nested else sum(self.hash_lens)

    def split(self, codes: Tensor) -> dict[int, Tensor]:
        """Codes (n, width) by code length: {16: (n, 16), ...}."""
        if self.nested:
            return {bits: codes[:, :bits] for bits in self.hash_lens}
        return dict(zip(self.hash_lens, torch.split(codes, self.hash_lens, dim=1)))

    def only(self, lengths: Sequence[int]) -> HashModel:
        """A copy of this model that makes the codes of some of its lengths only."""
        model = HashModel(**{**self.settings, "hash_lens": list(lengths)})
        places = self.split(torch.arange(self.width)[None])
        kept = places[max(lengths)][0] if self.nested else torch.cat([places[bits][0] for bits in lengths])
        model.load_state_dict({
            name: value[kept.to(value.device)]
            if name.split(".")[1] in ("tohash", "norm") and value.shape[:1] == (self.width,) else value
            for name, value in self.state_dict().items()})
        return model.eval()

    def fuse(self, image: Tensor | None, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the heads see of items with the given modalities: (n, d_i) and (n, d_t), or UCMFH's two halves."""
        image = None if image is None else self.image_input(image)
        text = None if text is None else self.text_input(text)
        return (image, text) if self.FuseTrans is None else self.FuseTrans(image, text)

    @torch.no_grad()
    def calibrate(self, chunks: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Give x mean 0 and standard deviation 1 in each bit over training pairs that are encoded as in tests.

        Training leaves in the batch norm a moving average over features with noise and hidden layers with dropout, not
        what a test sees. Measuring the statistics again is the precise batch norm of Wu & Johnson, "Rethinking
        Batch in BatchNorm" (2021, section 3). Leaves the model in evaluation mode.

        Args:
            chunks: the features (n, d_i) and (n, d_t) of the training pairs, some rows at a time.
        """
        self.eval()
        heads = [head for head in (self.ImageMlp, self.TextMlp) if isinstance(head.norm, nn.BatchNorm1d)]
        sums, rows = [0.0] * len(heads), 0
        for image, text in chunks if heads else ():
            outputs = [head.perceptron(side).double() for head, side in zip(heads, self.fuse(image, text))]
            sums = [total + torch.stack([x.sum(dim=0), x.square().sum(dim=0)]) for total, x in zip(sums, outputs)]
            rows += len(image)
        for head, total in zip(heads, sums):
            mean, square = total / rows
            head.norm.running_mean.copy_(mean)
            head.norm.running_var.copy_((square - mean.square()).clamp(min=0))

    def encode(self, image: Tensor | None = None, text: Tensor | None = None,
               scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """Codes of items with an image (n, d_i), a text (n, d_t), or both, and x of ``tanh(scale * x)``.

        Returns:
            Codes in [-1, 1], whose signs are the hash bits, and x; (n, width) each, for :meth:`split`.
        """
        features = self.fuse(image, text)
        if text is None:
            return self.ImageMlp(features[0], scale), self.ImageMlp.x
        if image is None:
            return self.TextMlp(features[1], scale), self.TextMlp.x
        self.ImageMlp(features[0], scale), self.TextMlp(features[1], scale)
        return self.pair()

    def pair(self) -> tuple[Tensor, Tensor]:
        """Late fusion of the pairs whose two sides the heads have just seen: their codes, -1 or 1, and x, which is the
        sum of the heads' x over sqrt(2).
        """
        x = (self.ImageMlp.x + self.TextMlp.x) / 2**0.5
        return sign(x), x

    def forward(self, image: Tensor, text: Tensor, scale: float = 1.0) -> dict[str, tuple[Tensor, Tensor]]:
        """Codes of images (n, d_i) and texts (n, d_t), (n, width) each, by protocol: ``unpaired`` (each side alone) and
        ``paired`` (each with the other).
        """
        unpaired = self.encode(image=image, scale=scale)[0], self.encode(text=text, scale=scale)[0]
        if self.FuseTrans is None:
            code, _ = self.pair()
            return {"unpaired": unpaired, "paired": (code, code)}
        image, text = self.fuse(image, text)
        return {"unpaired": unpaired, "paired": (self.ImageMlp(image, scale), self.TextMlp(text, scale))}


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1."""
    return torch.where(x >= 0, 1.0, -1.0)
