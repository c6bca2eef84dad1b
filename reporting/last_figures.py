"""What is measured of a run once, after its last epoch, beside the mAP that every evaluation measures: for papers.

Of the unpaired codes, in the directions i2t, t2i, i2i and t2t: mAP, mAP within Hamming radius 2 and NDCG, which go into
``metrics.json``, and the average precision of each query, which goes into ``average_precision.npz`` beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import metric
from common.atomic_files import write_atomically
from load_data import Dataset

FILE = "average_precision.npz"
DIRECTIONS = {"i2t": (0, 1), "t2i": (1, 0), "i2i": (0, 0), "t2t": (1, 1)}  # the sides of query and item: images, texts


def of_codes(data: Dataset, query: Sequence[np.ndarray], retrieval: Sequence[np.ndarray], bits: int
             ) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """The figures of :func:`metric.evaluate_in_full` by direction, and the average precision of each query by name,
    such as ``16/unpaired/i2t/map@50``; without labels none.

    Args:
        query, retrieval: the +-1 codes of images and of texts, (rows, bits).
    """
    return _by_direction(data, query, retrieval, str(bits), metric.evaluate_in_full)


def of_embeddings(data: Dataset, query: Sequence[np.ndarray], retrieval: Sequence[np.ndarray]
                  ) -> tuple[dict[str, dict[str, float]], dict[str, np.ndarray]]:
    """The same of real-valued embeddings (rows, width), which are ranked by cosine: mAP alone, under ``real/``."""
    def figures(*sides: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        precision = metric.cosine_average_precision(*sides)
        return {name: float(values.mean()) for name, values in precision.items()}, precision

    return _by_direction(data, query, retrieval, "real", figures)


def _by_direction(data, query, retrieval, kind, figures):
    found, precision = {}, {}
    for direction, (asked, stored) in DIRECTIONS.items() if data.num_classes else ():
        labels = (split.items(("image", "text")[side]).label.numpy()
                  for split, side in ((data.query, asked), (data.retrieval, stored)))
        found[direction], of_queries = figures(query[asked], retrieval[stored], *labels)
        precision |= {f"{kind}/unpaired/{direction}/{name}": values for name, values in of_queries.items()}
    return found, precision


def merge(figures: dict, found: Mapping[str, Mapping[str, float]]) -> dict:
    """The figures of a code length with those ``found`` of its unpaired codes beside them; what is there stays.
    """
    if not found:
        return figures
    there = figures["unpaired"]
    return {**figures, "unpaired": {direction: {**there.get(direction, {}), **{
        name: value for name, value in more.items() if name not in there.get(direction, {})}}
        for direction, more in found.items()}}


def write(path: Path, data: Dataset, precision: Mapping[str, np.ndarray]) -> Path | None:
    """Write the average precision of each query, with the number that it has in the file of the data set
    (``rows/image`` and ``rows/text``) and the data set's fingerprint. If there is none, the file of a run before goes.

    Raises InputError if the folder refuses the file.
    """
    if not precision:
        path.unlink(missing_ok=True)
        return None
    about = {"fingerprint": np.array(data.fingerprint),
             **{f"rows/{side}": data.query.items(side).index for side in ("image", "text")}}
    return write_atomically(path, lambda file: np.savez_compressed(file, **about, **precision))
