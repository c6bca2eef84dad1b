"""A database of hash codes in a folder: built from features, grown, queried.

    index = Index.build("index/mine/64", "checkpoints/hash/mine_hash_64.pth", image=features)
    hits = Index.load("index/mine/64").query(text=other_features, topk=10)   # hits.id, hits.distance: (queries, 10)

A folder holds ``index.json``, which says what is in it, and one folder ``v<number>`` with the files of that version:

- ``codes.npy``, packed codes, uint8 (n, ceil(bits / 8)), and ``ids.npy``, int64 (n,). Rows are in the order of their
  ids, so that breaking ties by row is breaking them by id.
- ``items.arrow``, what else is known of each item, such as its caption.
- ``model.pth``, a copy of the checkpoint: queries are encoded by the model that made the codes.
- ``faiss.index``, unless the index is flat.

A new version is written beside the old one and appears when ``index.json`` is replaced: a process killed at any point
leaves the old version whole. Loading runs no code from the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike

from training import checkpoint
from indexing import nearest
import metric
from common.errors import InputError
from common.atomic_files import check_writable, write_atomically
from pairs.rows import MAX_FEATURE
from model import HashModel

FORMAT = 1
SIDECAR = "index.json"
BIT_ORDER = "little: bit j (of value 2**j) of byte i is bit 8 * i + j of the code; unused high bits are 0"
DATASET = ("dataset", "path", "split", "fingerprint")  # of a source that is a data set
DESCRIPTION = ("kind", "bits", "bit_order", "modality", "source", "model", "parameters")  # a new version takes it over
CHUNK = 8192  # items encoded at once; an interrupted build resumes after the last whole chunk

_MOVED_ROWS = 1 << 16
_SAMPLE_ROWS = 1024
_QUICKLY_READ = 1 << 26  # bytes

Progress = Callable[[int], object]  # called with a number of items done since the last call


class Hits(NamedTuple):
    """What was found: arrays (queries, topk), or (found,) for one query. Id -1: an approximate index found no more."""

    id: np.ndarray  # int64
    distance: np.ndarray  # Hamming, int32
    score: np.ndarray | None = None  # with rerank: inner product of the real-valued query and the +-1 code, float64

    def each(self) -> list[Hits]:
        """The hits of each query, without empty places."""
        rows = zip(*(array if array is not None else [None] * len(self.id) for array in self))
        return [Hits(*(None if array is None else array[row[0] != -1] for array in row)) for row in rows]


class Index:
    """An index folder, opened. ``about`` is the content of its ``index.json``."""

    def __init__(self, folder: Path, about: dict, model: HashModel, codes: np.ndarray, ids: np.ndarray,
                 items: pa.Table | None, searcher: nearest.Searcher):
        self.folder, self.about, self.model = folder, about, model
        self.codes, self.ids, self.items, self.searcher = codes, ids, items, searcher

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def bits(self) -> int:
        return self.about["bits"]

    # --- making ---------------------------------------------------------------------------------------

    @classmethod
    def build(cls, folder: str | os.PathLike, model: str | os.PathLike, image: ArrayLike | None = None,
              text: ArrayLike | None = None, ids: ArrayLike | None = None,
              columns: Mapping[str, ArrayLike] | None = None, kind: str = "flat", source: dict | None = None,
              device: str | torch.device = "cpu", progress: Progress = lambda items: None) -> Index:
        """Encode items and write their index to ``folder``, in place of the one that may be there.

        Called again with the same arguments after an interruption, it resumes where it stopped.

        Args:
            model: the checkpoint of a hash model.
            image, text: features (n, d_i) and (n, d_t), of one modality or both; memory-mapped arrays are read in
                chunks.
            ids: whole numbers from 0 up, (n,), each once; default: the row numbers.
            columns: what else is known of the items, such as ``caption``, (n,) each.
            kind: flat, ivf, hnsw or hash.
            source: where the items come from, kept in ``index.json``: anything that JSON can hold; where it names a
                ``dataset``, search.py looks for it by ``path``, ``split`` and ``fingerprint``.

        Raises:
            InputError: what was given is unsound, or can't be written; the index that was there is unchanged.
        """
        if kind not in nearest.KINDS:
            raise InputError(f"--index {kind}: expected one of {', '.join(nearest.KINDS)}")
        if not _is_source(source or {}):
            raise InputError("source: expected a dictionary that JSON can hold, whose dataset, if it has one, comes with "
                             "path, split and fingerprint")
        network, trained = load_model(Path(model))
        features = _check_features(network, image, text)
        count = len(next(iter(features.values())))
        ids = _check_ids(np.arange(count) if ids is None else ids, count)
        table = _table(columns, count)
        order = np.argsort(ids, kind="stable")
        about = {
            "kind": kind, "bits": network.hash_lens[0], "bit_order": BIT_ORDER, "modality": _modality(features),
            "source": source or {},
            "model": {"sha256": _sha256(Path(model)), **{key: trained.get(key) for key in ("dataset", "fingerprint",
                                                                                           "epoch")}}}
        plan = {**about, "ids": hashlib.sha256(ids).hexdigest(),
                "features": {name: _sample_hash(array) for name, array in features.items()}}
        with _Version(folder, about, plan) as version:
            shutil.copyfile(model, version.path("model.pth"))
            _encode_to(version, network.to(device), features, order, progress)
            version.write("ids.npy", lambda file: np.save(file, ids[order]))
            _write_items(version, table, order)
            codes = np.load(version.path("codes.npy"), mmap_mode="r")
            version.about["parameters"] = nearest.parameters(kind, count, 8 * codes.shape[1])
            if kind != "flat":
                _write_faiss(version, nearest.make(kind, codes, version.about["parameters"]))
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
        features = _check_features(self.model, image, text)
        if _modality(features) != self.about["modality"]:
            raise InputError(f"{self.folder}: found {_modality(features)} features to add; expected "
                             f"{self.about['modality']}, as the index holds")
        count = len(next(iter(features.values())))
        start = int(self.ids[-1]) + 1
        ids = _check_ids(np.arange(start, start + count) if ids is None else ids, count)
        if (known := ids[np.isin(ids, self.ids)]).size:
            raise InputError(f"ids: {known[0]} is in the index already; give others")
        table = _table(columns, count)
        items = _append(self.items, len(self), table, count)
        total = len(self) + count
        old, kind, chosen = len(self), self.about["kind"], self.about["parameters"]

        everything = np.concatenate([self.ids, ids])
        order = np.argsort(everything, kind="stable")
        with _Version(self.folder, self._description(), None) as version:
            shutil.copyfile(self._path("model.pth"), version.path("model.pth"))
            codes = np.empty((count, self.codes.shape[1]), np.uint8)
            network = self.model.to(device)
            for rows in _chunks(np.arange(count), CHUNK):
                codes[rows] = _pack(_encode(network, features, rows))
                progress(len(rows))
            self.model.to("cpu")

            def moved(file) -> None:
                _write_header(file, (total, codes.shape[1]))
                for rows in _chunks(order, _MOVED_ROWS):
                    block, new = np.empty((len(rows), codes.shape[1]), np.uint8), rows >= old
                    block[~new], block[new] = self.codes[rows[~new]], codes[rows[new] - old]
                    file.write(block)

            version.write("codes.npy", moved)
            version.write("ids.npy", lambda file: np.save(file, everything[order]))
            _write_items(version, items, order)
            version.about["parameters"] = nearest.parameters(kind, total, 8 * codes.shape[1])
            if kind != "flat":
                if version.about["parameters"] == chosen and ids.min() > self.ids[-1]:
                    index = _read_faiss(self._path("faiss.index"), self.about)
                    nearest.add(index, codes[order[old:] - old])
                else:  # rows have moved, or the index has outgrown its parameters
                    index = nearest.make(kind, np.load(version.path("codes.npy"), mmap_mode="r"),
                                                version.about["parameters"])
                _write_faiss(version, index)
            version.about["source"] = {**self.about["source"], "added": self.about["source"].get("added", 0) + count}
            version.publish(total)
        vars(self).update(vars(Index.load(self.folder)))

    def save(self, folder: str | os.PathLike) -> Path:
        """Write a copy of this index to another folder. Raises :class:`InputError` if it can't be written."""
        folder = Path(folder)
        if folder.resolve() == self.folder.resolve():
            return folder  # it is written whenever it changes
        with _Version(folder, self._description(), None) as version:
            for name in self.about["files"]:
                shutil.copyfile(self._path(name), version.path(name))
            version.publish(len(self))
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike,
             searcher: Callable[[np.ndarray], nearest.Searcher] | None = None) -> Index:
        """Open an index; codes, ids and captions are memory-mapped.

        Args:
            searcher: makes from the codes what answers queries, such as :class:`shards.Sharded`; default: what the
                index was built as.

        Raises:
            InputError: no index, or a damaged one: files are missing, have another size, or don't fit each other; or
                a file has changed that is read whole or is small. :meth:`verify` reads them all.
        """
        folder = Path(folder)
        while True:
            about = read_sidecar(folder)
            try:
                return cls._open(folder, about, searcher)
            except InputError:
                if read_sidecar(folder)["version"] == about["version"]:
                    raise  # else another process has replaced the version that was being read

    @classmethod
    def _open(cls, folder: Path, about: dict, searcher: Callable[[np.ndarray], nearest.Searcher] | None
              ) -> Index:
        inside = folder / about["version"]
        for name, file in about["files"].items():
            _check_size(inside / name, file["bytes"])
        for name, file in about["files"].items():
            # What a parser reads must be what was written; the rest is compared where that takes no time.
            if name in ("model.pth", "faiss.index", "items.arrow") or file["bytes"] <= _QUICKLY_READ:
                _check_hash(inside / name, file["sha256"])
        model, _ = load_model(inside / "model.pth")
        width = -(-about["bits"] // 8)
        codes = _map(inside / "codes.npy", np.uint8, (about["count"], width))
        ids = _map(inside / "ids.npy", np.int64, (about["count"],))
        items = None
        if "items.arrow" in about["files"]:
            try:
                items = pa.ipc.open_file(pa.memory_map(str(inside / "items.arrow"))).read_all()
                items.validate(full=True)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(inside / "items.arrow", str(error).splitlines()[0]) from error
        if model.hash_lens != [about["bits"]] or items is not None and len(items) != len(ids):
            raise _damaged(folder / SIDECAR, "its files don't fit each other")
        if searcher is not None:
            answers = searcher(codes)
        elif about["kind"] == "flat":
            answers = nearest.Flat(codes)
        else:
            answers = nearest.Approximate(codes, _read_faiss(inside / "faiss.index", about))
        return cls(folder, about, model, codes, ids, items, answers)

    def verify(self) -> None:
        """Read every file and compare it with its SHA-256. Raises :class:`InputError` for one that has changed."""
        for name, file in self.about["files"].items():
            _check_hash(self._path(name), file["sha256"])

    def _description(self) -> dict:
        return {key: self.about[key] for key in DESCRIPTION}

    def _path(self, name: str) -> Path:
        return self.folder / self.about["version"] / name

    # --- asking ---------------------------------------------------------------------------------------

    def encode(self, image: ArrayLike | None = None, text: ArrayLike | None = None) -> np.ndarray:
        """x of ``tanh(scale * x)`` of queries with an image, a text or both, float32 (q, bits).

        Features are normalised and centred as in training; the checkpoint holds how. Raises :class:`InputError`.
        """
        features = _check_features(self.model, image, text)
        rows = np.arange(len(next(iter(features.values()))))
        return np.concatenate([_encode(self.model, features, part) for part in _chunks(rows, CHUNK)])

    def query(self, image: ArrayLike | None = None, text: ArrayLike | None = None, topk: int = 10,
              rerank: int | None = None) -> Hits:
        """The nearest items of queries with features of an image, a text or both, (q, topk), ties by id.

        Args:
            rerank: order the best so many of the Hamming ranking by the inner product of the real-valued query and
                their codes, and keep ``topk``.

        Raises:
            InputError: unsound features, or ``topk`` or ``rerank`` larger than the index.
        """
        return self.query_encoded(self.encode(image, text), topk, rerank)

    def query_encoded(self, x: ArrayLike, topk: int = 10, rerank: int | None = None) -> Hits:
        """As :meth:`query`, of queries that are encoded already: (q, bits) from :meth:`encode`."""
        x = self._check_encoded(x)
        self._check_number("topk", topk)
        if rerank is not None:
            self._check_number("rerank", rerank)
            if rerank < topk:
                raise InputError(f"rerank {rerank}: expected at least topk, which is {topk}")
        distance, row = self.searcher.nearest(_pack(x), rerank or topk)
        score = None
        if rerank is not None:
            distance, row, score = nearest.rerank(x, self.codes, distance, row, topk)
        return Hits(np.where(row == nearest.NOTHING, -1, self.ids[row]), distance, score)

    def query_radius(self, image: ArrayLike | None = None, text: ArrayLike | None = None,
                     radius: int = 0) -> list[Hits]:
        """All items within a Hamming radius of each query, nearest first, ties by id; exact for any kind of index."""
        return self.query_radius_encoded(self.encode(image, text), radius)

    def query_radius_encoded(self, x: ArrayLike, radius: int = 0) -> list[Hits]:
        """As :meth:`query_radius`, of queries that are encoded already: (q, bits) from :meth:`encode`."""
        if not 0 <= radius <= self.bits:
            raise InputError(f"radius {radius}: expected 0 to {self.bits}, the length of the codes")
        limits, distance, row = self.searcher.within(_pack(self._check_encoded(x)), radius)
        return [Hits(self.ids[row[start:stop]], distance[start:stop]) for start, stop in zip(limits, limits[1:])]

    def describe(self, ids: np.ndarray) -> list[dict]:
        """What ``items.arrow`` says of items of the index, a dictionary each."""
        if self.items is None:
            return [{} for _ in ids]
        return self.items.take(np.searchsorted(self.ids, ids)).to_pylist()

    def _check_encoded(self, x: ArrayLike) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.bits or not len(x):
            raise InputError(f"queries: found shape {x.shape}; expected (1 or more, {self.bits}), for codes of "
                             f"{self.bits} bits")
        return x

    def _check_number(self, name: str, number: int) -> None:
        if not 1 <= number <= len(self):
            raise InputError(f"{name} {number}: expected 1 to {len(self):,}, the number of items in the index")


# --- what is given --------------------------------------------------------------------------------


def load_model(path: Path) -> tuple[HashModel, dict]:
    """The hash model of one code length that a checkpoint holds, and what the checkpoint says of it. Raises
    :class:`InputError` if it holds anything else.
    """
    model, about = checkpoint.load_model(path)
    if not isinstance(model, HashModel) or len(model.hash_lens) != 1:
        raise InputError(f"{path}: expected a hash model of one code length, such as "
                         f"checkpoints/hash/openmoji_hash_64.pth")
    return model, about


def _check_features(model: HashModel, image: ArrayLike | None, text: ArrayLike | None) -> dict[str, np.ndarray]:
    """The features that are given, by modality: as many rows of each, as wide as the model wants them."""
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


def _modality(features: Mapping[str, np.ndarray]) -> str:
    return "both" if len(features) == 2 else next(iter(features))


def _check_ids(ids: ArrayLike, count: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.shape != (count,) or ids.dtype.kind not in "iu":
        raise InputError(f"ids: found {ids.dtype} of shape {ids.shape}; expected whole numbers, ({count},)")
    if len(bad := ids[(ids < 0) | (ids > np.iinfo(np.int64).max)]):
        raise InputError(f"ids: found {bad[0]}; expected 0 to 2^63 - 1")
    values, times = np.unique(ids, return_counts=True)
    if (repeated := values[times > 1]).size:
        raise InputError(f"ids: {repeated[0]} comes more than once ({repeated.size:,} do); expected each id once")
    return ids.astype(np.int64)


def _table(columns: Mapping[str, ArrayLike] | None, count: int) -> pa.Table | None:
    if not columns:
        return None
    for name, column in columns.items():
        if len(column) != count:
            raise InputError(f"{name}: found {len(column):,} rows; expected {count:,}, one for each item")
    try:
        return pa.table({name: pa.array(np.asarray(column)) for name, column in columns.items()})
    except (pa.ArrowException, UnicodeError) as error:
        raise InputError(f"columns: {str(error).splitlines()[0]}; expected text or numbers") from error


def _append(old: pa.Table | None, old_count: int, new: pa.Table | None, new_count: int) -> pa.Table | None:
    """One table below the other; a column that only one of them has is empty for the other's items."""
    if old is None and new is None:
        return None
    tables = [pa.table({name: pa.nulls(count, column.type) for name, column in zip(other.column_names, other.columns)})
              if table is None else table
              for table, count, other in ((old, old_count, new), (new, new_count, old))]
    try:
        return pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(f"columns: don't fit those of the index: {str(error).splitlines()[0]}") from error


# --- encoding -------------------------------------------------------------------------------------


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (rows[start:start + size] for start in range(0, len(rows), size))


@torch.inference_mode()
def _encode(model: HashModel, features: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """x of ``tanh(scale * x)`` of some rows, float32 (rows, bits)."""
    device = next(model.parameters()).device
    inputs = {}
    for name, array in features.items():
        with np.errstate(over="ignore"):
            block = np.asarray(array[rows], np.float32)
        sound = (np.abs(block) <= MAX_FEATURE).all(axis=1)  # not so for NaN
        if not sound.all():
            raise InputError(f"{name} features: row {rows[np.argmin(sound)]} has NaN, infinity or a number beyond "
                             f"{MAX_FEATURE:g}; expected finite float32 numbers")
        inputs[name] = torch.from_numpy(block).to(device)
    return model.encode(**inputs).float().cpu().numpy()


def _pack(x: np.ndarray) -> np.ndarray:
    return metric.pack_codes(metric.sign_codes(x))


def _encode_to(version: _Version, model: HashModel, features: Mapping[str, np.ndarray], order: np.ndarray,
               progress: Progress) -> None:
    """Write the codes of all items in ``order``, from where an interrupted build of the same features stopped."""
    path, width = version.path("codes.npy"), -(-model.hash_lens[0] // 8)
    done, read = version.done, hashlib.sha256()
    for rows in _chunks(order[:done], CHUNK):
        _update(read, features, rows)
    if done and read.hexdigest() != version.read:  # an item that is encoded already has changed since
        done, read = 0, hashlib.sha256()
    with open(path, "r+b" if done else "wb") as file:
        start = _write_header(file, (len(order), width))
        file.seek(start + done * width)
        file.truncate()
        progress(done)
        for rows in _chunks(order[done:], CHUNK):
            file.write(_pack(_encode(model, features, rows)))
            file.flush()
            os.fsync(file.fileno())
            _update(read, features, rows)
            done += len(rows)
            version.note(done, read.hexdigest())
            progress(len(rows))
    model.to("cpu")


def _update(digest, features: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
    for array in features.values():
        digest.update(np.ascontiguousarray(array[rows]))


def _write_header(file, shape: tuple[int, ...]) -> int:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


# --- the folder -----------------------------------------------------------------------------------


class _Version:
    """A version of an index that is being written, in the folder ``building``. One process at a time.

    With a ``plan``, an interrupted build of the same plan is taken up; ``done`` items are encoded already.
    """

    def __init__(self, folder: str | os.PathLike, about: dict, plan: dict | None):
        self.folder, self.about, self.plan = Path(folder), about, plan
        self.done, self.read = 0, ""  # the items encoded, and the SHA-256 of their features
        self.work = self.folder / "building"

    def __enter__(self) -> _Version:
        self.made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        check_writable(self.folder, "folder")
        self.lock = open(self.folder / ".lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            raise InputError(f"{self.folder}: another process is writing this index; wait for it") from None
        try:
            noted = json.loads(self.path("progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            noted = None
        if not isinstance(noted, dict):
            noted = {}
        if self.plan is not None and noted.get("plan") == self.plan and "read" in noted:
            self.done, self.read = noted["done"], noted["read"]
            for path in self.work.iterdir():  # all else is written again, or was being written
                if path.name not in ("codes.npy", "progress.json"):
                    path.unlink()
        else:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, InputError) or error is not None and self.plan is None:
            shutil.rmtree(self.work, ignore_errors=True)  # nothing that could be taken up
            with contextlib.suppress(OSError):  # a folder made for this build goes, too; others aren't empty
                if self.folder in self.made:
                    (self.folder / ".lock").unlink()
                for path in self.made:
                    path.rmdir()
        self.lock.close()
        if isinstance(error, OSError):
            raise InputError(f"{self.folder}: cannot write: {error.strerror or error}; the index that was there is "
                             "unchanged") from error

    def path(self, name: str) -> Path:
        return self.work / name

    def write(self, name: str, write: Callable) -> None:
        write_atomically(self.path(name), write)

    def note(self, done: int, read: str) -> None:
        noted = {"done": done, "read": read, "plan": self.plan}
        self.write("progress.json", lambda file: file.write(json.dumps(noted).encode()))

    def publish(self, count: int) -> None:
        """Make this the folder's version, and remove the others."""
        self.path("progress.json").unlink(missing_ok=True)
        files = {}
        for path in sorted(self.work.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        try:
            number = int(read_sidecar(self.folder)["version"][1:]) + 1
        except InputError:
            number = 1
        name = f"v{number}"
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of a process killed before it replaced index.json
        os.replace(self.work, self.folder / name)
        content = {"format": FORMAT, "version": name, "count": count, **self.about, "files": files,
                   "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                   "software": {"python": platform.python_version(), "numpy": np.__version__,
                                "torch": torch.__version__, "faiss": faiss.__version__, "pyarrow": pa.__version__}}
        write_atomically(self.folder / SIDECAR, lambda file: json.dump(content, file, indent=1), "w")
        for other in self.folder.iterdir():
            if re.fullmatch(r"v\d+", other.name) and other.name != name:
                shutil.rmtree(other, ignore_errors=True)


def read_sidecar(folder: Path) -> dict:
    """What ``index.json`` of an index folder says. Raises :class:`InputError` if there is none, or no sound one."""
    path = folder / SIDECAR
    if not path.is_file():
        raise InputError(f"{folder}: no index there; make one with python search.py build")
    try:
        about = json.loads(path.read_text("utf-8"))
        sound = (about["format"] == FORMAT and re.fullmatch(r"v\d+", about["version"]) is not None
                 and about["kind"] in nearest.KINDS
                 and all(type(about[key]) is int and about[key] > 0 for key in ("bits", "count"))
                 and {"codes.npy", "ids.npy", "model.pth"} <= about["files"].keys()
                 and (about["kind"] == "flat") == ("faiss.index" not in about["files"])
                 and all("/" not in name and type(file["bytes"]) is int and type(file["sha256"]) is str
                         for name, file in about["files"].items())
                 and all(type(about[key]) is dict for key in ("parameters", "model"))
                 and all(type(about[key]) is str for key in ("bit_order", "written"))
                 and about["modality"] in ("image", "text", "both") and type(about["model"]["sha256"]) is str
                 and {"dataset", "epoch"} <= about["model"].keys() and _is_source(about["source"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise InputError(f"{path}: damaged, or not an index of this version; restore it or build again")
    return about


def _is_source(source: object) -> bool:
    """Whether this can stand as ``source`` in ``index.json``: what search.py reads of it is what it takes it for."""
    try:
        json.dumps(source, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return (isinstance(source, dict) and type(source.get("added", 0)) is int
            and all(source.get(key) is None or type(source[key]) is str for key in (*DATASET, "encoders"))
            and all(source.get(key) is not None for key in DATASET if "dataset" in source)
            and isinstance(files := source.get("files", []), list) and all(type(name) is str for name in files))


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}; restore the file or build the index again")


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise _damaged(path, "missing")
    if (found := path.stat().st_size) != expected:
        raise _damaged(path, f"found {found:,} bytes, expected {expected:,}")


def _check_hash(path: Path, expected: str) -> None:
    if _sha256(path) != expected:
        raise _damaged(path, "not the file that was written with this index (its SHA-256 differs)")


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _sample_hash(array: np.ndarray) -> str:
    """A fingerprint of features that doesn't read all of them: their shape and up to 1,024 rows evenly apart."""
    rows = np.unique(np.linspace(0, len(array) - 1, min(len(array), _SAMPLE_ROWS)).astype(np.int64))
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array[rows]))
    return digest.hexdigest()


def _map(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({str(error).splitlines()[0]})") from error
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise _damaged(path, f"found {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {shape}")
    return array


def _write_items(version: _Version, table: pa.Table | None, order: np.ndarray) -> None:
    if table is None:
        return

    def write(file) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            for rows in _chunks(order, _MOVED_ROWS):
                writer.write_table(table.take(rows).combine_chunks())

    version.write("items.arrow", write)


def _write_faiss(version: _Version, index: faiss.IndexBinary) -> None:
    try:
        faiss.write_index_binary(index, str(version.path("faiss.index")))
    except RuntimeError as error:  # faiss's word for a full disk
        raise InputError(f"{version.path('faiss.index')}: cannot write ({str(error).splitlines()[-1]}); the index that "
                         "was there is unchanged") from error


def _read_faiss(path: Path, about: dict) -> faiss.IndexBinary:
    try:
        index = faiss.read_index_binary(str(path))
        nearest.configure(index, about["parameters"])
    except (RuntimeError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise _damaged(path, f"not a faiss index of kind {about['kind']}") from error
    if index.ntotal != about["count"] or index.code_size != -(-about["bits"] // 8):
        raise _damaged(path, f"holds {index.ntotal:,} codes of {index.code_size} bytes")
    return index
