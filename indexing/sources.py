"""Where items and queries come from: a data set, feature files, a text, an image file.

Only what reads a data set imports ``load_data``, which loads PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.errors import InputError
from common.input_files import read_text
from common.npy_files import map_npy
from extraction import encoders
from indexing.index import Index

if TYPE_CHECKING:
    from load_data import Dataset

OTHER_MODALITY = {"image": "text", "text": "image"}


class Items(NamedTuple):
    """Items to be indexed: the arguments of :meth:`Index.build` with these names."""

    image: np.ndarray | None  # features (n, d_i)
    text: np.ndarray | None  # features (n, d_t)
    ids: np.ndarray | None
    columns: dict[str, np.ndarray]
    source: dict

    @property
    def size(self) -> int:
        """The number of items."""
        return _row_count(self.text if self.image is None else self.image)


class Queries(NamedTuple):
    """Queries, and what to call each of them in an answer."""

    features: dict[str, np.ndarray]  # by modality, (q, d)
    names: Iterable[str]


# --- items ----------------------------------------------------------------------------------------


def items_of_split(name_or_path: str, data_dir: str, split: str, modality: str) -> Items:
    """The items of a data set's split, with the features of ``modality`` (``both`` for the two of them, of an image with
    several texts the first).

    Raises InputError as :func:`load_dataset`.
    """
    from load_data import attributes, load_dataset

    data = load_dataset(name_or_path, data_dir)
    rows, made_by = getattr(data, split), attributes(data).get("encoders")
    items = rows.items("text" if modality == "text" else "image")
    return Items(rows.image.numpy() if modality in ("image", "both") else None,
                 rows.text.numpy() if modality == "text" else
                 rows.text[rows.first_text].numpy() if modality == "both" else None, items.index, dict(items.columns),
                 {"dataset": data.name, "path": str(data.path.absolute()), "fingerprint": data.fingerprint,
                  "split": split, "encoders": made_by if isinstance(made_by, str) else None})


def items_of_files(image: Path | None, text: Path | None) -> Items:
    """The items of feature files (.npy). Raises InputError as :func:`read_array`."""
    features = [None if path is None else read_array(path) for path in (image, text)]
    return Items(*features, None, {}, {"files": [str(path) for path in (image, text) if path is not None]})


def read_array(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped; no code from it is run. Raises InputError if it isn't one of numbers."""
    try:
        return map_npy(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as a .npy file of numbers ({reason})") from None


def read_lines(path: Path) -> np.ndarray:
    """The lines of a UTF-8 text file, an array of str. Raises InputError if it can't be read."""
    try:
        return np.array(read_text(path, "utf-8-sig").removesuffix("\n").split("\n"), dtype=object)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as UTF-8 text ({reason})") from None


def _row_count(array: np.ndarray) -> int:
    return len(array) if array.ndim else 0  # a single number is refused when the features are checked


# --- queries --------------------------------------------------------------------------------------


def query_modality(index: Index) -> str:
    """The modality of queries unless another is asked for: the one that the index doesn't hold, or text."""
    return OTHER_MODALITY.get(index.about["modality"], "text")


def text_query(index: Index, text: str, model: str | None = None) -> Queries:
    """A text as a query, for an index whose features were made by an encoder that is installed here.

    Args:
        model: where the model of the index's features is now.

    Raises:
        InputError: no text, or the encoder isn't known or isn't installed.
    """
    if not text.strip():
        raise InputError("--text: empty; give some words")
    if not encoders.is_unicode(text):
        raise InputError(f"--text: not valid text: {text!r}")
    return Queries({"text": _encoder(index, "text", model)([text])}, [text])


def image_query(index: Index, path: str, model: str | None = None) -> Queries:
    """An image file as a query; otherwise as :func:`text_query`."""
    return Queries({"image": _encoder(index, "image", model)([path])}, [Path(path).name])


def file_queries(path: Path, modality: str) -> Queries:
    """The rows of a feature file (.npy) as queries. Raises InputError as :func:`read_array`."""
    features = read_array(path)
    names = (f"{path.name}, row {row}" for row in range(_row_count(features)))  # made when the features are checked
    return Queries({modality: features}, names)


def split_queries(data: Dataset, rows: list[int], modality: str) -> Queries:
    """Rows of a data set's query split as queries. Raises InputError for a row that it doesn't have."""
    for row in rows:
        if not 0 <= row < len(data.query):
            raise InputError(f"--item {row}: expected 0 to {len(data.query) - 1}, the rows of {data.name}'s query "
                             f"split")
    captions = data.query.items("image").columns.get("caption")
    names = [f"{modality} of query {row}" + ("" if captions is None else f": {captions[row]}") for row in rows]
    features = data.query.image[rows] if modality == "image" else data.query.text[data.query.first_text[rows]]
    return Queries({modality: features.numpy()}, names)


def load_source(index: Index, data_dir: str | None = None) -> Dataset:
    """The data set that an index was made from: where it was then, or in ``data_dir``.

    Raises InputError if the index wasn't made from one, or if the data set has changed since.
    """
    from load_data import load_dataset

    source = index.about["source"]
    if "dataset" not in source:
        raise InputError(f"{index.folder}: made from feature files, not from a data set; search with --features")
    data = load_dataset(source["dataset"] if data_dir else source["path"], data_dir or "data")
    if data.fingerprint != source["fingerprint"]:
        raise InputError(f"{data.path}: not the data set that {index.folder} was made from (its fingerprint differs); "
                         f"name the folder of that one with --data_dir, or build again")
    return data


def check_same_encoders(index: Index, items: Items) -> None:
    """Raise InputError if the index and the items to add name different encoders as the makers of their features."""
    known = [source.get("encoders") for source in (index.about["source"], items.source)]
    if None not in known and not encoders.same(*known):
        raise InputError(f"{index.folder}: its features were made by {known[0]}, those to add by {known[1]}; "
                         f"their codes can't be compared")


def _encoder(index: Index, modality: str, model: str | None):
    recorded = index.about["source"].get("encoders")
    if recorded is None:
        raise InputError(f"--{modality}: the index doesn't say which encoder made its features, so that no other query "
                         f"can be encoded like them; search with --item, or --features and the same encoder")
    return encoders.like(recorded, modality, model)
