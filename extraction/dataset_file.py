"""The data set that is made: pairs encoded, split at random, and written as one HDF5 file."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import h5py
import numpy as np
from tqdm import tqdm

from common.atomic_files import check_writable, write_atomically
from common.errors import InputError
from extraction import encoders
from formats.hdf5 import fixed_length_text

if TYPE_CHECKING:
    from PIL.Image import Image


def split(count: int, queries: int, seed: int, train: int | None = None) -> dict[str, np.ndarray]:
    """``query_idx``, ``retrieval_idx``, ``train_idx``: sorted row numbers, int32; train is part of retrieval.

    The queries are the first ``queries`` of ``numpy.random.default_rng(seed).permutation(count)``; the rest is
    retrieval, and its first ``train`` (all of it, if not given) are train.
    """
    rows = np.random.default_rng(seed).permutation(count).astype(np.int32)
    rest = rows[queries:]
    return {"query_idx": np.sort(rows[:queries]), "retrieval_idx": np.sort(rest), "train_idx": np.sort(rest[:train])}


def multi_hot(names: Sequence[Sequence[str]]) -> tuple[np.ndarray, list[str]]:
    """The names of each row's labels as (n, c) uint8, 0 or 1, and the c names in alphabetical order."""
    label_names = sorted({name for row in names for name in row})
    number = {name: column for column, name in enumerate(label_names)}
    label = np.zeros((len(names), len(label_names)), np.uint8)
    for row, of_row in enumerate(names):
        label[row, [number[name] for name in of_row]] = 1
    return label, label_names


def make_dataset(out: Path, images: Iterable[Image | Path], labels: Sequence[Sequence[str]] | None,
                 splits: dict[str, np.ndarray], strings: dict[str, list[str]], attributes: dict[str, str],
                 clip: str | None = None) -> None:
    """Encode n pairs, write them to ``out`` and print a line about what is in it.

    Args:
        out: the file to write, which ends in .h5.
        images: n images or their files.
        labels: the names of each pair's labels, or None if there are no labels.
        splits: those of :func:`split`.
        strings: columns of n strings by name, one of them ``caption``, of which the text features are made.
        attributes: of the file, such as its source and licence.
        clip: the CLIP model to encode with; without it, EfficientNet-Lite0 and all-MiniLM-L6-v2 are taken.

    Raises InputError, as far as possible before the work begins, if the file can't be written, an encoder is missing or
    an image can't be read.
    """
    if out.suffix != ".h5" or out.is_dir():
        raise InputError(f"--out {out}: found {'a folder' if out.is_dir() else f'file type {out.suffix!r}'}; "
                         "expected the name of a .h5 file")
    # A missing package or model, or a folder that can't be written to, is found before minutes of work.
    encode = encoders.packaged() if clip is None else encoders.clip(clip)
    check_writable(out.parent, "out")
    count = len(strings["caption"])
    text = encode.text(tqdm(strings["caption"], "texts", disable=None))
    image = encode.image(tqdm(images, "images", count, disable=None))
    arrays = {"image": image.astype(np.float16), "text": text.astype(np.float16), **splits}
    columns = dict(strings)
    if labels is not None:
        arrays["label"], columns["label_names"] = multi_hot(labels)
    for name, column in columns.items():
        arrays[name] = fixed_length_text(column)
    write_atomically(out, functools.partial(_write, arrays, {**attributes, "encoders": encode.names}), mode="w+b")
    query, retrieval, train = map(len, splits.values())
    print(f"{out}: {count:,} pairs ({query:,} query, {retrieval:,} retrieval, {train:,} of them train), "
          f"image {image.shape[1]}, text {text.shape[1]}, {len(columns.get('label_names', ())) or 'no'} labels")


def _write(arrays: dict[str, np.ndarray], attributes: dict[str, str], target: IO[bytes]) -> None:
    with h5py.File(target, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():  # without times, so that the same arrays make the same bytes
            file.create_dataset(name, data=array, compression=9, shuffle=True, track_times=False)
