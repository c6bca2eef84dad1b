"""What a model reaches on the query and retrieval splits: its codes, their mAP, and their statistics.

With several processes each holds a part of the database (of the queries, for cosines); the counts of the parts add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

import metric
from common import hamming_products, processes
from common.errors import InputError
from load_data import Dataset, Split
from model import FusionModel, HashModel, sign

Model = FusionModel | HashModel
DIRECTIONS = {"i2t": (0, -1), "t2i": (-1, 0)}  # the sides of query and item: images first, texts last
ROWS = 2048  # items that are encoded at once


class NotFinite(InputError):
    """A model's outputs hold NaN or infinity."""


@torch.no_grad()
def outputs(model: Model, split: Split, scale: float = 1.0, part: slice = slice(None),
            rows: int = ROWS) -> Iterator[dict[str, list[Tensor]]]:
    """The model's outputs for a split, or a part of its images, ``rows`` pairs at a time, by protocol: ``[images,
    texts]``, or one tensor where both sides are the same; of a hash model its codes at ``scale``, of all lengths side
    by side. Where images have several texts, each of these is a pair with its image; the image alone comes once.

    Raises:
        NotFinite: some of them are NaN or infinite.
    """
    model.eval()
    device = next(model.parameters()).device
    texts = split.texts_of(part)
    for start in range(texts.start, texts.stop, rows):
        pairs = slice(start, min(start + rows, texts.stop))
        images = pairs if split.texts is None else split.image_of_text[pairs]  # a slice is not copied before it moves
        sides = [side.to(device) for side in (split.image[images], split.text[pairs])]
        by_protocol = model(*sides, scale) if isinstance(model, HashModel) else model(*sides)
        chunk = {protocol: list(found[:1] if found[0] is found[1] else found)
                 for protocol, found in by_protocol.items()}
        if split.texts is not None:
            first = split.first_text[images] == torch.arange(pairs.start, pairs.stop)
            chunk["unpaired"][0] = chunk["unpaired"][0][first.to(device)]
        produced = [side for found in chunk.values() for side in found]
        if isinstance(model, HashModel):
            produced += [model.ImageMlp.x, model.TextMlp.x]  # the tanh of infinity is finite
        if not all(torch.isfinite(side).all() for side in produced):
            raise NotFinite("the model's outputs are not finite")
        yield chunk


def _joined(chunks: Iterable[dict[str, list[Tensor]]], device: torch.device | str = "cpu") -> dict[str, list[Tensor]]:
    """Chunks of rows, each by protocol, as whole tensors on a device."""
    parts: dict[str, list[list[Tensor]]] = {}
    for chunk in chunks:
        for protocol, sides in chunk.items():
            parts.setdefault(protocol, []).append([side.to(device) for side in sides])
    return {protocol: [torch.cat(side) for side in zip(*sides)] for protocol, sides in parts.items()}


def encode(model: HashModel, split: Split, scale: float = 1.0, part: slice = slice(None),
           observe: Callable[[Tensor], None] = lambda codes: None,
           device: torch.device | str = "cpu") -> dict[str, list[Tensor]]:
    """The hash codes of a split by protocol: ``[images, texts]``, or one tensor where both are the same; -1 or 1, int8
    (rows, bits of all lengths), a byte a bit. Paired codes have a row a text, unpaired ones of images a row an image.

    Args:
        scale: of the codes before the sign, which is the same at any scale.
        observe: is given these codes, in (-1, 1), of unpaired images and texts, some rows at a time.
        device: where the hash codes are kept.
    """
    def codes() -> Iterator[dict[str, list[Tensor]]]:
        for chunk in outputs(model, split, scale, part):
            for code in chunk["unpaired"]:
                observe(code)
            yield {protocol: [sign(code).to(torch.int8) for code in sides]
                   for protocol, sides in chunk.items()}

    return _joined(codes(), device)


def rankings(model: HashModel, query: dict[str, list[Tensor]], retrieval: dict[str, list[Tensor]]
             ) -> dict[tuple[int, str, str], tuple[Tensor, Tensor]]:
    """The codes (queries, items) of each ranking, by code length, protocol and direction; t2i is left out where it is
    the same ranking as i2t.
    """
    return {(bits, protocol, direction): (code, model.split(retrieval[protocol][item])[bits])
            for protocol, sides in query.items() for direction, (asked, item) in DIRECTIONS.items()
            if direction == "i2t" or len(sides) == 2
            for bits, code in model.split(sides[asked]).items()}


def labels_of(split: Split, protocol: str, side: int, part: slice = slice(None)) -> Tensor:
    """The labels of the codes on a side of DIRECTIONS, (rows, c): a row an image that is alone, else a row a text.

    Args:
        part: the images of the split that are meant.
    """
    if protocol == "unpaired" and side == 0:
        return split.label[part]
    return split.text_label[split.texts_of(part)]


def counting_device(model: HashModel) -> torch.device:
    """Where the distances of a model's codes are counted: on its GPU, if that is one of CUDA; else on the CPU, whose
    loops are fast, too.
    """
    device = next(model.parameters()).device
    return device if device.type == "cuda" else torch.device("cpu")


