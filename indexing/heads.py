"""The hash heads in NumPy, so that a query is encoded without PyTorch, which takes seconds to load.

``heads.npz`` of an index holds what :meth:`model.HashModel.encode` computes with in evaluation mode, with late fusion:
of each modality the mean that features are centred by, and two linear layers, the second with the batch norm in it. A
build writes it if it gives what the model gives (:func:`indexing.encoding.numpy_heads`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.npy_files import array_in
from indexing.features import CHUNK_ROWS, Encoded, check_outputs, chunks, read_rows, row_count
from indexing.folder import damaged

if TYPE_CHECKING:
    from model import HashMlp, HashModel

MIN_NORM = np.float32(1e-12)  # as of torch.nn.functional.normalize


class Head(NamedTuple):
    """The head of one modality; float32."""

    mean: np.ndarray  # (d,)
    hidden_weight: np.ndarray  # (d, hidden)
    hidden_bias: np.ndarray  # (hidden,)
    weight: np.ndarray  # (hidden, bits)
    bias: np.ndarray  # (bits,)

    @classmethod
    def of(cls, mean, head: HashMlp) -> Head:
        """That of a model's head behind an input centred by ``mean``, a tensor (d,)."""
        numbers = {name: value.numpy(force=True).astype(np.float64) for name, value in head.state_dict().items()}
        shift, unit = 0.0, 1.0
        if "norm.running_var" in numbers:
            shift, unit = numbers["norm.running_mean"], np.sqrt(numbers["norm.running_var"] + head.norm.eps)
        arrays = (mean.numpy(force=True), numbers["fc1.weight"].T, numbers["fc1.bias"],
                  (numbers["tohash.weight"].T / unit), (numbers["tohash.bias"] - shift) / unit)
        return cls(*(np.ascontiguousarray(array, np.float32) for array in arrays))

    def x(self, features: np.ndarray) -> np.ndarray:
        """x of tanh(scale * x): (n, d) -> (n, bits), float32."""
        unit = _normalize(_normalize(features) - self.mean)
        return np.maximum(unit @ self.hidden_weight + self.hidden_bias, 0) @ self.weight + self.bias


class Heads(NamedTuple):
    """The heads of both modalities, and the code lengths that their bits are the codes of."""

    image: Head
    text: Head
    lengths: np.ndarray  # int64, ascending

    @classmethod
    def of(cls, model: HashModel) -> Heads:
        """Those of a model with late fusion."""
        return cls(Head.of(model.image_input.mean, model.ImageMlp), Head.of(model.text_input.mean, model.TextMlp),
                   np.array(sorted(set(model.hash_lens))))

    @classmethod
    def read(cls, path: Path) -> Heads:
        """Those of a file that :meth:`write` wrote; no code from it is run. Raises InputError if it is damaged."""
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                    raise ValueError("compressed, which no file of this project is")
                arrays = {info.filename: array_in(np.frombuffer(archive.read(info), np.uint8))
                          for info in archive.infolist()}
            heads = cls(*(Head(*(arrays[f"{side}.{name}.npy"] for name in Head._fields)) for side in ("image", "text")),
                        arrays["lengths.npy"])
            fit = heads.lengths.ndim == 1 and heads.lengths.dtype == np.int64
            for side in heads[:2]:
                (d, hidden), bits = side.hidden_weight.shape, heads.bits
                shapes = [(d,), (d, hidden), (hidden,), (hidden, bits), (bits,)]
                fit &= [array.shape for array in side] == shapes and all(array.dtype == np.float32 for array in side)
        except Exception as error:  # zipfile raises whatever damaged files make it
            raise damaged(path, "not the heads of a model") from error
        if not fit:
            raise damaged(path, "its arrays don't fit each other")
        return heads

    def write(self, file) -> None:
        """Write them as an .npz file."""
        np.savez(file, lengths=self.lengths, **{f"{side}.{name}": array for side in ("image", "text")
                                                for name, array in getattr(self, side)._asdict().items()})

    @property
    def bits(self) -> int:
        """The length of a code."""
        return len(self.image.bias)

    @property
    def widths(self) -> dict[str, int]:
        """The size of the features of each modality."""
        return {"image": len(self.image.mean), "text": len(self.text.mean)}

    def encode(self, features: Mapping[str, np.ndarray]) -> Encoded:
        """Encode features by modality, of one or both. Raises InputError for features, or outputs, that are not finite.
        """
        parts = []
        for rows in chunks(np.arange(row_count(features)), CHUNK_ROWS):
            sides = [getattr(self, name).x(block) for name, block in read_rows(features, rows).items()]
            parts.append(sides[0] if len(sides) == 1 else (sides[0] + sides[1]) / np.float32(2**0.5))
        x = np.concatenate(parts)
        check_outputs(x)
        return Encoded(np.where(x >= 0, np.int8(1), np.int8(-1)), x)


def _normalize(features: np.ndarray) -> np.ndarray:
    """Rows (n, d) at unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), MIN_NORM)
