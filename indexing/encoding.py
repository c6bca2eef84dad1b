"""From features to hash codes, with the model of a checkpoint, a chunk of rows at a time.

:func:`encode_rows` is the one place where a model is asked for codes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

import metric
from common.errors import InputError
from indexing.folder import NewVersion
from model import HashModel
from pairs.rows import MAX_FEATURE
from training import checkpoint

CHUNK_ROWS = 8192  # items encoded at once; an interrupted build resumes after the last whole chunk
COPIED_ROWS = 1 << 16  # codes moved at once
SAMPLE_ROWS = 1024
ENCODING = threading.Lock()  # a head holds x of its last call: one thread at a time

Progress = Callable[[int], object]  # is called with the number of items done since the last call


class Encoded(NamedTuple):
    """Items or queries, encoded."""

    codes: np.ndarray  # +1 and -1, int8 (n, bits): what is stored, and compared by Hamming distance
    x: np.ndarray  # x of tanh(scale * x), float32 (n, bits): what reranking compares with the codes of items

    @property
    def packed(self) -> np.ndarray:
        """The codes as ``codes.npy`` holds them, uint8 (n, ceil(bits / 8))."""
        return metric.pack_codes(self.codes)

    def first_bits(self, bits: int) -> Encoded:
        """The first ``bits`` bits of nested codes, and their x: (n, bits) each."""
        return Encoded(self.codes[:, :bits], self.x[:, :bits])


# --- what is given --------------------------------------------------------------------------------


def load_model(path: Path) -> tuple[HashModel, dict]:
    """The hash model of a checkpoint, of nested codes or of one code length, and what the checkpoint says of it.

    Raises InputError if it holds anything else.
    """
    model, about = checkpoint.load_model(path)
    if not isinstance(model, HashModel) or not (model.nested or len(model.hash_lens) == 1):
        raise InputError(f"{path}: expected a hash model of nested codes or of one code length, such as "
                         f"checkpoints/hash/openmoji_hash.pth")
    return model, about


def check_features(model: HashModel, image: ArrayLike | None, text: ArrayLike | None) -> dict[str, np.ndarray]:
    """The features that are given, by modality: image (n, d_i) and text (n, d_t).

    Raises InputError if there are none, if they are not as wide as the model expects, or if they differ in n.
    """
    features = {name: np.asanyarray(array) for name, array in (("image", image), ("text", text)) if array is not None}
    if not features:
        raise InputError("no features: expected those of images, of texts, or both")
    for name, array in features.items():
        width = model.settings[f"{name}_dim"]
        if array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[1] != width or not len(array):
            raise InputError(f"{name} features: found {array.dtype} of shape {array.shape}; expected numbers, "
                             f"(1 or more rows, {width}), as the model was trained on")
    if len({len(array) for array in features.values()}) > 1:
        raise InputError(f"image features have {len(features['image']):,} rows and text features "
                         f"{len(features['text']):,}; expected as many")
    return features


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


# --- encoding -------------------------------------------------------------------------------------


@torch.inference_mode()
def encode_rows(model: HashModel, features: Mapping[str, np.ndarray], rows: np.ndarray) -> Encoded:
    """Encode some rows of the features, on the device where the model is.

    Raises InputError for features, or outputs of the model, that are not finite.
    """
    device = next(model.parameters()).device
    inputs = {}
    for name, array in features.items():
        with np.errstate(over="ignore"):
            block = np.asarray(array[rows], np.float32)
        sound = (np.abs(block) <= MAX_FEATURE).all(axis=1)  # False for NaN
        if not sound.all():
            raise InputError(f"{name} features: row {rows[np.argmin(sound)]} has NaN, infinity or a number beyond "
                             f"{MAX_FEATURE:g}; expected finite float32 numbers")
        inputs[name] = torch.from_numpy(block).to(device)
    with ENCODING:
        codes, x = (side.float().cpu().numpy() for side in model.encode(**inputs))
    if not np.isfinite(x).all():  # the tanh of infinity is finite
        raise InputError("hash outputs: found NaN or infinity, expected finite numbers")
    return Encoded(metric.sign_codes(codes), x)


def encode(model: HashModel, features: Mapping[str, np.ndarray]) -> Encoded:
    """Encode all rows. Raises InputError as :func:`encode_rows`."""
    parts = [encode_rows(model, features, rows) for rows in _chunks(np.arange(row_count(features)), CHUNK_ROWS)]
    return Encoded(*map(np.concatenate, zip(*parts)))


def packed_codes(model: HashModel, features: Mapping[str, np.ndarray], progress: Progress) -> np.ndarray:
    """The packed codes of all rows, uint8 (n, ceil(bits / 8)). Raises InputError as :func:`encode_rows`."""
    parts = []
    for rows in _chunks(np.arange(row_count(features)), CHUNK_ROWS):
        parts.append(encode_rows(model, features, rows).packed)
        progress(len(rows))
    return np.concatenate(parts)


@contextlib.contextmanager
def on_device(model: HashModel, device: str | torch.device) -> Iterator[None]:
    """Move the model to a device, and back to the CPU afterwards."""
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")


# --- codes.npy ------------------------------------------------------------------------------------


def write_codes(version: NewVersion, model: HashModel, features: Mapping[str, np.ndarray], order: np.ndarray,
                progress: Progress) -> None:
    """Write the packed codes of the items in ``order`` to ``codes.npy``, a chunk at a time.

    It resumes where an interrupted build stopped, unless the features of an item that was encoded have changed since.
    """
    path, width = version.path("codes.npy"), -(-model.width // 8)
    done, read = version.done, hashlib.sha256()
    for rows in _chunks(order[:done], CHUNK_ROWS):
        _update(read, features, rows)
    if done and read.hexdigest() != version.features_hash:
        done, read = 0, hashlib.sha256()
    with open(path, "r+b" if done else "wb") as file:
        start = _write_header(file, (len(order), width))
        file.seek(start + done * width)
        file.truncate()
        progress(done)
        for rows in _chunks(order[done:], CHUNK_ROWS):
            file.write(encode_rows(model, features, rows).packed)
            file.flush()
            os.fsync(file.fileno())
            _update(read, features, rows)
            done += len(rows)
            version.note_progress(done, read.hexdigest())
            progress(len(rows))


def write_merged_codes(file, old: np.ndarray, new: np.ndarray, order: np.ndarray) -> None:
    """Write packed codes (n, bytes) of old and new items as a .npy file; ``order`` counts the new ones after the old.
    """
    _write_header(file, (len(order), new.shape[1]))
    for rows in _chunks(order, COPIED_ROWS):
        block, added = np.empty((len(rows), new.shape[1]), np.uint8), rows >= len(old)
        block[~added], block[added] = old[rows[~added]], new[rows[added] - len(old)]
        file.write(block)


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start:start + size] for start in range(0, len(rows), size))


def _update(digest, features: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
    for array in features.values():
        digest.update(np.ascontiguousarray(array[rows]))


def _write_header(file, shape: tuple[int, ...]) -> int:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()
