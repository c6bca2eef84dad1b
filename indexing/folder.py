"""The folder of an index: what ``index.json`` says of its files, and how a new version takes the place of the old.

``index.json`` names the version, a subfolder ``v<number>``, with the size and the SHA-256 of each of its files. A new
version is written in the subfolder ``building`` and counts from the moment ``index.json`` is replaced, so a process
killed at any point leaves the old version whole. Nothing in the folder is ever run as code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import json_text
from common.atomic_files import check_writable, write_atomically
from common.errors import InputError
from common.locks import alone
from common.npy_files import map_npy
from indexing import nearest
from indexing.features import chunks

if TYPE_CHECKING:
    import faiss

FORMAT = 1
MANIFEST = "index.json"
RESCORING = ("int8",)  # how x may be stored beside the codes
DATASET_KEYS = ("dataset", "path", "split", "fingerprint")  # of a source that is a data set
REQUIRED_FILES = {"codes.npy", "ids.npy", "model.pth"}
PARSED_FILES = {"model.pth", "heads.npz", "faiss.index", "items.arrow"}  # a parser must get the bytes that were written
MAX_BYTES_HASHED_ON_LOAD = 1 << 26  # up to this size, hashing another file takes no time
CHANGES = ("added", "removed", "updated")  # of a source: how many items were, since the build
PACKAGES = ("numpy", "torch", "faiss", "pyarrow")  # that may have written a part of an index
COPIED_ROWS = 1 << 16  # of an array, moved at once


# --- reading --------------------------------------------------------------------------------------


def newest(root: Path = Path("index")) -> Path:
    """The index that was written last, of those in ``<root>/<dataset>/<bits>``. Raises InputError if there is none."""
    written = sorted((path.stat().st_mtime_ns, path.parent) for path in root.glob(f"*/*/{MANIFEST}"))
    if not written:
        raise InputError(f"no index in {root}/<dataset>/<bits>; make one with python search.py build, or name its "
                         f"folder with --folder")
    return written[-1][1]


def read_manifest(folder: Path) -> dict:
    """What ``index.json`` of an index folder says. Raises InputError if it is missing, damaged or of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no index there; make one with python search.py build")
    try:
        about = json_text.parse(path.read_text("utf-8"))
        sound = (about["format"] == FORMAT and re.fullmatch(r"v\d+", about["version"]) is not None
                 and about["kind"] in nearest.KINDS
                 and all(type(about[key]) is int and about[key] > 0 for key in ("bits", "count"))
                 and REQUIRED_FILES <= about["files"].keys()
                 and (about["kind"] == "flat") == ("faiss.index" not in about["files"])
                 and about["parameters"] == nearest.parameters(about["kind"], about["count"],
                                                               8 * -(-about["bits"] // 8))
                 and about.get("rescore") in (None, *RESCORING)
                 and (about.get("rescore") is None) == ("outputs.npy" not in about["files"])
                 and all("/" not in name and type(file["bytes"]) is int and type(file["sha256"]) is str
                         for name, file in about["files"].items())
                 and type(about["model"]) is dict
                 and all(type(about[key]) is str for key in ("bit_order", "written"))
                 and about["modality"] in ("image", "text", "both") and type(about["model"]["sha256"]) is str
                 and {"dataset", "epoch"} <= about["model"].keys() and is_source(about["source"])
                 and is_lengths(about.get("lengths", [about["bits"]]), about["bits"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise InputError(f"{path}: damaged, or not an index of this version; restore it or build again")
    return about


def is_lengths(lengths: object, bits: int) -> bool:
    """Whether this can stand as ``lengths`` in ``index.json``: increasing numbers of bits, up to that of the codes."""
    return (isinstance(lengths, list) and all(type(length) is int and length > 0 for length in lengths)
            and sorted(set(lengths)) == lengths and lengths[-1:] == [bits])


def is_source(source: object) -> bool:
    """Whether this can stand as ``source`` in ``index.json``: JSON can hold it, and the entries that search.py reads
    have the types that it expects.
    """
    try:
        json.dumps(source, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return (isinstance(source, dict) and all(type(source.get(key, 0)) is int for key in CHANGES)
            and all(source.get(key) is None or type(source[key]) is str for key in (*DATASET_KEYS, "encoders"))
            and all(source.get(key) is not None for key in DATASET_KEYS if "dataset" in source)
            and isinstance(files := source.get("files", []), list) and all(type(name) is str for name in files))


def check_files(version: Path, files: dict[str, dict]) -> None:
    """Compare the files of a version with their entries in ``index.json``: the size of all, and the SHA-256 of those
    that a parser reads or that are small. Raises InputError for a file that differs.
    """
    for name, file in files.items():
        path = version / name
        if not path.is_file():
            raise damaged(path, "missing")
        if (found := path.stat().st_size) != file["bytes"]:
            raise damaged(path, f"found {found:,} bytes, expected {file['bytes']:,}")
    for name, file in files.items():
        if name in PARSED_FILES or file["bytes"] <= MAX_BYTES_HASHED_ON_LOAD:
            check_hash(version / name, file["sha256"])


def check_hash(path: Path, expected: str) -> None:
    """Read a file and raise InputError if its SHA-256 is another than ``expected``."""
    if sha256(path) != expected:
        raise damaged(path, "not the file that was written with this index (its SHA-256 differs)")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises InputError if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def damaged(path: Path, reason: str) -> InputError:
    """The error, to be raised, that says what is wrong with a file of an index."""
    return InputError(f"{path}: {reason}; restore the file or build the index again")


def map_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A .npy file, memory-mapped. Raises InputError unless it holds an array of this type and shape."""
    try:
        array = map_npy(path)
    except (OSError, ValueError) as error:
        raise damaged(path, f"cannot be read ({error})") from error
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise damaged(path, f"found {array.dtype} of shape {array.shape}, expected {np.dtype(dtype)} of {shape}")
    return array


def read_faiss(path: Path, about: dict) -> faiss.IndexBinary:
    """The faiss index of a version whose ``index.json`` is ``about``. Raises InputError if it isn't that one."""
    import faiss

    try:
        index = faiss.read_index_binary(str(path))
        nearest.configure(index, about["parameters"])
    except (RuntimeError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise damaged(path, f"not a faiss index of kind {about['kind']}") from error
    if index.ntotal != about["count"] or index.code_size != -(-about["bits"] // 8):
        raise damaged(path, f"holds {index.ntotal:,} codes of {index.code_size} bytes")
    return index


# --- writing --------------------------------------------------------------------------------------


class NewVersion:
    """A version that is being written, in the subfolder ``building``; a context that one process enters at a time.

    The old version stays until :meth:`publish`. With a ``plan``, which says what decides the codes, an interrupted
    build of the same plan is resumed: its ``codes.npy`` and ``outputs.npy`` are kept.

    Attributes:
        about: entries of ``index.json`` to be published.
        done: the number of items whose codes are in ``codes.npy`` already.
        digest: the SHA-256 of the features of those items and of what was written of them.

    Raises:
        InputError: on entering, if the folder can't be written or another process is writing to it; on leaving, if
            the disk refused a file.
    """

    def __init__(self, folder: str | os.PathLike, about: dict, plan: dict | None):
        self.folder, self.about, self.plan = Path(folder), about, plan
        self.done, self.digest = 0, ""
        self.work = self.folder / "building"

    def __enter__(self) -> NewVersion:
        self.created = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        check_writable(self.folder, "folder")
        self.held = contextlib.ExitStack()
        self.held.enter_context(alone(self.folder / ".lock", f"{self.folder}: another process is writing this index; "
                                                             f"wait for it"))
        try:
            noted = json_text.parse(self.path("progress.json").read_text("utf-8"))
        except (OSError, ValueError):
            noted = None
        if not isinstance(noted, dict):
            noted = {}
        done = noted.get("done")
        if self.plan is not None and noted.get("plan") == self.plan and type(done) is int and done > 0:
            self.done, self.digest = done, noted.get("digest")
            for path in self.work.iterdir():  # all other files are written again
                if path.name not in ("codes.npy", "outputs.npy", "progress.json"):
                    path.unlink()
        else:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, InputError) or error is not None and self.plan is None:
            shutil.rmtree(self.work, ignore_errors=True)  # it holds nothing that could be resumed
            with contextlib.suppress(OSError):  # remove the folders that were made for this build and are empty
                if self.folder in self.created:
                    (self.folder / ".lock").unlink(missing_ok=True)
                for path in self.created:
                    path.rmdir()
        self.held.close()
        if isinstance(error, OSError):
            raise InputError(f"{self.folder}: cannot write: {error.strerror or error}; the index that was there is "
                             "unchanged") from error

    def path(self, name: str) -> Path:
        """Where a file of the new version lies until it is published."""
        return self.work / name

    def write(self, name: str, write: Callable) -> None:
        """Let ``write(file)`` fill a file of the new version."""
        write_atomically(self.path(name), write)

    def write_faiss(self, index: faiss.IndexBinary) -> None:
        """Write ``faiss.index``. By its path, faiss would say nothing of what a full disk refuses as the file is closed.
        """
        import faiss

        self.write("faiss.index", lambda file: faiss.write_index_binary(index, faiss.PyCallbackIOWriter(file.write)))

    def note_progress(self, done: int, digest: str) -> None:
        """Record that ``codes.npy`` holds the codes of ``done`` items, and the digest that tells whether it still does.
        """
        noted = {"done": done, "digest": digest, "plan": self.plan}
        self.write("progress.json", lambda file: file.write(json.dumps(noted).encode()))

    def publish(self, count: int) -> None:
        """Make this the folder's version, of ``count`` items, and remove the others."""
        self.path("progress.json").unlink(missing_ok=True)
        files = {}
        for path in sorted(self.work.iterdir()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        try:
            number = int(read_manifest(self.folder)["version"][1:]) + 1
        except InputError:
            number = 1
        name = f"v{number}"
        shutil.rmtree(self.folder / name, ignore_errors=True)  # of a process killed before it replaced index.json
        os.replace(self.work, self.folder / name)
        software = {name: sys.modules[name].__version__ for name in PACKAGES if name in sys.modules}
        content = {"format": FORMAT, "version": name, "count": count, **self.about, "files": files,
                   "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                   "software": {"python": platform.python_version(), **software}}
        write_atomically(self.folder / MANIFEST, lambda file: json.dump(content, file, indent=1), "w")
        for other in self.folder.iterdir():
            if re.fullmatch(r"v\d+", other.name) and other.name != name:
                shutil.rmtree(other, ignore_errors=True)


def write_header(file, dtype: type, shape: tuple[int, ...]) -> int:
    """Begin a .npy file of rows that are written after this; returns where they start."""
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()


def write_merged(file, old: np.ndarray, new: np.ndarray, order: np.ndarray) -> None:
    """Write rows of two arrays (n, d) and (m, d) of one type as a .npy file; ``order`` counts the new ones after the
    old.
    """
    write_header(file, old.dtype, (len(order), old.shape[1]))
    for rows in chunks(order, COPIED_ROWS):
        block, added = np.empty((len(rows), old.shape[1]), old.dtype), rows >= len(old)
        block[~added], block[added] = old[rows[~added]], new[rows[added] - len(old)]
        file.write(block)
