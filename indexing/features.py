"""Features of items and queries, checked, and what becomes of them: codes, and the real-valued x whose signs they are.

Nothing here needs PyTorch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from common.errors import InputError
from pairs.rows import MAX_FEATURE

CHUNK_ROWS = 8192  # items encoded at once; an interrupted build resumes after the last whole chunk
SAMPLE_ROWS = 1024
MAX_INT8 = 127  # symmetric: -128 isn't used

Progress = Callable[[int], object]  # is called with the number of items done since the last call


class Encoded(NamedTuple):
    """Items or queries, encoded."""

    codes: np.ndarray  # +1 and -1, int8 (n, bits): what is stored, and compared by Hamming distance
    x: np.ndarray  # x of tanh(scale * x), float32 (n, bits): what reranking and rescoring compare with what is stored

    @property
    def packed(self) -> np.ndarray:
        """The codes as ``codes.npy`` holds them, uint8 (n, ceil(bits / 8))."""
        return np.packbits(self.codes > 0, axis=1, bitorder="little")  # as metric.pack_codes, without loading Numba

    @property
    def outputs(self) -> np.ndarray:
        """x as ``outputs.npy`` holds it, int8 (n, bits): that of each item in units of its largest |x| / 127, rounded.

        The unit isn't stored, as a cosine doesn't depend on it.
        """
        largest = np.abs(self.x).max(axis=1, keepdims=True)
        return np.rint(self.x * (MAX_INT8 / np.where(largest == 0, 1, largest))).astype(np.int8)

    def first_bits(self, bits: int) -> Encoded:
        """The first ``bits`` bits of nested codes, and their x: (n, bits) each."""
        return Encoded(self.codes[:, :bits], self.x[:, :bits])


def check_features(widths: Mapping[str, int], image: ArrayLike | None, text: ArrayLike | None) -> dict[str, np.ndarray]:
    """The features that are given, by modality: image (n, d_i) and text (n, d_t).

    Raises InputError if there are none, if they are not as wide as the model expects, which ``widths`` says by
    modality, or if they differ in n.
    """
    features = {name: np.asanyarray(array) for name, array in (("image", image), ("text", text)) if array is not None}
    if not features:
        raise InputError("no features: expected those of images, of texts, or both")
    for name, array in features.items():
        if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != widths[name] or not len(array):
            raise InputError(f"{name} features: found {array.dtype} of shape {array.shape}; expected numbers, "
                             f"(1 or more rows, {widths[name]}), as the model was trained on")
    if len({len(array) for array in features.values()}) > 1:
        raise InputError(f"image features have {len(features['image']):,} rows and text features "
                         f"{len(features['text']):,}; expected as many")
    return features


def read_rows(features: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some rows of the features in float32. Raises InputError for features that are not finite."""
    found = {}
    for name, array in features.items():
        with np.errstate(over="ignore"):
            found[name] = np.asarray(array[rows], np.float32)
        sound = (np.abs(found[name]) <= MAX_FEATURE).all(axis=1)  # False for NaN
        if not sound.all():
            raise InputError(f"{name} features: row {rows[np.argmin(sound)]} has NaN, infinity or a number beyond "
                             f"{MAX_FEATURE:g}; expected finite float32 numbers")
    return found


def check_outputs(x: np.ndarray) -> None:
    """Raise InputError for outputs of a model that are not finite: the tanh of infinity is."""
    if not np.isfinite(x).all():
        raise InputError("hash outputs: found NaN or infinity, expected finite numbers")


def chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``rows``, ``size`` at a time."""
    return (rows[start:start + size] for start in range(0, len(rows), size))


def row_count(features: Mapping[str, np.ndarray]) -> int:
    """The number of items that the features describe."""
    return len(next(iter(features.values())))


def modality_of(features: Mapping[str, np.ndarray]) -> str:
    """``image``, ``text`` or ``both``."""
    return "both" if len(features) == 2 else next(iter(features))


def sample_hash(array: np.ndarray) -> str:
    """A fingerprint of features that doesn't read all of them: their shape and up to 1,024 rows evenly apart."""
    rows = np.unique(np.linspace(0, len(array) - 1, min(len(array), SAMPLE_ROWS)).astype(np.int64))
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array[rows]))
    return digest.hexdigest()
