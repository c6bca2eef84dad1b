"""A folder with small data, a model, an index and a run, in which a script's ``main`` is called, each time in a child.

All modules are loaded once; a child begins where they are loaded, which takes no time. It may write to the folder
alone, reaches no network, and begins no work that takes minutes: what would do so ends it as :class:`Begun`, as a
command line that has been accepted.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import test_layouts
import toy
import toy_encoders
from attack.__main__ import Outcome, attack

SECONDS, WAITING = 20, 60  # for a command line: of processor time, and in all, as the machine may be busy
SPARE_BYTES = 6 << 30  # of memory that a child may ask for beyond what there is when it begins
BEGUN = 99  # exit status
LOCKED = "locked"  # nothing in this folder can be opened or made
Snapshot = dict[str, tuple[int, int, str]]


class Begun(BaseException):
    """Work that takes minutes was about to begin."""


class Ran(NamedTuple):
    """What came of a command line."""

    status: int | None  # minus a signal; None: it ran for too long
    stdout: str
    stderr: str
    before: Snapshot
    after: Snapshot

    @property
    def changed(self) -> list[str]:
        """The files that were made, changed or removed."""
        return sorted(name for name in self.before.keys() | self.after.keys()
                      if self.before.get(name, ("",))[-1] != self.after.get(name, ("",))[-1])


class Sandbox:
    """The folder; making it trains a model, so it takes some seconds.

    Attributes:
        work: where the scripts are called; :meth:`restore` makes it what it was.
    """

    def __init__(self, folder: Path):
        self.folder, self.sound, self.work = folder, folder / "sound", folder / "work"
        (folder / "tmp").mkdir(parents=True)
        os.mkfifo(folder / "pipe")
        os.environ |= {"TMPDIR": str(folder / "tmp"), "PATH": "", "HF_HUB_OFFLINE": "1", "DISPLAY": "",
                       "MPLBACKEND": "agg", "NO_COLOR": "1", "COLUMNS": "100",
                       "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        os.environ.pop("WAYLAND_DISPLAY", None)
        import tempfile
        tempfile.tempdir = str(folder / "tmp")
        torch.set_num_threads(1)
        shorten()
        self.work.mkdir()
        write_files(self.work)
        for module, *argv in MADE:
            ran = self.run(module, argv, seconds=120)
            if ran.status != 0:
                raise AssertionError(f"{module} {' '.join(argv)}: status {ran.status}: {ran.stderr}")
        shutil.copy(self.work / "checkpoints/hash/toy_hash.pth", self.work / "model.pth")
        shutil.copytree(self.work, self.sound, symlinks=True)

    def restore(self, state: Path | None = None) -> None:
        """Make the folder what it was, or what it is in another folder; nothing is done if it is that already."""
        state = state or self.sound
        if snapshot(self.work) != snapshot(state):
            for path in self.work.iterdir():  # the folder itself may be a disk
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(state, self.work, symlinks=True, dirs_exist_ok=True)  # with the times of change

    def run(self, module: str, argv: Sequence[str], prepare: Callable[[], None] = lambda: None,
            seconds: int = SECONDS) -> Ran:
        """Call the ``main`` of a module in a child, after ``prepare`` there."""
        before = snapshot(self.work)
        out, err = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os._exit(self.call(module, argv, lambda: (limit_time(seconds), prepare()), (out[1], err[1])))
        for _, file in (out, err):
            os.close(file)
        status, printed = wait(child, seconds + WAITING, (out[0], err[0]))
        return Ran(status, *printed, before, snapshot(self.work))

    def call(self, module: str, argv: Sequence[str], prepare: Callable[[], None], printed: Sequence[int]) -> int:
        """What a child does; returns its exit status."""
        status = 1
        try:
            os.setpgid(0, 0)  # so that it can be ended with what it starts
            os.chdir(self.work)
            for number, file in enumerate(printed, 1):
                os.dup2(file, number)
                os.close(file)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdin = open(0, closefd=False)
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
            limit_memory()
            guard(self.folder)
            prepare()
            status = exit_status(lambda: importlib.import_module(module).main(list(argv)))
        except BaseException:
            traceback.print_exc()
        return status


def exit_status(run: Callable[[], object]) -> int:
    """The exit status of a program that does nothing but run something."""
    status = 0
    try:
        run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Begun:
        status = BEGUN
    except BaseException:
        with contextlib.suppress(OSError, AttributeError):
            traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):  # as Python does at its end
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = 120
    return status


def wait(child: int, seconds: float, pipes: Sequence[int]) -> tuple[int | None, list[str]]:
    """The exit status of a child, minus the signal that ended it, or None if it had to be ended after some time; and
    what it wrote to the pipes.
    """
    until, written, status = time.monotonic() + seconds, {pipe: b"" for pipe in pipes}, None
    waiting = set(pipes)
    while status is None and time.monotonic() < until:
        drain(waiting, written, 0.005)
        found, ended = os.waitpid(child, os.WNOHANG)
        status = ended if found else None
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # also what it has started
    if status is None:
        os.waitpid(child, 0)
    while drain(waiting, written, 0.005):
        pass
    for pipe in pipes:
        os.close(pipe)
    ended_by = None if status is None else os.waitstatus_to_exitcode(status)
    return (None if ended_by in (-signal.SIGKILL, -signal.SIGXCPU) else ended_by,
            [text.decode("utf-8", "replace") for text in written.values()])


def drain(waiting: set[int], written: dict[int, bytes], seconds: float) -> bool:
    """Read what is in pipes, after so many seconds at most; whether there was something. Closed ones leave ``waiting``.
    """
    ready, *_ = select.select(waiting, (), (), seconds)
    for pipe in ready:
        written[pipe] += (more := os.read(pipe, 1 << 16))
        if not more:
            waiting.remove(pipe)
    return bool(ready)


def snapshot(folder: Path) -> Snapshot:
    """The files below a folder: their sizes, times and digests, by name."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            about = path.stat()
            found[str(path.relative_to(folder))] = about.st_size, about.st_mtime_ns, digest(
                path, about.st_size, about.st_mtime_ns)
    return found


