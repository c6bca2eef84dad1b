"""Disks that take no more, folders that can't be written, and output that nobody takes, at each write of each script;
prints a line of JSON for each: what came of it, its seed, and a detail. ``python -m attack.full_disks OPERATION[,...]
FIRST_SEED END FOLDER``, started by ``attack.__main__``; "full disks" stands for all operations.

An operation is done undisturbed first, which says what it writes and when; then something stands in its way. Whatever
was there before has to be there afterwards as it was, or as the undisturbed operation leaves it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import io
import json
import mmap
import os
import random
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from attack.sandbox import TRAINING, Ran, Sandbox, written
from common.errors import MESSAGE

NAME = "full disks"
TRAINED = (*TRAINING, "--epoch", "2", "--eval_every", "1")
ENCODED = ("--query", "1", "--out", "made/made.h5")
OPERATIONS: dict[str, tuple[str, ...]] = {
    "query": ("search", "query", "--folder", "index", "--item", "0", "1", "--gallery", "made/page.html"),
    "add": ("search", "add", "--folder", "index", "--image_features", "image.npy", "--captions", "captions.txt"),
    "export": ("search", "export", "--folder", "index", "--out", "made.parquet"),
    "train": ("ICMR", *TRAINED, "--run_name", "run", "--codes_mat", "true", "--tensorboard", "true"),
    "half": ("export_model", "model.pth", "--out", "exported", "--to", "half", "safetensors"),
    "extract": ("extract_features", "folder", "--images", "photos", "--captions", "photos.csv", *ENCODED),
    "convert": ("load_data", "toy", "--convert", "made/made.h5"),
    "report": ("report", "results/toy/run"),
    "remove": ("search", "remove", "--folder", "index", "--ids", "20"),
    "update": ("search", "update", "--folder", "index", "--ids", "20", "21", "22", "--image_features", "image.npy"),
    "load": ("search", "load", "--folder", "index", "--to", "duckdb:made.db"),
    "info": ("search", "info", "--folder", "index"),
    "evaluate": ("search", "evaluate", "--folder", "index", "--rerank", "60"),
    **{f"build {kind}": ("search", "build", "--checkpoint", "model.pth", "--dataset", "toy", "--folder", "index",
                         "--rescore", "int8", "--index", kind) for kind in ("flat", "hnsw")},
    "separate": ("ICMR", *TRAINED, "--nested", "false", "--run_name", "run"),
    "test": ("ICMR", *TRAINED, "--task", "3", "--run_name", "run"),
    "inspect": ("extract_features", "inspect", "toy"),
    "tables": ("benchmark", "tables", "--export", "exported"),
    "compare": ("benchmark", "compare", "results/toy/run", "results/toy/other", "--out", "made/compared.md"),
    "methods": ("benchmark", "--datasets", "toy", "--seeds", "1", "--methods", "LSH", "ours", "--hash_lens", "4",
                "--epoch", "1", "--jobs", "1", "--record", "--records_dir", "records"),
    "charts": ("test_progressive_hash", *TRAINED, "--hash_lens", "4"),
    "demonstration": ("demo_progressive_vs_original", *TRAINED, "--seeds", "0"),
    "onnx": ("export_model", "model.pth", "--out", "exported", "--to", "onnx", "torch", "--inputs", "image"),
}
EVENTS = "events.out.tfevents"  # of TensorBoard: their names have the time in them, and they grow
LOGS = ("log.txt", "training.log")  # they grow line by line, and say what went wrong
SESSION = ".ses"  # onnxruntime leaves it among the temporary files
ENDS = {".html": b"</html>", ".svg": b"</svg>", ".pdf": b"%%EOF", ".png": b"IEND\xaeB`\x82", ".md": b"\n", ".csv": b"\n",
        ".tex": b"\n"}  # of whole files
SECONDS = 60  # for an operation


# --- what stands in the way -----------------------------------------------------------------------------------------


class Way(NamedTuple):
    """What stands in the way: from, once, size, stream, or on a disk of one's own pages or read-only."""

    kind: str
    at: int | str = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.at}"