def histograms_of(ranked: Sequence[tuple[Tensor, Tensor]], *labels: Tensor) -> list[np.ndarray]:
    """What :func:`metric.hamming_histograms` says, counted where the codes lie: on the CPU, or on a GPU."""
    on_gpu = ranked[0][0].device.type != "cpu"
    return (hamming_products if on_gpu else metric).hamming_histograms(ranked, *labels)


def by_length(model: HashModel, data: Dataset, ranked: dict[tuple[int, str, str], tuple[Tensor, Tensor]],
              figures: Callable[[np.ndarray], dict], part: slice = slice(None)) -> dict[str, dict]:
    """``figures`` of the histogram of each of the :func:`rankings`, ``["16"]["unpaired"]["i2t"]``; without labels none.

    Args:
        part: the items of the database that the rankings are of.
    """
    if not data.num_classes:
        return {str(bits): {} for bits in model.hash_lens}
    groups: dict[tuple[int, ...], list[tuple[int, str, str]]] = {}  # as many queries and items are the same ones
    for ranking, codes in ranked.items():
        groups.setdefault(tuple(map(len, codes)), []).append(ranking)
    histograms: dict[tuple[int, str, str], np.ndarray] = {}
    for group in groups.values():
        _, protocol, direction = group[0]
        asked, item = DIRECTIONS[direction]
        labels = labels_of(data.query, protocol, asked), labels_of(data.retrieval, protocol, item, part)
        histograms |= zip(group, histograms_of([ranked[ranking] for ranking in group], *labels))
    found = {ranking: figures(histograms[ranking]) for ranking in ranked}  # in one order in all processes
    return {str(bits): {protocol: {direction: dict(found.get((bits, protocol, direction))
                                                   or found[bits, protocol, "i2t"])
                                   for direction in DIRECTIONS} for protocol in ("unpaired", "paired")}
            for bits in model.hash_lens}


def evaluate_codes(model: HashModel, data: Dataset, scale: float) -> dict[str, dict]:
    """mAP of both directions in both protocols, for each code length: ``["16"]["unpaired"]["i2t"]["map@50"]``. Without
    labels there is no mAP.

    Beside them the ``quantization_error``, mean (abs(code) - 1)^2 of the codes at ``scale``, and the ``bit_balance`` of
    the database's unpaired codes; and how often the queries find their own ``partners`` among the queries of the other
    modality: ``["16"]["partners"]["i2t"]["recall@10"]``.
    """
    error = np.zeros(model.width)

    def add_error(code: Tensor) -> None:
        error[:] += ((code.abs() - 1) ** 2).sum(dim=0, dtype=torch.float64).numpy(force=True)

    part, device = processes.part(len(data.retrieval)), counting_device(model)
    query = encode(model, data.query, scale, device=device)
    retrieval = encode(model, data.retrieval, scale, part, add_error, device)
    figures = by_length(model, data, rankings(model, query, retrieval),
                        lambda histogram: metric.maps_from_histogram(processes.total(histogram)), part)
    for bits, images, texts in zip(model.hash_lens, *(model.split(side).values() for side in query["unpaired"])):
        figures[str(bits)]["partners"] = metric.partner_recall(
            images.numpy(force=True), texts.numpy(force=True), image_of_text=data.query.image_of_text.numpy())
    signs = torch.stack([side.sum(dim=0) for side in retrieval["unpaired"]])  # of images and of texts
    sums = np.stack([processes.total(error), np.abs(processes.total(signs.numpy(force=True))).sum(axis=0)])
    items = len(data.retrieval) + len(data.retrieval.text)
    for bits, means in model.split(torch.from_numpy(sums) / items).items():
        figures[str(bits)] |= dict(zip(("quantization_error", "bit_balance"), means.mean(dim=1).tolist()))
    return figures


def evaluate_real(model: FusionModel, data: Dataset) -> dict[str, dict]:
    """mAP of both directions in both protocols by cosine: ``["unpaired"]["i2t"]["map@50"]``."""
    part = processes.part(len(data.query))
    query, retrieval = _joined(outputs(model, data.query, part=part)), _joined(outputs(model, data.retrieval))
    figures: dict[str, dict] = {}
    for protocol, sides in query.items():
        figures[protocol] = {}
        for direction, (asked, item) in DIRECTIONS.items():
            queries = len(labels_of(data.query, protocol, asked))
            found = metric.evaluate_cosine(sides[asked].numpy(), retrieval[protocol][item].numpy(),
                                           labels_of(data.query, protocol, asked, part),
                                           labels_of(data.retrieval, protocol, item))
            sums = processes.total(np.array(list(found.values())) * len(sides[asked]))
            figures[protocol][direction] = dict(zip(found, (sums / queries).tolist()))
    return figures


def embeddings(model: FusionModel, split: Split) -> list[np.ndarray]:
    """The model's outputs (n, width) for the images and the texts of a split, each alone."""
    alone = _joined({"unpaired": chunk["unpaired"]} for chunk in outputs(model, split))
    return [side.numpy() for side in alone["unpaired"]]