_digests: dict[tuple, str] = {}


def digest(path: Path, size: int, time: int) -> str:
    key = path, size, time
    if key not in _digests:
        _digests[key] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _digests[key]


# --- what a child may not do --------------------------------------------------------------------------------------


def limit_memory() -> None:
    """Let what would take all of the machine's memory raise MemoryError instead."""
    size = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, resource.RLIM_INFINITY))


def limit_time(seconds: int) -> None:
    """Let a signal end this process after so many seconds of processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def guard(folder: Path) -> None:
    """Refuse, from now on in this process, what reaches out of the folder: to other files for writing, to a network."""
    inside = os.path.realpath(folder)
    locked = os.path.join(inside, "work", LOCKED)
    allowed = os.devnull, "/dev/full", "/dev/zero", "/proc/"

    def refuse(event: str, arguments: tuple) -> None:
        if event == "socket.connect":
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        outside = [path for path in written(event, arguments) if not path.startswith((inside, *allowed))
                   and "__pycache__" not in path]
        seen = paths_of(arguments[:1]) if event in READING else []
        for path in [*outside, *(path for path in seen if path.startswith(locked))]:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    sys.addaudithook(refuse)


WRITING = {"open": 1, "os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.remove": 1,
           "os.rmdir": 1, "os.chmod": 1}  # audit events, with the number of their arguments that are paths
READING = {"open", "os.listdir", "os.scandir", *WRITING}


def written(event: str, arguments: tuple) -> list[str]:
    """The paths that an audit event is about to write, make or remove."""
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return []
    return paths_of(arguments[:WRITING.get(event, 0)])


def paths_of(arguments: Sequence[object]) -> list[str]:
    """Those arguments that are paths, resolved but for their last part."""
    found = []
    for path in arguments:
        if isinstance(path, (str, bytes, os.PathLike)):
            folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
            found.append(os.path.join(os.path.realpath(folder), name))
    return found


PACKAGES = ("uvicorn", "duckdb", "onnxscript", "onnxruntime", "huggingface_hub", "safetensors")  # of optional parts


def sample(name: str, first: int, count: int, by: str) -> Outcome:
    """What an attack in a sandbox gives in the ordinary tests, within 150 seconds; skips without the optional parts."""
    import pytest

    for package in PACKAGES:
        pytest.importorskip(package)
    return attack(name, first, count, time.monotonic() + 150, by)


def begin(*_, **__) -> None:
    raise Begun


def shorten() -> None:
    """Let what takes long begin nothing, leave out the drawings, and take toy encoders."""
    import uvicorn

    from benchmarks import documents, search_speed, speed, trainings
    from extraction.encoders import packaged
    from reporting import page, plots

    for module, name in ((uvicorn.Server, "run"), (trainings, "run_all"), (speed, "save_hdf5"),
                         (search_speed, "limits"), (plots, "show")):
        setattr(module, name, begin)
    documents.recorded, documents.write_documents = (lambda root: {}), (lambda root: [])
    page.shown_figure = lambda caption, figure: {"caption": caption, "svg": "", "downloads": []}
    packaged.load = toy_encoders.toy_encoders


# --- what there is ------------------------------------------------------------------------------------------------

PAIRS = 160
TRAINING = ("--dataset", "toy", "--hash_lens", "4", "8", "--hidden", "8", "--batch_size", "16", "--epoch", "1",
            "--device", "cpu")
MADE = (("ICMR", *TRAINING, "--run_name", "run"), ("ICMR", *TRAINING, "--run_name", "other", "--scale_max", "8",
                                                   "--checkpoint_dir", "others"),
        ("search", "build", "--checkpoint", "checkpoints/hash/toy_hash.pth", "--dataset", "toy", "--folder", "index",
         "--rescore", "int8"))


def write_files(folder: Path) -> None:
    """What the command lines name."""
    from PIL import Image

    toy.write_toy(folder, PAIRS, 12, image_file=np.array([f"{row}.png" for row in range(PAIRS)], dtype=object),
                  caption=np.array([f"words {row}" for row in range(PAIRS)], dtype=object))
    random = np.random.default_rng(0)
    for side, width in (("image", 9), ("text", 5)):
        np.save(folder / f"{side}.npy", random.normal(size=(3, width)).astype(np.float32))
    np.save(folder / "ids.npy", np.arange(100, 103))
    (folder / "captions.txt").write_text("one\ntwo\nthree\n")
    (folder / "settings.yaml").write_text("noise: 0.5\n")
    (folder / "photos").mkdir()
    for row in range(12):
        Image.new("RGB", (30, 20), (row, 2 * row, 100)).save(folder / "photos" / f"{row}.png")
    (folder / "photos.csv").write_text("image,caption,label\n" + "".join(f"{row}.png,words {row},{'ab'[row % 2]}\n"
                                                                         for row in range(12)))
    for name, files in (("mirflickr", test_layouts.mir_files()), ("nus-wide", test_layouts.nus_files()),
                        ("coco", test_layouts.coco_files(2017)),
                        ("flickr30k", test_layouts.flickr_files("results_20130124.token")),
                        ("flickr8k", test_layouts.flickr_files("Flickr8k.token.txt"))):
        test_layouts.unpacked(folder / "downloads" / name, files)
    (folder / LOCKED).mkdir()
    (folder / LOCKED / "file").write_text("of another\n")
