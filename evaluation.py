"""What a model reaches on the query and retrieval splits: its outputs and codes, their mAP and statistics, its curves.

With several processes each holds a part of the database (of the queries, for cosines); the counts of the parts add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

import metric
from common import processes
from reporting.curves import code_counts, curves_of, shares
from common.errors import InputError
from load_data import Dataset, Split
from model import FusionModel, HashModel

Model = FusionModel | HashModel
WAYS = {"i2t": (0, -1), "t2i": (-1, 0)}  # the sides of query and item: images first, texts last
ROWS = 2048  # items that are encoded at once


class NotFinite(InputError):
    """A model's outputs hold NaN or infinity."""


@torch.no_grad()
def outputs(model: Model, split: Split, part: slice = slice(None),
            rows: int = ROWS) -> Iterator[dict[str, list[Tensor]]]:
    """The model's outputs for a split, or a part of it, ``rows`` items at a time, by protocol: ``[images, texts]``, or
    one tensor where both sides are the same. Raises :class:`NotFinite`.
    """
    model.eval()
    device = next(model.parameters()).device
    images, texts = split.image[part], split.text[part]
    for start in range(0, len(images), rows):
        image, text = (side[start:start + rows].to(device) for side in (images, texts))
        chunk = {protocol: list(sides[:1] if sides[0] is sides[1] else sides)
                 for protocol, sides in model(image, text).items()}
        if not all(torch.isfinite(side).all() for sides in chunk.values() for side in sides):
            raise NotFinite("the model's outputs are not finite")
        yield chunk


def _joined(chunks: Iterable[dict[str, list[Tensor]]]) -> dict[str, list[Tensor]]:
    """Chunks of rows, each by protocol, as whole tensors on the CPU."""
    parts: dict[str, list[list[Tensor]]] = {}
    for chunk in chunks:
        for protocol, sides in chunk.items():
            parts.setdefault(protocol, []).append([side.cpu() for side in sides])
    return {protocol: [torch.cat(side) for side in zip(*sides)] for protocol, sides in parts.items()}


def encode(model: HashModel, split: Split, part: slice = slice(None),
           observe: Callable[[Tensor], None] = lambda x: None) -> dict[str, list[Tensor]]:
    """The +-1 codes of a split, all lengths side by side, by protocol: ``[images, texts]``, or one tensor where both
    are the same, int8 (n, bits of all lengths). Of an item no more is kept than a byte for each bit.

    Args:
        observe: is given x of ``tanh(scale * x)`` of unpaired images and texts, some rows at a time.
    """
    def codes() -> Iterator[dict[str, list[Tensor]]]:
        for chunk in outputs(model, split, part):
            for x in chunk["unpaired"]:
                observe(x)
            yield {protocol: [2 * (x >= 0).to(torch.int8) - 1 for x in sides] for protocol, sides in chunk.items()}

    return _joined(codes())


def rankings(model: HashModel, query: dict[str, list[Tensor]], retrieval: dict[str, list[Tensor]]
             ) -> dict[tuple[int, str, str], tuple[np.ndarray, np.ndarray]]:
    """The codes (queries, items) of each ranking, by code length, protocol and direction; t2i is left out where it is
    the same ranking as i2t.
    """
    return {(bits, protocol, way): (code.numpy(), model.split(retrieval[protocol][stored])[bits].numpy())
            for protocol, sides in query.items() for way, (asked, stored) in WAYS.items()
            if way == "i2t" or len(sides) == 2
            for bits, code in model.split(sides[asked]).items()}


def by_length(model: HashModel, data: Dataset, asked: dict[tuple[int, str, str], tuple[np.ndarray, np.ndarray]],
              figures: Callable[[np.ndarray], dict], part: slice = slice(None)) -> dict[str, dict]:
    """``figures`` of the histogram of each of the :func:`rankings`, ``["16"]["unpaired"]["i2t"]``; without labels none.

    Args:
        part: the items of the database that the rankings are of.
    """
    if not data.num_classes:
        return {str(bits): {} for bits in model.hash_lens}
    histograms = metric.hamming_histograms(list(asked.values()), data.query.label, data.retrieval.label[part])
    found = {ranking: figures(histogram) for ranking, histogram in zip(asked, histograms)}
    return {str(bits): {protocol: {way: dict(found.get((bits, protocol, way)) or found[bits, protocol, "i2t"])
                                   for way in WAYS} for protocol in ("unpaired", "paired")}
            for bits in model.hash_lens}


