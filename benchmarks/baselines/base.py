"""What every method shares: the interface, the loop over epochs, and the test of a trained method."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import metric
from common.errors import InputError
from load_data import Dataset, Split
from reporting import last_figures
from reporting.curves import curves_of

MIN_PAIRS = 16  # an eighth of them judges the ridge of CCA; CIRH looks for three neighbours in a batch
ENCODE_ROWS = 4096  # items encoded at once


class Unsuited(InputError):
    """A method can't be trained on these data, such as for more bits than it has there."""


class Baseline:
    """One code length of one method.

    Args:
        bits: length of the code.
        seed: every random choice depends on it; ``fit`` seeds torch's generator with it.
        device: where to train and encode.
    """

    name: str
    reference: str
    epochs: int | None = None  # None where there are none
    paired = False  # whether an item that has both modalities gets another code than from one alone
    bounded = True  # whether outputs lie in [-1, 1]
    unit = True  # whether each item's features are brought to length 1; otherwise all of a modality by one factor (fit)

    def __init__(self, bits: int, seed: int = 0, device: str | torch.device = "cpu"):
        self.bits, self.seed, self.device = bits, seed, torch.device(device)

    def fit(self, image: Tensor, text: Tensor, on_epoch: Callable[[int], None] | None = None) -> None:
        """Learn from training pairs: features (n, d_i) and (n, d_t), float32, row i of both from the same pair.

        Without ``unit`` each modality is multiplied by one number, so that its mean length is sqrt(d), d the smaller of
        d_i and d_t: lengths within a modality still differ, but its units don't matter.

        ``on_epoch(epoch)`` is called after each epoch, 1 the first, and may encode.

        Raises:
            InputError: fewer than 16 pairs, more bits than the method has, or a loss that is not finite.
        """
        if len(image) != len(text) or len(image) < MIN_PAIRS:
            raise InputError(f"{self.name}: {len(image)} images and {len(text)} texts to train on; "
                             f"expected as many of each, {MIN_PAIRS} or more")
        torch.manual_seed(self.seed)
        length = min(image.shape[1], text.shape[1])**0.5
        self.factors = [length / (side.norm(dim=1).mean().item() or 1.0) for side in (image, text)]
        self._fit(self._seen(0, image), self._seen(1, text), on_epoch or (lambda epoch: None))

    def encode_image(self, image: Tensor, text: Tensor | None = None) -> Tensor:
        """Real-valued codes (n, bits), on the CPU, of images (n, d_i); their signs are the hash codes.

        ``text`` (n, d_t) is what else is known of the items; only methods with ``paired`` use it.
        """
        return self._encode(0, image, text)

    def encode_text(self, text: Tensor, image: Tensor | None = None) -> Tensor:
        """The same for texts (n, d_t)."""
        return self._encode(1, image, text)

    @torch.no_grad()
    def _encode(self, side: int, *features: Tensor | None) -> Tensor:
        parts = []
        for start in range(0, len(features[side]), ENCODE_ROWS):
            rows = slice(start, start + ENCODE_ROWS)
            seen = [None if x is None else self._seen(of, x[rows]) for of, x in enumerate(features)]
            parts.append(self._codes(side, *seen).cpu())
        return torch.cat(parts)

    def _seen(self, side: int, features: Tensor) -> Tensor:
        features = features.to(self.device)
        return normalize(features, dim=1) if self.unit else self.factors[side] * features

    def _fit(self, image: Tensor, text: Tensor, on_epoch: Callable[[int], None]) -> None:
        """Learn from features as ``unit`` says, so that ``self.hash`` has a map from them to codes for each side."""
        raise NotImplementedError

    def _codes(self, side: int, image: Tensor | None, text: Tensor | None) -> Tensor:
        """Codes of images (``side`` 0) or texts (1), features as ``unit`` says."""
        return self.hash[side]((image, text)[side]).float()