STREAMS = ("stdout closed", "stdout full", "stdout unread", "stderr closed", "stderr full", "stdin closed",
           "both closed", "both full")


class Undisturbed(NamedTuple):
    """An operation when nothing stands in its way."""

    before: Path  # a copy of the folder
    ran: Ran
    events: int  # files opened for writing, folders made, files moved, and data flushed to the disk

    def ways(self, disk: bool) -> list[Way]:
        sizes = {after[0] for name, after in self.ran.after.items() if self.ran.before.get(name) != after}
        pages = sum(size // PAGE + 1 for size in sizes) + 4
        return [*(Way(kind, at) for kind in ("from", "once") for at in range(self.events)),
                *(Way("size", at) for at in sorted({at for size in sizes if size for at in (0, size // 2, size - 1)})),
                *(Way("stream", at) for at in STREAMS),
                *(Way("pages", at) for at in range(pages) if disk), *([Way("read-only")] if disk else [])]


def count_writes(act: Callable[[], None], work: Path) -> None:
    """Call ``act`` at every write below the folder, from now on in this process; what it raises is what the write
    raises.
    """
    inside, plain = os.path.realpath(work), os.fsync

    def fsync(file: int) -> None:
        act()
        plain(file)

    def hook(event: str, arguments: tuple) -> None:
        if event not in ("os.remove", "os.rmdir", "os.chmod") and any(path.startswith(inside)
                                                                      for path in written(event, arguments)):
            act()

    os.fsync = fsync
    sys.addaudithook(hook)


def stand_in(way: Way, work: Path) -> None:
    """Let something stand in the way, from now on in this process."""
    if way.kind in ("from", "once"):
        passed = 0

        def refuse() -> None:
            nonlocal passed
            passed += 1
            if passed - 1 == way.at or way.kind == "from" and passed > way.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        count_writes(refuse, work)
    elif way.kind == "size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (way.at, resource.RLIM_INFINITY))
    elif way.kind == "stream":
        which, how = way.at.split()
        numbers = {"stdin": [0], "stdout": [1], "stderr": [2], "both": [1, 2]}[which]
        for number in numbers:
            name = ("stdin", "stdout", "stderr")[number]
            if how == "closed":
                os.close(number)
                setattr(sys, name, None)
            elif how == "full":
                os.dup2(os.open("/dev/full", os.O_WRONLY), number)
            else:
                unread, pipe = os.pipe()
                os.close(unread)
                os.dup2(pipe, number)


def real_trainings() -> None:
    """Let benchmark.py train for real, in this process."""
    from benchmarks import records, trainings

    trainings.run_all = lambda jobs, results, processes: [found or trainings.run(job)
                                                          for job, found in zip(jobs, results)]
    records.committed = lambda module: ("0" * 40, "")


# --- a disk of one's own --------------------------------------------------------------------------------------------

PAGE = 4096
MOUNT = shutil.which("mount") if sys.platform == "linux" else None
CLONE_NEWNS = 0x20000  # of linux/sched.h


def mounted(work: Path) -> bool:
    """Make the folder a disk in memory, for this process and its children alone, if it may."""
    return (MOUNT is not None and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0 and run_mount("--make-rprivate", "/")
            and run_mount("-t", "tmpfs", "-o", "size=1g", "none", str(work)))


def run_mount(*arguments: str) -> bool:
    return subprocess.run([MOUNT, *arguments], capture_output=True).returncode == 0


def resize(work: Path, way: Way | None) -> None:
    """Make the disk one that takes so many more pages, or none at all; without a way a large one."""
    size = "1g"
    if way is not None and way.kind == "pages":
        about = os.statvfs(work)
        size = str((about.f_blocks - about.f_bfree + way.at) * PAGE)
    mode = "ro" if way is not None and way.kind == "read-only" else "rw"
    if not run_mount("-o", f"remount,{mode},size={size}", str(work)):
        raise OSError(f"{work}: cannot be mounted anew")


# --- what is left ---------------------------------------------------------------------------------------------------


def sound(path: Path) -> bool:
    """Whether a file that is never the same twice is whole."""
    import h5py
    import pyarrow.parquet
    import scipy.io
    import torch

    checks: dict[str, Callable[[bytes], object]] = {
        ".json": json.loads, ".jsonl": lambda content: [*map(json.loads, content.splitlines())],
        **{suffix: functools.partial(require_end, end) for suffix, end in ENDS.items()},
        ".pth": lambda content: (torch.load(io.BytesIO(content), weights_only=True), zipfile.ZipFile(path).testzip()),
        ".replaced": lambda content: torch.load(io.BytesIO(content), weights_only=True),
        ".pt2": lambda content: zipfile.ZipFile(path).testzip(),
        ".npz": lambda content: [*np.load(io.BytesIO(content)).values()],
        ".npy": lambda content: np.load(io.BytesIO(content)),
        ".h5": lambda content: h5py.File(io.BytesIO(content)).visititems(lambda _, item: isinstance(
            item, h5py.Dataset) and item[...] is None or None),
        ".db": lambda _content: read_database(path), ".wal": lambda _content: read_database(path.with_suffix("")),
        ".parquet": lambda content: pyarrow.parquet.read_table(io.BytesIO(content)),
        ".mat": lambda content: scipy.io.loadmat(io.BytesIO(content))}
    try:
        return path.suffix in checks and (checks[path.suffix](path.read_bytes()), True)[1]
    except Exception:
        return False


def require_end(end: bytes, content: bytes) -> None:
    if not content.endswith((end, end + b"\n")):
        raise ValueError


def read_database(path: Path) -> None:
    """Raise an error unless DuckDB can read a file, with the log of changes beside it that it keeps."""
    import duckdb
    with duckdb.connect(str(path), read_only=True) as database:
        database.execute("SELECT count(*) FROM duckdb_tables()").fetchall()


def harmed(undisturbed: Undisturbed, ran: Ran, work: Path) -> Iterator[str]:
    """What is wrong with the files afterwards."""
    expected = undisturbed.ran.after
    for name in undisturbed.ran.before.keys() & expected.keys() - ran.after.keys():
        yield f"{name} is gone"
    for name, (*_, digest) in ran.after.items():
        if name in ran.before and ran.before[name][-1] == digest or name in expected and expected[name][-1] == digest:
            continue
        parts = Path(name).parts
        if parts[-1] in (*LOGS, ".lock") or "building" in parts or EVENTS in name \
                or any(part.endswith(".partial") for part in parts) and not parts[-1].startswith("."):
            continue
        if parts[-1].startswith(".") or name.endswith(".tmp"):
            yield f"{name} is left"
        elif not sound(work / name):
            yield f"{name} is {'harmed' if name in ran.before else 'incomplete'}"


def classify(way: Way, undisturbed: Undisturbed, ran: Ran, work: Path) -> tuple[str, str]:
    """What came of an operation, and a detail."""
    lines = ran.stderr.splitlines()
    mute = way.kind == "stream" and way.at.split()[0] in ("stderr", "both")
    if ran.status is None:
        return "hang", ""
    if wrong := [*harmed(undisturbed, ran, work)]:
        return "harm", f"status {ran.status}: {', '.join(wrong[:3])}: {' / '.join(lines)}"
    if "Traceback" in ran.stderr or ran.status not in (0, 2, *([141] if way.at == "stdout unread" else [])):
        return f"status {ran.status}", " / ".join(lines[-3:])
    if ran.status != 2:
        missing = [name for name in undisturbed.ran.changed if name not in ran.changed and EVENTS not in name]
        return ("a failure unsaid", ", ".join(missing)) if missing and way.kind != "stream" else ("read", "")
    errors = [line for line in lines if line.startswith("error: ")]  # others say how far it has come
    if not mute and (len(errors) != 1 or lines[-1] != errors[0] or len(errors[0]) > MESSAGE + 10):
        return "a poor message", " / ".join(lines)
    return "refused", ""


# --- the attack -----------------------------------------------------------------------------------------------------


class Attack:
    """The operations, each with what it does undisturbed, and all ways in which it can be disturbed."""

    def __init__(self, names: Sequence[str], folder: Path, disk: bool):
        self.names, self.sandbox = names, Sandbox(folder)
        self.disk = disk and mounted(self.sandbox.work)
        self.sandbox.restore()
        real_trainings()

    @functools.cache
    def undisturbed(self, name: str, again: bool) -> Undisturbed:
        """What an operation does where it is done for the first time, or again; if it can't be done again, the first
        time.
        """
        module, *argv = OPERATIONS[name]
        first = self.undisturbed(name, False) if again else None
        state = self.sandbox.folder / f"{name} again" if again else self.sandbox.sound
        if again:
            shutil.copytree(self.sandbox.folder / f"{name} done", state, symlinks=True)
        self.sandbox.restore(state)
        counter = mmap.mmap(-1, 8)

        def count() -> None:
            counter[:] = (int.from_bytes(counter[:], "little") + 1).to_bytes(8, "little")

        ran = self.sandbox.run(module, argv, lambda: count_writes(count, self.sandbox.work), SECONDS)
        if ran.status != 0:
            if again:
                return first
            raise AssertionError(f"{name}: status {ran.status}: {ran.stderr}")
        if not again:
            shutil.copytree(self.sandbox.work, self.sandbox.folder / f"{name} done", symlinks=True)
        return Undisturbed(state, ran, int.from_bytes(counter[:], "little"))

    def case(self, seed: int) -> tuple[str, Way, Undisturbed]:
        """The operation of a seed, what stands in its way, and what it does undisturbed."""
        name, number = self.names[seed % len(self.names)], seed // len(self.names)
        undisturbed = self.undisturbed(name, number % 2 == 1)
        ways = undisturbed.ways(self.disk)
        random.Random(name).shuffle(ways)
        return name, ways[number // 2 % len(ways)], undisturbed

    def try_seed(self, seed: int) -> tuple[str, str]:
        """What comes of a seed, and a detail."""
        name, way, undisturbed = self.case(seed)
        module, *argv = OPERATIONS[name]
        self.sandbox.restore(undisturbed.before)
        if self.disk:
            resize(self.sandbox.work, way)
        ran = self.sandbox.run(module, argv, lambda: stand_in(way, self.sandbox.work), SECONDS)
        if self.disk:
            resize(self.sandbox.work, None)
        outcome, detail = classify(way, undisturbed, ran, self.sandbox.work)
        if left := [name for name in os.listdir(self.sandbox.folder / "tmp") if name != SESSION]:
            shutil.rmtree(self.sandbox.folder / "tmp")
            (self.sandbox.folder / "tmp").mkdir()
            outcome, detail = "temporary files left", f"{outcome} {left[:3]}"
        index = "index" in argv and any(file.startswith("index/") for file in ran.changed)
        if index and outcome in ("read", "refused"):
            whole = self.sandbox.run("search", ["info", "--folder", "index"])
            if whole.status:
                outcome, detail = "harm", whole.stderr
        return outcome, f"{name}, {way}: {detail}"


def main(names: str, first: int, end: int, folder: Path) -> None:
    attack = Attack(list(OPERATIONS) if names == NAME else names.split(","), folder, disk=names == NAME)
    for seed in range(first, end):
        outcome, detail = attack.try_seed(seed)
        print(json.dumps([outcome, seed, detail]), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
