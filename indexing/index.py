"""A database of hash codes in a folder: built from features, changed, queried.

    index = Index.build("index/mine/128", "checkpoints/hash/mine_hash.pth", image=features)
    hits = Index.load("index/mine/128").query(text=other_features, topk=10)   # hits.id, hits.distance: (queries, 10)

A folder holds ``index.json`` and a folder with the files of the version that it describes (see ``folder.py``):

- ``codes.npy``, packed codes, uint8 (n, ceil(bits / 8)), and ``ids.npy``, int64 (n,). Rows are in the order of their
  ids, so that breaking ties by row is breaking them by id.
- ``outputs.npy``, with ``rescore``: the real-valued x of each item in a byte a bit (:attr:`features.Encoded.outputs`).
- ``items.arrow``, what else is known of each item, such as its caption.
- ``model.pth``, a copy of the checkpoint: items and queries are encoded by one model.
- ``heads.npz``, its hash heads in NumPy, if they compute what it does: then a query needs no PyTorch.
- ``faiss.index``, unless the index is flat.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from common.errors import InputError
from indexing import nearest
from indexing.features import Encoded, Progress, check_features, modality_of, row_count, sample_hash
from indexing.folder import (MANIFEST, MAX_BYTES_HASHED_ON_LOAD, RESCORING, NewVersion, check_files, check_hash,
                             damaged, is_source, map_array, read_faiss, read_manifest, sha256, write_merged)
from indexing.heads import Heads
from indexing.items import append_table, check_ids, make_table, read_table, replace_columns, write_table

if TYPE_CHECKING:
    import torch

    from model import HashModel

BIT_ORDER = "little: bit j (of value 2**j) of byte i is bit 8 * i + j of the code; unused high bits are 0"
# What a new version keeps of the old one.
LASTING_KEYS = ("kind", "bits", "lengths", "bit_order", "modality", "rescore", "source", "model", "parameters")
CANDIDATES = 100  # items that a search from coarse to fine keeps for each that is asked for
NO_ID = -1  # stands where an approximate index found no more items


class Hits(NamedTuple):
    """The items found: arrays (queries, topk), or (found,) for one query. Places left empty have id :data:`NO_ID`."""

    id: np.ndarray  # int64
    distance: np.ndarray  # Hamming, int32
    score: np.ndarray | None = None  # float64, of the real-valued query: with rerank its inner product with the +-1
    # code, with rescore its cosine with the stored x

    def each(self) -> list[Hits]:
        """The hits of each query, without empty places."""
        rows = zip(*(array if array is not None else [None] * len(self.id) for array in self))
        return [Hits(*(None if array is None else array[row[0] != NO_ID] for array in row)) for row in rows]


class Index:
    """An index folder, opened. ``about`` is the content of its ``index.json``.

    Threads may ask one index at the same time.
    """

    def __init__(self, folder: Path, about: dict, heads: Heads | None, codes: np.ndarray, outputs: np.ndarray | None,
                 ids: np.ndarray, items: pa.Table | None, searcher: nearest.Searcher):
        self.folder, self.about, self.heads = folder, about, heads
        self.codes, self.outputs, self.ids, self.items, self.searcher = codes, outputs, ids, items, searcher
        self.narrow: dict[int, nearest.Searcher] = {}  # by the first bits of the codes, made when first asked for

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def bits(self) -> int:
        """The length of a code."""
        return self.about["bits"]

    @property
    def lengths(self) -> list[int]:
        """The code lengths that a search can use, ascending: those of a nested model, or that of the codes alone."""
        return self.about.get("lengths", [self.bits])

    @functools.cached_property
    def model(self) -> HashModel:
        """The model that encodes items, and queries if there is no ``heads.npz``. Reading it loads PyTorch."""
        from indexing import encoding

        return encoding.load_model(self._path("model.pth"))[0]

    # --- building and changing ------------------------------------------------------------------------

    @classmethod
    def build(cls, folder: str | os.PathLike, model: str | os.PathLike, image: ArrayLike | None = None,
              text: ArrayLike | None = None, ids: ArrayLike | None = None,
              columns: Mapping[str, ArrayLike] | None = None, kind: str = "flat", source: dict | None = None,
              device: str | torch.device = "cpu", progress: Progress = lambda items: None,
              rescore: str | None = None) -> Index:
        """Encode items and write their index to ``folder``, in place of the one that may be there.

        Called again with the same arguments after an interruption, it resumes where it stopped.

        Args:
            model: the checkpoint of a hash model.
            image, text: features (n, d_i) and (n, d_t), of one modality or both; memory-mapped arrays are read in
                chunks.
            ids: whole numbers from 0 up, (n,), each once; default: the row numbers.
            columns: what else is known of the items, such as ``caption``, (n,) each.
            kind: flat, ivf, hnsw or hash.
            source: where the items come from, kept in ``index.json``: any dictionary that JSON can hold. If it names a
                ``dataset``, it must have ``path``, ``split`` and ``fingerprint`` too, by which search.py finds it.
            rescore: int8 also keeps the real-valued x of the items, in a byte a bit, for ``rescore`` of a query.

        Raises:
            InputError: an argument is unsound, or the folder can't be written; the index that was there is unchanged.
        """
        from indexing import encoding

        if kind not in nearest.KINDS:
            raise InputError(f"--index {kind}: expected one of {', '.join(nearest.KINDS)}")
        if rescore not in (None, *RESCORING):
            raise InputError(f"--rescore {rescore}: expected {' or '.join(RESCORING)}")
        if not is_source(source or {}):
            raise InputError("source: expected a dictionary that JSON can hold, whose dataset, if it has one, comes "
                             "with path, split and fingerprint")
        network, trained = encoding.load_model(Path(model))
        features = check_features(encoding.widths_of(network), image, text)
        count = row_count(features)
        ids = check_ids(np.arange(count) if ids is None else ids, count)
        table = make_table(columns, count)
        order = np.argsort(ids, kind="stable")
        about = {
            "kind": kind, "bits": network.width, "lengths": sorted(set(network.hash_lens)), "bit_order": BIT_ORDER,
            "modality": modality_of(features), "source": source or {},
            **({} if rescore is None else {"rescore": rescore}),
            "model": {"sha256": sha256(Path(model)), **{key: trained.get(key) for key in ("dataset", "fingerprint",
                                                                                          "epoch")}}}
        plan = {**about, "ids": hashlib.sha256(ids).hexdigest(),
                "features": {name: sample_hash(array) for name, array in features.items()}}
        with NewVersion(folder, about, plan) as version:
            shutil.copyfile(model, version.path("model.pth"))
            with encoding.on_device(network, device):
                encoding.write_codes(version, network, features, order, rescore is not None, progress)
            if (heads := encoding.numpy_heads(network)) is not None:
                version.write("heads.npz", heads.write)
            version.write("ids.npy", lambda file: np.save(file, ids[order]))
            if table is not None:
                version.write("items.arrow", lambda file: write_table(file, table, order))
            codes = np.load(version.path("codes.npy"), mmap_mode="r")
            version.about["parameters"] = nearest.parameters(kind, count, 8 * codes.shape[1])
            if kind != "flat":
                version.write_faiss(nearest.make(kind, codes, version.about["parameters"]))
            version.publish(count)
        return cls.load(folder)

    def add(self, image: ArrayLike | None = None, text: ArrayLike | None = None, ids: ArrayLike | None = None,
            columns: Mapping[str, ArrayLike] | None = None, device: str | torch.device = "cpu",
            progress: Progress = lambda items: None) -> None:
        """Add items of the modality that the index holds, encoded by its model, and write the folder's new version.

        Args:
            ids: as in :meth:`build`, none of them in the index already; default: those after the largest.

        Raises:
            InputError: as :meth:`build`.
        """
        features = self._check_items("add", image, text)
        before, count = len(self), row_count(features)
        start = int(self.ids[-1]) + 1
        if ids is None and start + count > 2**63:
            raise InputError(f"{self.folder}: its largest id is {start - 1}, which leaves none for {count:,} more; "
                             f"give their ids")
        ids = check_ids(start + np.arange(count) if ids is None else ids, count)
        if (known := ids[np.isin(ids, self.ids)]).size:
            raise InputError(f"ids: {known[0]} is in the index already; give others")
        table = append_table(self.items, before, make_table(columns, count), count)
        all_ids = np.concatenate([self.ids, ids])
        order = np.argsort(all_ids, kind="stable")
        self._replace("added", count, order, all_ids[order], table, lambda: self._encoded(features, device, progress))

    def remove(self, ids: ArrayLike) -> None:
        """Remove the items of these ids, and write the folder's new version.

        Raises:
            InputError: an id is not in the index or comes twice, no item would be left, or the folder can't be written;
                the index is unchanged.
        """
        rows = self._rows_of(ids)
        if len(rows) == len(self):
            raise InputError(f"{self.folder}: holds these {len(rows):,} items alone; remove its folder instead")
        order = np.delete(np.arange(len(self)), rows)
        self._replace("removed", len(rows), order, self.ids[order], self.items, lambda: self._stored(rows[:0]))

    def update(self, ids: ArrayLike, image: ArrayLike | None = None, text: ArrayLike | None = None,
               columns: Mapping[str, ArrayLike] | None = None, device: str | torch.device = "cpu",
               progress: Progress = lambda items: None) -> None:
        """Give the items of these ids new features, new columns, or both, and write the folder's new version.

        Args:
            image, text: features of the modality that the index holds, (n, d); default: the codes stay.
            columns: (n,) each; other columns stay.

        Raises:
            InputError: an id is not in the index or comes twice, an argument is unsound, or the folder can't be
                written; the index is unchanged.
        """
        rows, given = self._rows_of(ids), image is not None or text is not None
        features = self._check_items("update", image, text) if given else None
        if features is None and not columns:
            raise InputError("nothing to update: expected features, columns, or both")
        if features is not None and row_count(features) != len(rows):
            raise InputError(f"features: found {row_count(features):,} rows; expected {len(rows):,}, one for each id")
        order, table = np.arange(len(self)), self.items
        order[rows] = len(self) + np.arange(len(rows))
        if table is not None or columns:
            new = replace_columns(table, rows, make_table(columns, len(rows)))
            table = append_table(table, len(self), new, len(rows))
        self._replace("updated", len(rows), order, self.ids, table,
                      lambda: self._stored(rows) if features is None else self._encoded(features, device, progress))

    def _check_items(self, verb: str, image: ArrayLike | None, text: ArrayLike | None) -> dict[str, np.ndarray]:
        """The features of items for the index. Raises InputError for those that it doesn't hold."""
        features = check_features(self._widths(), image, text)
        if modality_of(features) != self.about["modality"]:
            raise InputError(f"{self.folder}: found {modality_of(features)} features to {verb}; expected "
                             f"{self.about['modality']}, as the index holds")
        return features

    def _rows_of(self, ids: ArrayLike) -> np.ndarray:
        """The rows of items of the index, in the order of ``ids``. Raises InputError for an id that it doesn't have."""
        ids = check_ids(ids, np.size(ids))
        if not len(ids):
            raise InputError("ids: found none; expected 1 or more")
        if (unknown := ids[~np.isin(ids, self.ids)]).size:
            raise InputError(f"ids: {unknown[0]} is not in the index ({unknown.size:,} of them aren't)")
        return np.searchsorted(self.ids, ids)

    def _stored(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of ``codes.npy`` and ``outputs.npy``."""
        return self.codes[rows], None if self.outputs is None else self.outputs[rows]

    def _encoded(self, features: Mapping[str, np.ndarray], device: str | torch.device,
                 progress: Progress) -> tuple[np.ndarray, np.ndarray | None]:
        """New rows of ``codes.npy`` and ``outputs.npy``."""
        from indexing import encoding

        with encoding.on_device(self.model, device):
            return encoding.stored_rows(self.model, features, self.outputs is not None, progress)

    def _replace(self, change: str, count: int, order: np.ndarray, ids: np.ndarray, table: pa.Table | None,
                 encode: Callable[[], tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Write the folder's new version, and open it.

        Args:
            change: added, removed or updated, with the ``count`` of the items.
            order: the rows of the new version; those that ``encode`` gives, of codes and outputs, count after those of
                the old one.
            ids: of the new rows, ascending.
            table: the columns, whose rows are counted as in ``order``.
        """
        with NewVersion(self.folder, self._lasting(), None) as version:
            self._check_newest()
            codes, outputs = encode()
            for name in {"model.pth", "heads.npz"} & self.about["files"].keys():
                shutil.copyfile(self._path(name), version.path(name))
            version.write("codes.npy", lambda file: write_merged(file, self.codes, codes, order))
            if self.outputs is not None:
                version.write("outputs.npy", lambda file: write_merged(file, self.outputs, outputs, order))
            version.write("ids.npy", lambda file: np.save(file, ids))
            if table is not None:
                version.write("items.arrow", lambda file: write_table(file, table, order))
            kind, before = self.about["kind"], len(self)
            version.about["parameters"] = nearest.parameters(kind, len(order), 8 * self.codes.shape[1])
            if kind != "flat":
                if (version.about["parameters"] == self.about["parameters"]
                        and np.array_equal(order[:before], np.arange(before))):
                    index = read_faiss(self._path("faiss.index"), self.about)
                    nearest.add(index, codes[order[before:] - before])
                else:  # rows have moved or changed, or the index has outgrown its parameters
                    index = nearest.make(kind, np.load(version.path("codes.npy"), mmap_mode="r"),
                                         version.about["parameters"])
                version.write_faiss(index)
            source = self.about["source"]
            version.about["source"] = {**source, change: source.get(change, 0) + count}
            version.publish(len(order))
        vars(self).update(vars(Index.load(self.folder)))

    # --- saving and loading ---------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike) -> Path:
        """Write a copy of this index to another folder. Raises InputError if it can't be written."""
        folder = Path(folder)
        if folder.resolve() == self.folder.resolve():
            return folder  # it is written whenever it changes
        with NewVersion(folder, self._lasting(), None) as version:
            for name in self.about["files"]:
                try:
                    shutil.copyfile(self._path(name), version.path(name))
                except FileNotFoundError:
                    self._check_newest()
                    raise
            version.publish(len(self))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike,
             searcher: Callable[[np.ndarray], nearest.Searcher] | None = None, verify: bool = False) -> Index:
        """Open an index; codes, ids and captions are memory-mapped, and stay as they are when another process replaces
        the index.

        Args:
            searcher: makes from the codes what answers queries, such as :class:`shards.Sharded`; default: what the
                index was built as.
            verify: also compare every file with its SHA-256, as :meth:`verify` does.

        Raises:
            InputError: no index, or a damaged one: files are missing, have another size, or don't fit each other; or
                a file has changed that is read whole or is small.
        """
        folder = Path(folder)
        while True:
            about = read_manifest(folder)
            try:
                index = cls._open(folder, about, searcher)
                if verify:
                    index.verify()
                return index
            except (InputError, OSError):  # the latter if a file goes away between two looks at it
                if read_manifest(folder) == about:
                    raise  # else another process has replaced the version that was being read

    @classmethod
    def _open(cls, folder: Path, about: dict, searcher: Callable[[np.ndarray], nearest.Searcher] | None) -> Index:
        version, count = folder / about["version"], about["count"]
        check_files(version, about["files"])
        lengths = set(about.get("lengths", [about["bits"]]))
        heads = Heads.read(version / "heads.npz") if "heads.npz" in about["files"] else None
        codes = map_array(version / "codes.npy", np.uint8, (count, -(-about["bits"] // 8)))
        outputs = None
        if about.get("rescore") is not None:
            outputs = map_array(version / "outputs.npy", np.int8, (count, about["bits"]))
        ids = map_array(version / "ids.npy", np.int64, (count,))
        small = ids.nbytes <= MAX_BYTES_HASHED_ON_LOAD  # more are not read before they are used, as their hash isn't
        if small and (ids[0] < 0 or (ids[1:] <= ids[:-1]).any()):
            raise damaged(version / "ids.npy", "its ids are not from 0 up, each larger than the one before")
        items = read_table(version / "items.arrow") if "items.arrow" in about["files"] else None
        if searcher is not None:
            answers = searcher(codes)
        elif about["kind"] == "flat":
            answers = nearest.Flat(codes)
        else:
            answers = nearest.Approximate(codes, read_faiss(version / "faiss.index", about))
        index = cls(folder, about, heads, codes, outputs, ids, items, answers)
        bits, known = (index.model.width, index.model.hash_lens) if heads is None else (heads.bits, heads.lengths)
        if bits != about["bits"] or not lengths <= set(known) or items is not None and len(items) != count:
            raise damaged(folder / MANIFEST, "its files don't fit each other")
        return index

    def verify(self) -> None:
        """Read every file and compare it with its SHA-256. Raises InputError for one that has changed, or if another
        process has replaced the index since it was opened.
        """
        for name, file in self.about["files"].items():
            try:
                check_hash(self._path(name), file["sha256"])
            except InputError:
                self._check_newest()
                raise

    def _check_newest(self) -> None:
        """Raise InputError if the folder has another version than this one."""
        if read_manifest(self.folder) != self.about:
            raise InputError(f"{self.folder}: another process has changed it since it was opened; open it again")

    def _lasting(self) -> dict:
        return {key: self.about[key] for key in LASTING_KEYS if key in self.about}

    def _path(self, name: str) -> Path:
        return self.folder / self.about["version"] / name

    # --- querying -------------------------------------------------------------------------------------

    def encode(self, image: ArrayLike | None = None, text: ArrayLike | None = None) -> Encoded:
        """Encode queries with an image (q, d_i), a text (q, d_t) or both: +-1 codes and x, (q, bits) each.

        Features are normalised and centred as in training; the checkpoint holds how. With ``heads.npz`` NumPy encodes:
        x is that of PyTorch but for rounding, so where x is within rounding of 0 a bit may differ from that of an item
        with the same features. Raises InputError for features that the model can't take.
        """
        features = check_features(self._widths(), image, text)
        if self.heads is not None:
            return self.heads.encode(features)
        from indexing import encoding

        return encoding.encode(self.model, features)

    def query(self, image: ArrayLike | None = None, text: ArrayLike | None = None, topk: int = 10,
              rerank: int | None = None, bits: int | None = None, coarse: int | None = None,
              candidates: int | None = None, rescore: int | None = None) -> Hits:
        """The nearest items of queries with features of an image, a text or both, (q, topk), ties by id.

        Args:
            rerank: order the best so many of the Hamming ranking by the inner product of the real-valued query and
                their codes, and keep ``topk``.
            bits: compare the first so many bits of each code, one of ``lengths``; default: all.
            coarse: find the nearest ``candidates`` by the first so many bits, one of ``lengths``, and order only these
                by ``bits``. Reads less than a comparison of all items by ``bits``, but may miss some.
            candidates: default: 100 for each of ``topk``, ``rerank`` or ``rescore``, or all items of a smaller index.
            rescore: order the best so many by the cosine of the real-valued query and their stored x, and keep
                ``topk``.

        Raises:
            InputError: unsound features; ``topk``, ``rerank``, ``rescore`` or ``candidates`` larger than the index, or
                fewer candidates than are asked for; both ``rerank`` and ``rescore``, or an index without x for
                ``rescore``; a length that the codes don't have, or an index that isn't flat with ``bits`` or
                ``coarse``.
        """
        return self.query_encoded(self.encode(image, text), topk, rerank, bits, coarse, candidates, rescore)

    def query_encoded(self, queries: Encoded, topk: int = 10, rerank: int | None = None, bits: int | None = None,
                      coarse: int | None = None, candidates: int | None = None, rescore: int | None = None) -> Hits:
        """As :meth:`query`, of queries from :meth:`encode`."""
        self._check_encoded(queries)
        self._check_number("topk", topk)
        if rerank is not None and rescore is not None:
            raise InputError("rerank and rescore: give one of them")
        for name, best in (("rerank", rerank), ("rescore", rescore)):
            if best is not None:
                self._check_number(name, best)
                if best < topk:
                    raise InputError(f"{name} {best}: expected at least topk, which is {topk}")
        if rescore is not None and self.outputs is None:
            raise InputError(f"rescore {rescore}: {self.folder} doesn't hold the real-valued outputs of its items; "
                             f"build it again with --rescore int8")
        bits, wanted, score = self.check_length("bits", bits), rerank or rescore or topk, None
        fine = queries.first_bits(bits)
        if coarse is None:
            if candidates is not None:
                raise InputError("candidates: only for a search from coarse to fine; give coarse too")
            distance, row = self._searcher(bits).nearest(fine.packed, wanted)
        else:
            if self.check_length("coarse", coarse) >= bits:
                raise InputError(f"coarse {coarse}: expected fewer bits than the {bits} that order the candidates")
            if candidates is None:
                candidates = min(CANDIDATES * wanted, len(self))
            self._check_number("candidates", candidates)
            if candidates < wanted:
                asked = "rerank" if rerank else "rescore" if rescore else "topk"
                raise InputError(f"candidates {candidates}: expected at least {asked}, which is {wanted}")
            _, row = self._searcher(coarse).nearest(queries.first_bits(coarse).packed, candidates)
            distance, row = nearest.refine(fine.packed, self.codes, row, wanted, bits)
        if rerank is not None:
            distance, row, score = nearest.rerank(fine.x, self.codes, distance, row, topk)
        if rescore is not None:
            distance, row, score = nearest.rescore(fine.x, self.outputs, distance, row, topk)
        return Hits(np.where(row == nearest.NO_ROW, NO_ID, self.ids[row]), distance, score)

    def query_radius(self, image: ArrayLike | None = None, text: ArrayLike | None = None,
                     radius: int = 0, bits: int | None = None) -> list[Hits]:
        """All items within a Hamming radius of each query, nearest first, ties by id; exact for any kind of index.

        Args:
            bits: compare the first so many bits of each code, one of ``lengths``; default: all.

        Raises:
            InputError: unsound features, a radius that is not from 0 to the length of the codes, or as :meth:`query`
                for ``bits``.
        """
        bits = self.check_length("bits", bits)
        if not 0 <= radius <= bits:
            raise InputError(f"radius {radius}: expected 0 to {bits}, the length of the codes")
        queries = self.encode(image, text).first_bits(bits)
        limits, distance, row = self._searcher(bits).within(queries.packed, radius)
        return [Hits(self.ids[row[start:stop]], distance[start:stop]) for start, stop in zip(limits, limits[1:])]

    def describe(self, ids: np.ndarray) -> list[dict]:
        """What ``items.arrow`` says of items of the index, a dictionary each."""
        if self.items is None:
            return [{} for _ in ids]
        return self.items.take(np.searchsorted(self.ids, ids)).to_pylist()

    def rows(self, hits: Hits) -> list[dict]:
        """The hits of one query as dictionaries that JSON can hold: rank (from 1), id, distance, score if reranked or
        rescored, and the item's columns. A number that JSON doesn't know, NaN or infinity, is None.
        """
        rows = []
        for place, (item, columns) in enumerate(zip(hits.id, self.describe(hits.id))):
            row = {"rank": place + 1, "id": int(item), "distance": int(hits.distance[place])}
            if hits.score is not None:
                row["score"] = round(float(hits.score[place]), 4)
            columns = {name: None if isinstance(value, float) and not isfinite(value) else value
                       for name, value in columns.items()}
            rows.append({**row, **columns, **row})  # a column named as a field of the hit must not replace it
        return rows

    def check_length(self, name: str, bits: int | None) -> int:
        """The number of bits to compare, all for None. Raises InputError, which calls it ``name``, for a length that
        the codes don't have, and for fewer bits than all in an index that isn't flat.
        """
        if bits is None or bits == self.bits:
            return self.bits
        if len(self.lengths) == 1:
            raise InputError(f"{name} {bits}: {self.folder} has codes of {self.bits} bits alone, as its model isn't "
                             f"nested; leave it out")
        if bits not in self.lengths:
            raise InputError(f"{name} {bits}: expected one of {', '.join(map(str, self.lengths))}, the code lengths of "
                             f"the index")
        if self.about["kind"] != "flat":
            raise InputError(f"{name} {bits}: {self.folder} is of kind {self.about['kind']}, which compares whole "
                             f"codes; build one with --index flat")
        return bits

    def _widths(self) -> dict[str, int]:
        """The size of the features of each modality."""
        if self.heads is not None:
            return self.heads.widths
        from indexing import encoding

        return encoding.widths_of(self.model)

    def _searcher(self, bits: int) -> nearest.Searcher:
        """What finds the nearest by the first ``bits`` bits."""
        if bits == self.bits:
            return self.searcher
        if bits not in self.narrow:
            self.narrow[bits] = self.searcher.first_bits(bits)
        return self.narrow[bits]

    def _check_encoded(self, queries: Encoded) -> None:
        for array in queries:
            if array.ndim != 2 or array.shape[1] != self.bits or not len(array):
                raise InputError(f"queries: found shape {array.shape}; expected (1 or more, {self.bits}), for codes of "
                                 f"{self.bits} bits")
        if not np.isfinite(queries.x).all():
            raise InputError("queries: found NaN or infinity in x; expected finite numbers")

    def _check_number(self, name: str, number: int) -> None:
        if not 1 <= number <= len(self):
            raise InputError(f"{name} {number}: expected 1 to {len(self):,}, the number of items in the index")
