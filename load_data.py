"""Data sets of image-text pairs: read, checked, and held once as contiguous tensors.

A data set is a folder ``data/<name>/`` with ``train.pkl``, ``query.pkl`` and ``retrieval.pkl``, or with one
``.h5``, ``.mat`` or ``.npz`` file, or several that are one data set together; ``data/README.md`` describes the layouts
and key names.
``python load_data.py NAME`` checks a data set and prints what is in it; ``--convert OUT.h5`` also writes it
as one HDF5 file.

How it is read: ``formats/`` knows the file formats and gives arrays by name; ``pairs/`` finds the splits among them
(layouts), reads and checks their rows, brings labels to one form, and counts what is odd.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Mapping, NamedTuple, Sequence

import h5py
import numpy as np
import torch

from common.atomic_files import write_atomically
from common.errors import InputError, Parser, exit_on_bad_input, listing
from formats.arrays import library_errors, wrap
from formats.hdf5 import fixed_length_text, new_hdf5
from formats.reading import READERS
from pairs.labels import unify_labels
from pairs.layouts import read_files, read_pickles, read_tables, split_pickles
from pairs.oddities import find_oddities
from pairs.rows import FIELDS, OWNERS, SPLITS, Rows, Texts, check_widths


# --- what a caller gets ---------------------------------------------------------------------------


@dataclass
class Split:
    """The pairs of one split: row i of every member belongs to the same pair.

    An image can have several texts: then there are m > n of them, ``texts`` says which image each belongs to, and all
    else is by image.
    """

    image: torch.Tensor  # (n, d_i) float32, contiguous
    text: torch.Tensor  # (m, d_t) float32, contiguous
    label: torch.Tensor  # (n, c) uint8, 0 or 1, contiguous; (n, 0) without labels
    index: np.ndarray  # (n,) int64, the row's number in its file
    meta: dict[str, np.ndarray]  # the file's further columns by name, each (n,)
    types: dict[str, str] = field(default_factory=dict)  # of image, text and label, as they are stored
    texts: Texts | None = None  # None: m = n, and row i of text belongs to row i of image

    def __len__(self) -> int:
        return len(self.image)

    @functools.cached_property
    def image_of_text(self) -> torch.Tensor:
        """The row of the image that each text belongs to, (m,) int64, never falling."""
        return torch.arange(len(self)) if self.texts is None else torch.from_numpy(self.texts.image)

    @functools.cached_property
    def first_text(self) -> torch.Tensor:
        """The row of the first text of each image, (n,) int64."""
        return torch.searchsorted(self.image_of_text, torch.arange(len(self)))

    @functools.cached_property
    def text_label(self) -> torch.Tensor:
        """The labels of the texts, those of their images, (m, c)."""
        return self.label if self.texts is None else self.label[self.image_of_text]

    def texts_of(self, images: slice) -> slice:
        """The rows of the texts of consecutive images."""
        start, stop, _ = images.indices(len(self))
        return slice(*torch.searchsorted(self.image_of_text, torch.tensor([start, stop])).tolist())

    def items(self, modality: str) -> Items:
        """The images or the texts as items of their own: a text has the labels and the columns of its image, an image
        the first entry of what is by text, such as its first caption.
        """
        if self.texts is None:
            return Items(self.label, self.index, self.meta)
        if modality == "image":
            first = self.first_text.numpy()
            return Items(self.label, self.index, self.meta | {key: column[first]
                                                              for key, column in self.texts.meta.items()})
        return Items(self.text_label, self.texts.index, {key: column[self.texts.image]
                                                         for key, column in self.meta.items()} | self.texts.meta)


class Items(NamedTuple):
    """What is known of k images or k texts besides their features."""

    label: torch.Tensor  # (k, c)
    index: np.ndarray  # (k,), each one's number in its file
    columns: dict[str, np.ndarray]  # by name, each (k,)


@dataclass
class Dataset:
    """A data set that passed every check. If train is a run of the rows of retrieval, both share their memory."""

    name: str
    path: Path | None  # the file or folder it came from; None if it was made from arrays
    train: Split
    query: Split
    retrieval: Split
    label_names: list[str] | None
    warnings: list[str] = field(default_factory=list)  # what is odd but stops nothing, with counts

    @property
    def image_dim(self) -> int:
        return self.train.image.shape[1]

    @property
    def text_dim(self) -> int:
        return self.train.text.shape[1]

    @property
    def num_classes(self) -> int:
        """0 if the data set has no labels."""
        return self.train.label.shape[1]

    def require_labels(self, why: str) -> None:
        """Raise InputError if there are no labels; ``why`` is a clause that says what they are needed for."""
        if not self.num_classes:
            raise InputError(f"{self.path or self.name}: found no labels; {why}, which needs a label array in every "
                             f"split (ICMR.py trains and tests hash codes without them)")

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shapes and bytes of all features and labels, whatever file they came in."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for key in FIELDS:
                array = getattr(getattr(self, split), key).numpy()
                digest.update(f"{split}/{key} {array.shape} {array.dtype}\n".encode())
                digest.update(array)
            if (texts := getattr(self, split).texts) is not None:
                digest.update(f"{split}/{OWNERS}\n".encode())
                digest.update(texts.image)
        return digest.hexdigest()


def load_dataset(name_or_path: str | Path, data_dir: str | Path = "data") -> Dataset:
    """Load and check a data set: a folder of ``data_dir`` by its name, or any folder or file by its path.

    Raises InputError for whatever is not a sound data set, in one line: file, key, what was found, what was expected.
    """
    path = _locate(str(name_or_path), Path(data_dir))
    with library_errors(str(path)):
        if path.is_dir():
            name = Path(os.path.abspath(path)).name  # of a link its own, not that of the folder it leads to
            inside = sorted(each for each in path.iterdir() if not each.name.startswith("."))
        else:
            name, inside = path.stem, [path]
    files = [file for file in inside if file.suffix.lower() in READERS]
    pickles = [file for file in inside if file.suffix.lower() == ".pkl"]
    if files and not pickles:
        where = files[0] if len(files) == 1 else path
        return _to_dataset(name, where, *read_files(where, files))
    by_split = split_pickles(pickles)
    if files or by_split is None:
        found = listing(file.name for file in pickles + files or inside)
        raise InputError(f"{path}: found {found}; expected a folder with train.pkl, query.pkl, retrieval.pkl, or with "
                         f"{', '.join(READERS)} files that are one data set, or the path of such a file")
    return _to_dataset(name, path, *read_pickles(by_split))


def dataset_from_arrays(train: Mapping[str, object], query: Mapping[str, object],
                        retrieval: Mapping[str, object], label_names: list[str] | None = None,
                        name: str = "arrays") -> Dataset:
    """A data set from arrays in memory, checked like one from a file.

    Each split maps ``image`` to (n, d_i), ``text`` to (n, d_t), ``label`` to (n, c) or (n,), and any further
    column to (n,); ``label`` may be missing from all three. Where images have several texts, ``text`` is (m, d_t) and
    ``image_of_text`` (m,) has the row of the image of each. If ``train`` and ``retrieval`` are one object, its rows are
    held once. Raises InputError.
    """
    tables = {split: wrap(f"{name}: {split}", table) for split, table in (("train", train), ("query", query))}
    tables["retrieval"] = tables["train"] if retrieval is train else wrap(f"{name}: retrieval", retrieval)
    return _to_dataset(name, None, read_tables(name, tables), label_names)


def save_hdf5(dataset: Dataset, path: str | Path) -> None:
    """Write ``dataset`` as one table of all pairs with the row numbers of each split, ``train_idx`` and so on.

    The file appears complete or not at all; loading it gives the same fingerprint. Raises InputError if the name does
    not end in .h5, is that of the data set's own file, lies in the data set's own folder, or cannot be written.
    """
    if Path(path).suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{path}: found file type {Path(path).suffix!r}; expected .h5")
    if dataset.path is not None and os.path.exists(path) and os.path.samefile(dataset.path, path):
        raise InputError(f"{path}: is the data set's own file; expected another")
    if dataset.path is not None and dataset.path.is_dir() and Path(path).resolve().parent == dataset.path.resolve():
        raise InputError(f"{path}: lies in the folder of the data set, whose files are read together; expected another "
                         f"folder")
    write_atomically(path, functools.partial(_write_hdf5, dataset), mode="w+b")


def attributes(dataset: Dataset) -> dict[str, object]:
    """The attributes of the HDF5 file that the data set came from, such as its licence and encoders.

    Empty if it came from another file, or from none. Raises InputError if the file cannot be read any more.
    """
    if dataset.path is None or dataset.path.suffix.lower() not in (".h5", ".hdf5", ".h5py"):
        return {}
    with library_errors(str(dataset.path)), h5py.File(dataset.path) as file:
        return dict(file.attrs)


# --- from a name to checked splits ----------------------------------------------------------------


def _locate(name: str, data_dir: Path) -> Path:
    """The folder or file that ``name`` means; a folder of ``data_dir`` comes first, in upper or lower case."""
    with library_errors(str(data_dir)):
        names = sorted(item.name for item in data_dir.iterdir() if item.is_dir()) if data_dir.is_dir() else []
    same = [other for other in names if other.casefold() == name.casefold()]
    if name in names or len(same) == 1:
        return data_dir / (name if name in names else same[0])
    if name and os.path.exists(name):
        return Path(name)
    close = difflib.get_close_matches(name.casefold(), names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise InputError(f"no data set {name!r}: found {listing(names)} in {data_dir.absolute()}; "
                     f"expected one of these, a path, or another folder with --data_dir{hint}")


def _to_dataset(name: str, path: Path | None, rows: Mapping[str, Rows], label_names: list[str] | None) -> Dataset:
    """Check the splits against each other, and hold what they have in common once."""
    where = str(path or name)
    for key in ("image", "text"):
        check_widths(where, f"{key} features", {split: getattr(rows[split], key) for split in SPLITS})
    label_names = unify_labels(where, rows, label_names)
    train, retrieval = rows["train"], rows["retrieval"]
    if train is not retrieval:  # UCMFH's train file repeats the start of its retrieval file: hold it once
        start = retrieval.part(slice(len(train.index)))
        if all(np.array_equal(getattr(train, key), getattr(start, key)) for key in FIELDS) and (
                train.texts is None or np.array_equal(train.texts.image, start.texts.image)):
            train.image, train.text, train.label = start.image, start.text, start.label
    notes = dict.fromkeys(line for part in rows.values() for line in part.notes)
    warnings = [*notes, *find_oddities(rows)]
    of_texts = {key for part in rows.values() if part.texts is not None for key in part.texts.meta}
    if any(part.texts is not None for part in rows.values()):
        for part in rows.values():
            if part.texts is None:  # one text an image here, but not in every split
                columns = {key: part.meta.pop(key) for key in of_texts & part.meta.keys()}
                part.texts = Texts(np.arange(len(part.index)), part.index, columns)
    splits = {split: _to_split(rows[split]) for split in SPLITS}
    if train is retrieval:
        splits["retrieval"] = splits["train"]
    return Dataset(name, path, **splits, label_names=label_names, warnings=warnings)


def _to_split(rows: Rows) -> Split:
    tensors = (torch.from_numpy(array) for array in (rows.image, rows.text, rows.label))
    return Split(*tensors, rows.index, rows.meta, rows.types, rows.texts)


# --- writing ----------------------------------------------------------------------------------------


def _write_hdf5(dataset: Dataset, target: IO[bytes]) -> None:
    offset = _offset(dataset.train, dataset.retrieval)
    parts = [dataset.retrieval, dataset.query] + [dataset.train] * (offset is None)
    starts = np.cumsum([0, *map(len, parts)])
    first = {"train": starts[2] if offset is None else offset, "query": starts[1], "retrieval": 0}
    with new_hdf5(target) as file:
        file.attrs.update(attributes(dataset))
        for key in FIELDS if dataset.num_classes else FIELDS[:2]:
            _write_joined(file, key, [getattr(part, key).numpy() for part in parts])
        if any(part.texts is not None for part in parts):
            file[OWNERS] = np.concatenate([part.image_of_text.numpy() + start for part, start in zip(parts, starts)])
        for split in SPLITS:
            file[f"{split}_idx"] = np.arange(first[split], first[split] + len(getattr(dataset, split)))
        columns = {key: np.concatenate([part.meta[key] if key in part.meta else part.texts.meta[key] for part in parts])
                   for key in _common_columns(dataset)}
        if dataset.label_names is not None:
            columns["label_names"] = np.array(dataset.label_names)
        for key, column in columns.items():
            file[key] = fixed_length_text(column) if column.dtype.kind == "U" else column


def _write_joined(file: h5py.File, key: str, arrays: list[np.ndarray]) -> None:
    """Write arrays one below the other, without joining them in memory."""
    starts = np.cumsum([0, *map(len, arrays)])
    stored = file.create_dataset(key, (starts[-1], arrays[0].shape[1]), arrays[0].dtype)
    for start, array in zip(starts, arrays):
        stored[start:start + len(array)] = array


def _common_columns(dataset: Dataset) -> list[str]:
    """The names of the columns that every split has, by pair or by text; no other has a place in one table of all pairs.
    """
    splits = [getattr(dataset, split) for split in SPLITS]
    by_pair = set.intersection(*(set(split.meta) for split in splits))
    return sorted(by_pair | set.intersection(*(_columns(split) - set(split.meta) for split in splits)))


def _columns(split: Split) -> set[str]:
    """The names of the columns of a split, by pair or by text."""
    return {*split.meta, *(split.texts.meta if split.texts is not None else ())}


def _offset(split: Split, database: Split) -> int | None:
    """The row of ``database`` at which ``split`` begins, if they share memory; None if ``split`` has its own."""
    rows, rest = divmod(split.image.data_ptr() - database.image.data_ptr(), 4 * database.image.shape[1])
    return rows if rest == 0 and 0 <= rows <= len(database) - len(split) else None


# --- the command ----------------------------------------------------------------------------------


def _describe(dataset: Dataset) -> str:
    lines = [f"{dataset.name} ({dataset.path}): {dataset.image_dim} image features, "
             f"{dataset.text_dim} text features, {dataset.num_classes or 'no'} classes"]
    for name in SPLITS:
        split = getattr(dataset, name)
        held = ", a run of retrieval" * (name == "train" and _offset(split, dataset.retrieval) is not None)
        texts = f", {len(split.text):,} texts" * (split.texts is not None)
        labels = f", {split.label.sum(dtype=torch.int64) / len(split):.2f} labels a row" * (dataset.num_classes > 0)
        lines.append(f"  {name:<9} {len(split):>9,} pairs{texts}{labels}{held}")
    lines += [f"  warning: {warning}" for warning in dataset.warnings]
    return "\n".join([*lines, f"  fingerprint {dataset.fingerprint}"])


@exit_on_bad_input
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Check a data set and print what is in it.")
    parser.add_argument("dataset", help="the name of a folder in --data_dir, or a path")
    parser.add_argument("--data_dir", default="data", help="where the data sets are (default: data)")
    parser.add_argument("--convert", metavar="OUT.h5", help="also write the data set as one HDF5 file")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.dataset, options.data_dir)
    print(_describe(dataset))
    if options.convert:
        save_hdf5(dataset, options.convert)
        some = {key for split in SPLITS for key in _columns(getattr(dataset, split))} - set(_common_columns(dataset))
        if some:
            print(f"left out, since not every split has it: {', '.join(sorted(some))}")
        print(f"written to {options.convert}")


if __name__ == "__main__":
    main()
