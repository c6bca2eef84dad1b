"""Kills an operation again and again, and does it again after each kill; prints a line of JSON for each: what came of
it, its seed, and a detail. ``python -m attack.kills OPERATION FIRST_SEED END FOLDER``, started by ``attack.__main__``.

Every other kill is before, after or in the midst of a write, the others are at any time. Without an OPERATION ("any")
they take turns. The work is done in forks of this process, which has loaded all that they need and started no threads.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # first: a process with threads can't be forked

import functools
import json
import pickle
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from attack.operations import OPERATIONS, Operation, make_small
from common import atomic_files
from exporting.databases import DuckDB
from indexing.folder import NewVersion

# All by which the operations change the disk; of libraries' own files what calls them.
WRITES = ((atomic_files, "_temporary_file"), (os, "fsync"), (os, "replace"), (os, "unlink"), (shutil, "copyfile"),
          (shutil, "rmtree"), (NewVersion, "write_faiss"), (DuckDB, "insert"))

TRIES = 20  # for a kill that comes before the work is done


class Uninterrupted(NamedTuple):
    """An operation without a kill."""

    before: dict[str, str]  # what a reader finds
    after: dict[str, str]
    files: list[str]  # that are there afterwards
    moments: int  # of its writes at which it can be killed
    seconds: float


class Moments:
    """The moments before, after and in the midst of writes, counted; at the number ``fatal`` this process is killed."""

    def __init__(self, fatal: int | None = None):
        self.count, self.fatal, self.temporary = 0, fatal, None
        for place, name in WRITES:
            setattr(place, name, self.watched(getattr(place, name)))

    def watched(self, write: Callable) -> Callable:
        fsync = write is os.fsync

        @functools.wraps(write)
        def call(*arguments, **more):
            self.reach()
            if fsync and self.temporary is not None and not self.temporary.closed:
                self.reach(half=arguments[0] == self.temporary.fileno())
            result = write(*arguments, **more)
            if write.__name__ == "_temporary_file":
                self.temporary = result
            self.reach()
            return result

        return call

    def reach(self, half: bool = False) -> None:
        if self.count == self.fatal:
            if half:
                os.truncate(self.temporary.name, os.path.getsize(self.temporary.name) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def main(name: str, first: int, end: int, folder: Path) -> None:
    names = [name] if name in OPERATIONS else list(OPERATIONS)
    make_small()
    known: dict[str, Uninterrupted] = {}
    for seed in range(first, end):
        round, place = divmod(seed, len(names))
        name, prepared = names[place], folder / names[place]
        operation = OPERATIONS[name]
        if name not in known:
            prepared.mkdir()
            in_fork(lambda: operation.prepare(prepared))
            known[name] = in_fork(lambda: uninterrupted(operation, copied(prepared)))
        try:
            how = kill(operation, known[name], prepared, random.Random(seed), at_write=round % 2 == 0)
            outcome, detail = in_fork(lambda: judged(operation, known[name], prepared.with_name("trial")))
        except RuntimeError as error:
            outcome, how, detail = "crash", "", str(error)
        print(json.dumps([outcome, seed, detail and f"{name}, killed {how}: {detail}"]), flush=True)


def copied(prepared: Path) -> Path:
    """A copy of what was prepared, always in the same place, as a data set names the folder of its pictures."""
    trial = prepared.with_name("trial")
    shutil.rmtree(trial, ignore_errors=True)
    return Path(shutil.copytree(prepared, trial))


def uninterrupted(operation: Operation, trial: Path) -> Uninterrupted:
    before, moments, started = operation.found(trial), Moments(), time.monotonic()
    operation.work(trial)
    seconds, count = time.monotonic() - started, moments.count
    return Uninterrupted(before, operation.found(trial), files(trial), count, seconds)


def kill(operation: Operation, known: Uninterrupted, prepared: Path, rng: random.Random, at_write: bool) -> str:
    """Kill the operation once; returns when. A kill that comes too late is tried again."""
    for _ in range(TRIES):
        trial = copied(prepared)
        fatal, seconds = rng.randrange(known.moments), rng.uniform(0, known.seconds)
        begun, begin = os.pipe()

        def work():
            if at_write:
                Moments(fatal)
            os.write(begin, b"!")
            operation.work(trial)

        child = fork(work)
        os.read(begun, 1)
        if not at_write:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        os.close(begun), os.close(begin)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL:
            return f"at moment {fatal} of {known.moments}" if at_write else f"after {seconds:.3f} s"
    raise RuntimeError(f"not killed in {TRIES} tries")


def judged(operation: Operation, known: Uninterrupted, trial: Path) -> tuple[str, str]:
    """What is there after a kill, and after the same work again."""
    said = "lost"
    try:
        found = operation.found(trial)
        harmed = [name for name in found.keys() | known.before.keys() | known.after.keys()
                  if found.get(name) not in (known.before.get(name), known.after.get(name))]
        if harmed:
            return "lost", f"neither old nor new: {', '.join(sorted(harmed)[:5])}"
        said = "not resumed"
        operation.work(trial)
        if operation.found(trial) != known.after:
            return "not resumed", "differs from the uninterrupted work"
        if odd := set(files(trial)) ^ set(known.files):
            return "left over", ", ".join(sorted(odd)[:5])
    except BaseException as error:
        return said, "".join(traceback.format_exception_only(error)) + str(error.__context__ or "")
    return "resumed", ""


def files(folder: Path) -> list[str]:
    """The files in a folder, without the numbers of the versions of an index."""
    return sorted(re.sub(r"\bv\d+\b", "v", path.relative_to(folder).as_posix()) for path in folder.rglob("*"))


# --- forks ------------------------------------------------------------------------------------------------------------


def fork(work: Callable[[], object]) -> int:
    """Do the work in a child process, silently; returns its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1), os.dup2(nothing, 2)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def in_fork(work: Callable[[], object]) -> object:
    """What the work returns, done in a child process. Raises RuntimeError if it fails there."""
    reading, writing = os.pipe()

    def report():
        os.close(reading)
        try:
            answer = work(), None
        except BaseException:
            answer = None, traceback.format_exc()
        with open(writing, "wb") as file:
            pickle.dump(answer, file)

    child = fork(report)
    os.close(writing)
    with open(reading, "rb") as file:
        content = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not content:
        raise RuntimeError(f"exit status {status}")
    answer, error = pickle.loads(content)
    if error is not None:
        raise RuntimeError(error)
    return answer


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
