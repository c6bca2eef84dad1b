"""The rows of one table of image-text pairs: its arrays, checked, as features, labels and further columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from common.errors import InputError, listing
from formats.arrays import Array
from pairs.spellings import FIELD_SPELLINGS

SPLITS = ("train", "query", "retrieval")
FIELDS = ("image", "text", "label")
OWNERS = "image_of_text"  # the array that says which row of ``image`` each row of ``text`` belongs to
MAPPED_BYTES = 1 << 30  # float32 features from this size on stay in their HDF5 file, if they lie there uncompressed
MAX_FEATURE = 1e17  # the sum of the squares of all features of a row must fit float32


@dataclass
class Rows:
    """A split as read; its labels are not yet in the form that all splits share."""

    image: np.ndarray  # (n, d_i) float32
    text: np.ndarray  # (m, d_t) float32
    label: np.ndarray  # (n, c) uint8 multi-hot, or (n,) int64 class numbers
    index: np.ndarray  # (n,) the row's number in its file
    meta: dict[str, np.ndarray]  # further columns by name, each (n,)
    notes: list[str]  # arrays that are no column of the table or lie transposed, in words
    found: str  # where the table is and the keys in it, in words
    types: dict[str, str]  # of the fields, as they are stored
    texts: Texts | None = None  # None: m = n, and row i of text belongs to row i of image

    def part(self, rows: slice) -> Rows:
        """Some consecutive rows, which share the memory of these."""
        texts, of_text = None, rows
        if self.texts is not None:
            start, stop, _ = rows.indices(len(self.index))
            of_text = slice(*np.searchsorted(self.texts.image, [start, stop]))
            texts = Texts(self.texts.image[of_text] - start, self.texts.index[of_text],
                          {key: column[of_text] for key, column in self.texts.meta.items()})
        return Rows(self.image[rows], self.text[of_text], self.label[rows], self.index[rows],
                    {key: column[rows] for key, column in self.meta.items()}, self.notes, self.found,
                    self.types, texts)


@dataclass
class Texts:
    """What is known of the texts of a split where images have several of them."""

    image: np.ndarray  # (m,) int64, the row of the image that each belongs to, never falling
    index: np.ndarray  # (m,) the text's number in its file
    meta: dict[str, np.ndarray]  # columns by name that have an entry a text, each (m,)


def read_rows(where: str, arrays: Mapping[str, Array],
              selections: Sequence[np.ndarray | None] = (None,)) -> list[Rows]:
    """Read each array of a table once, and deal its rows out.

    Args:
        where: the file or the table, for messages.
        arrays: by name; the fields in any of FIELD_SPELLINGS, further columns, and OWNERS where images have several
            texts.
        selections: row numbers (n,) for each part that is wanted; None for all rows, in order.

    Returns the rows of each selection. Raises InputError if a field is missing, or its shape or a value is wrong.
    """
    owners = arrays.get(OWNERS)
    image, text, *label = fields = fields_of(where, arrays)
    for array in (image, text):
        check_features(array)
    count = image.shape[0]
    if count == 0:
        raise InputError(f"{image.where}: found 0 rows; expected at least one pair")
    owner = np.arange(count) if owners is None else _read_owners(owners, count)
    for array, rows, of in [(text, len(owner), image if owners is None else owners), *((each, count, image)
                                                                                      for each in label)]:
        if array.shape[:1] != (rows,):
            raise InputError(f"{array.where}: found shape {array.shape}; expected {rows:,} rows, as {of.where} has")
    several = len(owner) > count
    columns, text_columns = {}, {}
    notes = [f"{array.where}: lies transposed in its file, and is read as {count:,} rows" for array in fields
             if array.turned]
    for key, array in arrays.items():
        if array in fields or array is owners:
            continue
        column = array.is_column() and array.dtype.kind in "iufbSU"
        if column and max(array.shape) in (count, len(owner)):
            of = columns if max(array.shape) == count else text_columns
            of[key] = _checked_text(array, array.column())
        else:
            notes.append(f"{array.where}: {array.dtype} of shape {array.shape} is no column of the {count:,} rows "
                         f"and is left out")
    indices = [np.arange(count) if rows is None else rows for rows in selections]
    of_texts = [_texts_of(owner, index) if several else None for index in indices]
    text_selections = [None if rows is None else rows if texts is None else texts[0]
                       for rows, texts in zip(selections, of_texts)]
    # Labels first: those of a pickle, in int64, are let go before the features are copied.
    labels = (_read_labels(*label, selections) if label else
              [np.empty((len(rows), 0), np.uint8) for rows in indices])
    images, texts = (_deal(array, chosen, np.float32, _check_finite)
                     for array, chosen in ((image, selections), (text, text_selections)))
    metas = [{key: column[index] for key, column in columns.items()} for index in indices]
    found = f"{where}: found keys {listing(arrays)}"
    types = {name: str(array.dtype) for name, array in zip(FIELDS, fields)}
    more = [None if each is None else Texts(each[1], each[0], {key: column[each[0]]
                                                              for key, column in text_columns.items()})
            for each in of_texts]
    return [Rows(*parts, notes, found, types, each)
            for *parts, each in zip(images, texts, labels, indices, metas, more)]


def _read_owners(array: Array, count: int) -> np.ndarray:
    """The row of the image that each text belongs to, (m,) int64. Raises InputError unless every image has a text, and
    the texts come in the order of the images.
    """
    owner = whole_numbers(array, count, "row numbers of images") if array.is_column() else None
    if owner is None or np.any(np.diff(owner) < 0):
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}"
                         + ("" if owner is None else ", whose numbers fall") + "; expected the row of its image for "
                         "each text, in the order of the images")
    if len(without := np.setdiff1d(np.arange(count), owner)):
        raise InputError(f"{array.where}: image {without[0]} has no text; expected one or more for every image")
    return owner


def _texts_of(owner: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texts of some images, in their order: row numbers (k,), and the place in ``rows`` of the image of each."""
    first, last = np.searchsorted(owner, rows), np.searchsorted(owner, rows, "right")
    place = np.repeat(np.arange(len(rows)), last - first)
    within = np.arange(len(place)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    return first[place] + within, place


def _checked_text(array: Array, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "U" and column.dtype.itemsize:
        codes = np.ascontiguousarray(column).view(f"{column.dtype.byteorder}u4").reshape(len(column), -1)
        bad = ((codes >= 0xD800) & (codes <= 0xDFFF) | (codes > 0x10FFFF)).any(axis=1)
        if bad.any():
            raise InputError(f"{array.where}: row {bad.argmax()} is not valid text; expected whole characters")
    return column


def fields_of(where: str, arrays: Mapping[str, Array]) -> list[Array]:
    """The arrays of images, texts and, if there are any, labels, with a pair a row: some files have a pair a column.

    The pairs are on the one axis that has the same length in every field. Arrays whose first axis that is not are
    turned in place; where no axis or more than one is, or images have several texts, all are left as they are, for the
    checks to find. Raises InputError if one is missing.
    """
    labelled = any(FIELD_SPELLINGS.get(key) == "label" for key in arrays)
    fields = [_pick(where, arrays, name) for name in FIELDS if name != "label" or labelled]
    pairs = set.intersection(*(set(array.shape) for array in fields))
    if len({array.shape[:1] for array in fields}) > 1 and len(pairs) == 1 and OWNERS not in arrays:
        for array in fields:
            if len(array.shape) == 2 and array.shape[0] not in pairs:
                array.turn()
    return fields


def _pick(where: str, arrays: Mapping[str, Array], name: str) -> Array:
    """The array of the field ``name``. If it is there in several spellings, the plain one is meant. InputError."""
    spelled = [key for key in arrays if FIELD_SPELLINGS.get(key) == name]
    if name in spelled or len(spelled) == 1:
        return arrays[name if name in spelled else spelled[0]]
    problem = f"several {name} arrays" if spelled else f"no {name} array"
    raise InputError(f"{where}: {problem}: found keys {listing(spelled or arrays)}; expected one {name!r}")


def check_features(array: Array) -> None:
    """Raise InputError unless the array is one of numbers, (rows, features)."""
    if len(array.shape) != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected numbers, (rows, features)")


def _deal(array: Array, selections: Sequence[np.ndarray | None], dtype: type,
          check: Callable[[np.ndarray, Array, int], None]) -> list[np.ndarray]:
    """Stream ``array`` through ``check`` and return the rows of each selection as one contiguous array.

    A large array that lies in its file as it would in memory stays there, if every selection is consecutive rows.
    """
    count, width = array.shape
    runs = [slice(0, count) if rows is None else _as_slice(rows) for rows in selections]
    if array.place and array.dtype == dtype and count * width * array.dtype.itemsize >= MAPPED_BYTES and all(runs):
        start = 0
        for block in array.blocks():
            check(block, array, start)
            start += len(block)
        return [array.map()[run] for run in runs]
    try:
        outs = [np.empty((count if rows is None else len(rows), width), dtype) for rows in selections]
    except MemoryError:
        raise InputError(f"{array.where}: found shape {array.shape}; "
                         f"expected what fits into memory as {np.dtype(dtype)}") from None
    places = [np.full(count, -1) for _ in selections]  # where each row of the file goes; -1: nowhere
    for rows, place in zip(selections, places):
        if rows is not None:
            place[rows] = np.arange(len(rows))
    start = 0
    for block in array.blocks():
        stop = start + len(block)
        if block.dtype == bool:
            block = block.view(np.uint8)  # the bool of a damaged file may be neither 0 nor 1
        if dtype == np.float32:
            with np.errstate(over="ignore"):  # the check finds the infinity
                block = block.astype(np.float32, copy=False)
        check(block.T if array.transposed else block, array, 0 if array.transposed else start)
        for rows, place, out in zip(selections, places, outs):
            if array.transposed:
                out[:, start:stop] = block.T if rows is None else block.T[rows]
            elif rows is None:
                out[start:stop] = block
            else:
                kept = place[start:stop] >= 0
                out[place[start:stop][kept]] = block[kept]
        start = stop
    array.stream = None  # it is read only once, and values that were in memory can be freed now
    return outs


def _as_slice(rows: np.ndarray) -> slice | None:
    """The row numbers as a slice, if they are consecutive."""
    return slice(int(rows[0]), int(rows[0]) + len(rows)) if (np.diff(rows) == 1).all() else None


def _check_finite(block: np.ndarray, array: Array, first_row: int) -> None:
    sound = np.abs(block) <= MAX_FEATURE  # False for NaN
    if not sound.all():
        row, column = np.argwhere(~sound)[0]
        raise InputError(f"{array.where}: found {block[row, column]} in row {first_row + row}; "
                         f"expected finite float32 numbers, at most {MAX_FEATURE:g} in size")


def _check_multi_hot(block: np.ndarray, array: Array, first_row: int) -> None:
    good = (block == 0) | (block == 1)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise InputError(f"{array.where}: found {block[row, column]} in row {first_row + row}; "
                         "expected 0 or 1 (or a single column of class numbers)")


def _read_labels(array: Array, selections: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Labels of several columns are multi-hot. A single column holds class numbers, even if all of them are 0 or 1."""
    if array.dtype.kind in "fiub" and len(array.shape) == 2 and array.shape[1] > 1:
        return _deal(array, selections, np.uint8, _check_multi_hot)
    if array.dtype.kind not in "fiub" or not array.is_column():
        raise InputError(f"{array.where}: found {array.dtype} of shape {array.shape}; "
                         "expected 0 and 1, (rows, classes), or class numbers, (rows,)")
    numbers = whole_numbers(array, 2**31, "class numbers")
    return [numbers if rows is None else numbers[rows] for rows in selections]


def whole_numbers(array: Array, limit: int, meaning: str) -> np.ndarray:
    """A column of whole numbers from 0 to ``limit - 1``, as int64 (n,); MATLAB keeps them as doubles.

    Raises InputError, which calls the numbers by their ``meaning``.
    """
    numbers = array.column().astype(np.float64)
    bad = np.flatnonzero(~((numbers >= 0) & (numbers < limit) & (numbers == np.floor(numbers))))
    if bad.size:
        raise InputError(f"{array.where}: found {numbers[bad[0]]:g} in row {bad[0]}; "
                         f"expected {meaning}, whole and from 0 to {limit - 1}"
                         + (", counted from 0" if numbers[bad[0]] == limit and numbers.min() == 1 else ""))
    return numbers.astype(np.int64)


def check_widths(where: str, what: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise InputError unless the arrays (n, width) of all splits have one width."""
    widths = {split: array.shape[1] for split, array in arrays.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{width} in {split}" for split, width in widths.items())
        raise InputError(f"{where}: {what} differ in number: found {found}; expected as many in every split")
