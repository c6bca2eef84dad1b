"""The data set that is made: pairs encoded and written as one HDF5 file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import h5py
import numpy as np
from tqdm import tqdm

from common.atomic_files import check_writable, write_atomically
from common.errors import InputError
from extraction import encoders
from extraction.collection import Collection
from formats.hdf5 import fixed_length_text


def multi_hot(names: Sequence[Sequence[str]],
              label_names: Sequence[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """The names of each row's labels as (n, c) uint8, 0 or 1, and the c names: ``label_names``, or without them those
    that any row has, in alphabetical order.
    """
    label_names = sorted({name for row in names for name in row}) if label_names is None else list(label_names)
    number = {name: column for column, name in enumerate(label_names)}
    label = np.zeros((len(names), len(label_names)), np.uint8)
    for row, of_row in enumerate(names):
        label[row, [number[name] for name in of_row]] = 1
    return label, label_names


def make_dataset(out: Path, collection: Collection, clip: str | None = None) -> None:
    """Encode the pairs of a collection, write them to ``out`` and print a line about what is in it.

    Args:
        out: the file to write, which ends in .h5.
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
    captions = [first for first, *_ in collection.captions]
    text = encode.text(tqdm(captions, "texts", disable=None))
    image = encode.image(tqdm(collection.images, "images", len(collection), disable=None))
    arrays = {"image": image.astype(np.float16), "text": text.astype(np.float16), **collection.splits}
    columns = {**collection.columns, "caption": captions}
    if collection.labels is not None:
        arrays["label"], columns["label_names"] = multi_hot(collection.labels, collection.label_names)
    for name, column in columns.items():
        arrays[name] = fixed_length_text(column)
    attributes = {**collection.attributes, "encoders": encode.names}
    write_atomically(out, functools.partial(_write, arrays, attributes), mode="w+b")
    query, retrieval, train = map(len, collection.splits.values())
    print(f"{out}: {len(collection):,} pairs ({query:,} query, {retrieval:,} retrieval, {train:,} of them train), "
          f"image {image.shape[1]}, text {text.shape[1]}, {len(columns.get('label_names', ())) or 'no'} labels")


def _write(arrays: dict[str, np.ndarray], attributes: dict[str, str], target: IO[bytes]) -> None:
    with h5py.File(target, "w") as file:
        file.attrs.update(attributes)
        for name, array in arrays.items():  # without times, so that the same arrays make the same bytes
            file.create_dataset(name, data=array, compression=9, shuffle=True, track_times=False)