class DeepBaseline(Baseline):
    """Epochs of shuffled batches over two networks, ``self.hash``, one a modality."""

    epochs: int
    batch_size: int

    def _fit(self, image, text, on_epoch):
        self._build(image, text)
        for epoch in range(1, self.epochs + 1):
            self.networks.train()
            loss = sum(self._epoch(epoch, image, text))
            if not torch.isfinite(loss):
                raise InputError(f"{self.name}: the loss is {loss.item()} in epoch {epoch}; are all features finite?")
            self.networks.eval()
            on_epoch(epoch)

    def _build(self, image: Tensor, text: Tensor) -> None:
        """Make the optimizers and ``networks``, which are all that trains; ``hash`` of them encode."""
        raise NotImplementedError

    def _epoch(self, epoch: int, image: Tensor, text: Tensor) -> Iterator[Tensor]:
        """Train for one epoch, 1 the first; yields the loss of each step."""
        raise NotImplementedError

    def _batches(self, count: int, least: int | None = None) -> list[Tensor]:
        """Rows 0 to count - 1 in random order, in batches; one of fewer than ``least`` (a whole batch) is left out."""
        size = min(self.batch_size, count)
        return [rows for rows in torch.randperm(count).to(self.device).split(size) if len(rows) >= (least or size)]


def step(loss: Tensor, *optimizers: torch.optim.Optimizer, clip: float | None = None) -> Tensor:
    """One step down the gradient of ``loss``, at most ``clip`` long; returns the loss, detached."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()
    return loss.detach()


def evaluate(method: Baseline, data: Dataset) -> tuple[dict, dict]:
    """What a trained method reaches, in the form of an evaluation in ICMR's metrics, and its curves."""
    return _evaluate(method, data)[:2]


def evaluate_last(method: Baseline, data: Dataset) -> tuple[dict, dict, dict[str, np.ndarray]]:
    """The same after the last epoch, in the form of ``final``, with the figures of reporting/last_figures.py; and the
    average precision of each query.
    """
    found, curves, *codes = _evaluate(method, data)
    figures, precision = last_figures.of_codes(data, *([metric.sign_codes(side) for side in sides] for sides in codes),
                                               bits=method.bits)
    return last_figures.merge(found, figures), curves, precision


def _evaluate(method: Baseline, data: Dataset) -> tuple[dict, dict, list[np.ndarray], list[np.ndarray]]:
    """What a method reaches, its curves, and the unpaired codes before the sign of images and texts, queries first."""
    found, curves = {}, {}
    for protocol in ("paired", "unpaired") if method.paired else ("unpaired",):
        both = protocol == "paired"
        query, retrieval = (_codes_of(method, split, both) for split in (data.query, data.retrieval))
        found[protocol], curves[protocol] = {}, {}
        if not both:
            found["partners"] = metric.partner_recall(*map(metric.sign_codes, query),
                                                      image_of_text=data.query.image_of_text.numpy())
        for direction, (asked, stored) in {"i2t": (0, 1), "t2i": (1, 0)}.items():
            labels = ((split.text_label if both or side else split.label).numpy()
                      for split, side in ((data.query, asked), (data.retrieval, stored)))
            histogram = metric.hamming_histogram(metric.sign_codes(query[asked]), metric.sign_codes(retrieval[stored]),
                                                 *labels)
            found[protocol][direction] = metric.maps_from_histogram(histogram)
            curves[protocol][direction] = curves_of(histogram)
    if method.bounded:
        found["quantization_error"] = metric.quantization_error(np.concatenate(retrieval))  # the unpaired, done last
    return found, curves, query, retrieval


def _codes_of(method: Baseline, split: Split, both: bool) -> list[np.ndarray]:
    """The codes of the images and of the texts, alone or (``both``) of each text and its image, which it is seen with."""
    if not both:
        return [method.encode_image(split.image).numpy(), method.encode_text(split.text).numpy()]
    image = split.image[split.image_of_text]
    return [method.encode_image(image, split.text).numpy(), method.encode_text(split.text, image).numpy()]