def evaluate_codes(model: HashModel, data: Dataset, scale: float) -> dict[str, dict]:
    """mAP of both directions in both protocols, for each code length: ``["16"]["unpaired"]["i2t"]["map@50"]``. Without
    labels there is no mAP.

    Beside them the ``quantization_error``, mean (abs(tanh(scale * x)) - 1)^2, and the ``bit_balance`` of the database's
    unpaired codes; and how often the queries find their own ``partners`` among the queries of the other modality:
    ``["16"]["partners"]["i2t"]["recall@10"]``.
    """
    error = np.zeros(sum(model.hash_lens))

    def add_error(x: Tensor) -> None:
        distance = (model.ImageMlp.binarize(x, scale).abs() - 1) ** 2
        error[:] += distance.sum(dim=0, dtype=torch.float64).numpy(force=True)

    part = processes.part(len(data.retrieval))
    query, retrieval = encode(model, data.query), encode(model, data.retrieval, part, add_error)
    figures = by_length(model, data, rankings(model, query, retrieval),
                        lambda histogram: metric.maps_from_histogram(processes.total(histogram)), part)
    for bits, images, texts in zip(model.hash_lens, *(model.split(side).values() for side in query["unpaired"])):
        figures[str(bits)]["partners"] = metric.partner_recall(images.numpy(), texts.numpy())
    signs = torch.stack([side.sum(dim=0) for side in retrieval["unpaired"]])  # of images and of texts
    sums = np.stack([processes.total(error), np.abs(processes.total(signs.numpy())).sum(axis=0)])
    for bits, means in model.split(torch.from_numpy(sums) / (2 * len(data.retrieval))).items():
        figures[str(bits)] |= dict(zip(("quantization_error", "bit_balance"), means.mean(dim=1).tolist()))
    return figures


def evaluate_real(model: FusionModel, data: Dataset) -> dict[str, dict]:
    """mAP of both directions in both protocols by cosine: ``["unpaired"]["i2t"]["map@50"]``."""
    part = processes.part(len(data.query))
    query, retrieval = _joined(outputs(model, data.query, part)), _joined(outputs(model, data.retrieval))
    figures: dict[str, dict] = {}
    for protocol, sides in query.items():
        figures[protocol] = {}
        for way, (asked, stored) in WAYS.items():
            found = metric.evaluate_cosine(sides[asked].numpy(), retrieval[protocol][stored].numpy(),
                                           data.query.label[part], data.retrieval.label)
            sums = processes.total(np.array(list(found.values())) * len(sides[asked]))
            figures[protocol][way] = dict(zip(found, (sums / len(data.query)).tolist()))
    return figures


def model_curves(model: HashModel, data: Dataset, scale: float) -> tuple[dict[str, dict], list[np.ndarray]]:
    """The curves of every code length (reporting/curves.py), without labels only the histogram; and the unpaired +-1 codes of
    the longest.

    Args:
        scale: that of the codes before the sign, for their histogram.

    Returns:
        What reporting/curves.py describes; and the codes, (n, bits) each, of query images, query texts, retrieval images,
        retrieval texts.
    """
    counts = dict.fromkeys(model.hash_lens, 0)

    def count(x: Tensor) -> None:
        for bits, values in model.split(model.ImageMlp.binarize(x, scale)).items():
            counts[bits] = counts[bits] + code_counts(values.numpy(force=True))

    query, retrieval = encode(model, data.query), encode(model, data.retrieval, observe=count)
    asked = rankings(model, query, retrieval)
    found = by_length(model, data, asked, curves_of)
    longest = max(model.hash_lens)
    (images, found_texts), (texts, found_images) = (asked[longest, "unpaired", way] for way in WAYS)
    return ({bits: {"code_histogram": shares(counts[int(bits)]), **figures} for bits, figures in found.items()},
            [images, texts, found_images, found_texts])


def embeddings(model: Model, split: Split) -> list[np.ndarray]:
    """The model's outputs (n, width) for the images and the texts of a split, each alone."""
    alone = _joined({"unpaired": chunk["unpaired"]} for chunk in outputs(model, split))
    return [side.numpy() for side in alone["unpaired"]]
