"""From features to hash codes, with the model of a checkpoint, a chunk of rows at a time.

:func:`encode_rows` is the one place where a model is asked for codes. Queries are encoded without it, and without
PyTorch, where :func:`numpy_heads` computes the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import metric
from common.errors import InputError
from indexing.features import CHUNK_ROWS, Encoded, Progress, check_outputs, chunks, read_rows, row_count
from indexing.folder import NewVersion, write_header
from indexing.heads import Heads
from model import HashModel
from training import checkpoint

PROBES = 64  # random rows by which the heads in NumPy are compared with the model
TOLERANCE = 1e-3  # of their x, whose standard deviation is about 1
ENCODING = threading.Lock()  # a head holds x of its last call: one thread at a time


def load_model(path: Path) -> tuple[HashModel, dict]:
    """The hash model of a checkpoint, of nested codes or of one code length, and what the checkpoint says of it.

    Raises InputError if it holds anything else.
    """
    model, about = checkpoint.load_model(path)
    if not isinstance(model, HashModel) or not (model.nested or len(model.hash_lens) == 1):
        raise InputError(f"{path}: expected a hash model of nested codes or of one code length, such as "
                         f"checkpoints/hash/openmoji_hash.pth")
    return model, about


def widths_of(model: HashModel) -> dict[str, int]:
    """The size of the features of each modality."""
    return {name: model.settings[f"{name}_dim"] for name in ("image", "text")}


@torch.inference_mode()
def encode_rows(model: HashModel, features: Mapping[str, np.ndarray], rows: np.ndarray) -> Encoded:
    """Encode some rows of the features, on the device where the model is.

    Raises InputError for features, or outputs of the model, that are not finite.
    """
    device = next(model.parameters()).device
    inputs = {name: torch.from_numpy(block).to(device) for name, block in read_rows(features, rows).items()}
    with ENCODING:
        codes, x = (side.float().cpu().numpy() for side in model.encode(**inputs))
    check_outputs(x)
    return Encoded(metric.sign_codes(codes), x)


def encode(model: HashModel, features: Mapping[str, np.ndarray]) -> Encoded:
    """Encode all rows. Raises InputError as :func:`encode_rows`."""
    parts = [encode_rows(model, features, rows) for rows in chunks(np.arange(row_count(features)), CHUNK_ROWS)]
    return Encoded(*map(np.concatenate, zip(*parts)))


def stored_rows(model: HashModel, features: Mapping[str, np.ndarray], outputs: bool,
                progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
    """What ``codes.npy``, and with ``outputs`` ``outputs.npy``, are to hold of all rows. Raises InputError as
    :func:`encode_rows`.
    """
    parts = []
    for rows in chunks(np.arange(row_count(features)), CHUNK_ROWS):
        encoded = encode_rows(model, features, rows)
        parts.append((encoded.packed, encoded.outputs) if outputs else (encoded.packed,))
        progress(len(rows))
    codes, *x = map(np.concatenate, zip(*parts))
    return codes, x[0] if outputs else None


def numpy_heads(model: HashModel) -> Heads | None:
    """The model's heads in NumPy; None if they don't compute what it does: with UCMFH's transformer, or if ``model.py``
    has been changed since.

    The two are compared on random features. Where x is within rounding of 0 they may differ in the sign, hence in a
    bit. Raises InputError for outputs of the model that are not finite.
    """
    if model.FuseTrans is not None:
        return None
    random = np.random.default_rng(0)
    probes = {name: random.normal(size=(PROBES, width)).astype(np.float32) for name, width in widths_of(model).items()}
    given = {"image": probes["image"]}, {"text": probes["text"]}, probes
    expected = [encode_rows(model, features, np.arange(PROBES)) for features in given]
    try:
        heads = Heads.of(model)
        same = all(np.allclose(heads.encode(features).x, encoded.x, rtol=TOLERANCE, atol=TOLERANCE)
                   and np.array_equal(encoded.codes, metric.sign_codes(encoded.x))  # a head's forward gives both
                   for features, encoded in zip(given, expected))
    except (KeyError, AttributeError, ValueError):  # model.py has other layers
        same = False
    return heads if same else None


@contextlib.contextmanager
def on_device(model: HashModel, device: str | torch.device) -> Iterator[None]:
    """Move the model to a device, and back to the CPU afterwards."""
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")


# --- codes.npy, outputs.npy -----------------------------------------------------------------------


def write_codes(version: NewVersion, model: HashModel, features: Mapping[str, np.ndarray], order: np.ndarray,
                outputs: bool, progress: Progress) -> None:
    """Write the packed codes of the items in ``order`` to ``codes.npy``, and with ``outputs`` their x to
    ``outputs.npy``, a chunk at a time.

    It resumes where an interrupted build stopped, unless the features of an item that was encoded, or what was written
    of it, have changed since.
    """
    files = {"codes.npy": (np.uint8, -(-model.width // 8))}
    if outputs:
        files["outputs.npy"] = (np.int8, model.width)
    with contextlib.ExitStack() as stack:
        opened = []
        for name, (dtype, width) in files.items():
            version.path(name).touch()
            file = stack.enter_context(open(version.path(name), "r+b"))
            opened.append((file, width, write_header(file, dtype, (len(order), width))))
        done, digest = 0, hashlib.sha256()
        for rows in chunks(order[:version.done], CHUNK_ROWS):
            _update(digest, features, rows, [file.read(len(rows) * width) for file, width, _ in opened])
            done += len(rows)
        if digest.hexdigest() != version.digest:
            done, digest = 0, hashlib.sha256()
        for file, width, start in opened:
            file.seek(start + done * width)
            file.truncate()
        progress(done)
        for rows in chunks(order[done:], CHUNK_ROWS):
            encoded = encode_rows(model, features, rows)
            blocks = [encoded.packed, encoded.outputs][:len(opened)]
            for (file, _, _), block in zip(opened, blocks):
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
            _update(digest, features, rows, blocks)
            done += len(rows)
            version.note_progress(done, digest.hexdigest())
            progress(len(rows))


def _update(digest, features: Mapping[str, np.ndarray], rows: np.ndarray, blocks: list) -> None:
    """Digest the features of some rows, and what is written of them."""
    for block in (*(np.ascontiguousarray(array[rows]) for array in features.values()), *blocks):
        digest.update(block)
