"""Attacks every reader with damaged files, kills and starves what writes, and prints what came of it.

    python tests/attack --count 10000 --kills 100 --lines 500 --disks 5000 --seconds 8000
    python tests/attack ... --write docs/safety.md      # puts the tables there, too

A child process damages a sample and reads it, again and again; this one watches it and starts another when it hangs or
dies. Whatever isn't read or refused in one line is a failure, and its seed gives it again: --format NAME --first SEED
--count 1. With --kills operations are killed and done again (kills.py), with --lines wrong command lines are given
(command_lines.py), and with --disks scripts write where nothing can be written (full_disks.py). The exit status is 1
if there was a failure.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOUND = ("read", "refused", "resumed")
SECONDS = {"attack.worker": 20, "attack.kills": 300, "attack.command_lines": 300, "attack.full_disks": 300}  # for a try
STARTING = 120  # seconds for the imports
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
               "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # others take the other cores, and threads can't fork
VERSIONS = ("numpy", "h5py", "torch", "pillow", "pyarrow", "starlette")


class Outcome(collections.Counter):
    """How often what came of a damaged file, with the first seeds of each failure, and the most that a file took."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, list[str]] = collections.defaultdict(list)
        self.seconds, self.memory = 0.0, 0  # bytes, beyond the file's size

    def note(self, outcome: str, seed: int, detail: str = "", seconds: float = 0, memory: int = 0) -> None:
        self[outcome] += 1
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, memory)
        if outcome not in SOUND and len(self.examples[outcome]) < 5:
            self.examples[outcome].append(f"seed {seed}{': ' if detail else ''}{detail[:300]}")

    @property
    def failures(self) -> int:
        return sum(count for outcome, count in self.items() if outcome not in SOUND)


def attack(name: str, first: int, count: int, until: float, by: str = "attack.worker") -> Outcome:
    """Read ``count`` damaged files of a format, seeds ``first`` and on, or fewer if the time is over; or let another
    module do as much: ``by`` "attack.kills" of an operation, "attack.command_lines" or "attack.full_disks".
    """
    outcome, seed = Outcome(), first
    while seed < first + count and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.Popen([sys.executable, "-m", by, name, str(seed), str(first + count),
                                       folder], cwd=ROOT,
                                      env=os.environ | ENVIRONMENT | {"TMPDIR": folder},
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            said: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=lambda: [*map(said.put, worker.stdout), said.put(None)], daemon=True).start()
            patience = STARTING
            while time.monotonic() < until:
                try:
                    line = said.get(timeout=patience)
                except queue.Empty:
                    outcome.note("hang", seed)
                    seed += 1
                    break
                if line is None:
                    if worker.wait():
                        outcome.note("crash", seed, f"exit status {worker.returncode} {worker.stderr.read()[-200:]}")
                        seed += 1
                    break
                outcome.note(*json.loads(line))
                seed += 1
                patience = SECONDS[by] if seed < first + count else STARTING  # to end
            worker.kill()
            worker.communicate()
    return outcome


def attack_all(rounds: Sequence[tuple[str, int, str]], first: int, seconds: float) -> list[Outcome]:
    """The outcomes of rounds, a name, a count and a module each, as :func:`attack` takes them. They run side by side, one
    on each core, and each for up to three times its share of the time that is left, as most need less.
    """
    cores, end, waiting = os.cpu_count() or 1, time.monotonic() + seconds, len(rounds)

    def attack_one(name: str, count: int, by: str) -> Outcome:
        nonlocal waiting
        share = (end - time.monotonic()) * min(1, 3 * cores / waiting)
        waiting -= 1
        return attack(name, first, count, time.monotonic() + share, by)

    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(attack_one, *zip(*rounds)))


def tables(rounds: Sequence[tuple[str, int, str]], outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes in Markdown: of files, and of all else."""
    from benchmarks import blocks

    files, others = [], []
    for (name, _, by), outcome in zip(rounds, outcomes):
        counts = [f"{count:,}" for count in (outcome.total(), outcome["read"], outcome["refused"], outcome.failures)]
        if by == "attack.worker":
            files.append([name, *counts, f"{outcome.seconds:.1f}", f"{outcome.memory >> 20:,}"])
        else:
            name = f"{name}, killed" if by == "attack.kills" else name
            others.append([name, counts[0], f"{outcome.total() - outcome.failures:,}", counts[-1]])
    both = [blocks.table(["files", "tried", "read", "refused in one line", "failures", "seconds at most",
                          "MB beyond its size at most"], files)] if files else []
    both += [blocks.table(["", "tried", "resumed, done or refused in one line", "failures"], others)] if others else []
    return [line for lines in both for line in (*lines, "")]


def origin(argv: Sequence[str]) -> str:
    """The command, the date, the versions and the system."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS if importlib.util.find_spec(
        {"pillow": "PIL"}.get(name, name)))
    return (f"`python tests/attack {' '.join(argv)}`, {datetime.date.today()}, with Python "
            f"{platform.python_version()}, {versions}; {platform.system()}, {os.cpu_count()} cores.")


def main(argv: list[str] | None = None) -> int:
    from attack.formats import installed
    from benchmarks.documents import filled
    from common.atomic_files import write_atomically

    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python tests/attack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="damaged files of each format (default: 300)")
    parser.add_argument("--seconds", type=float, default=600, help="for all of it (default: 600)")
    parser.add_argument("--format", nargs="*", choices=installed(), default=installed(), help="(default: all)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--kills", type=int, default=0, help="of each operation (default: 0)")
    parser.add_argument("--lines", type=int, default=0, help="wrong command lines (default: 0)")
    parser.add_argument("--disks", type=int, default=0, help="full disks and closed outputs (default: 0)")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="also put the tables into the block of this "
                                                                      "document that begins <!-- results: attack -->")
    options = parser.parse_args(argv)
    rounds = [(name, options.count, "attack.worker") for name in options.format]
    if options.kills:
        from attack.operations import OPERATIONS

        rounds += [(name, options.kills, "attack.kills") for name in OPERATIONS]
    rounds += [(name, count, by) for name, count, by in (
        ("command lines", options.lines, "attack.command_lines"),
        ("full disks", options.disks, "attack.full_disks")) if count]
    outcomes = attack_all(rounds, options.first, options.seconds)
    lines = [*tables(rounds, outcomes), origin(argv)]
    print(*lines, sep="\n")
    for (name, _, _), outcome in zip(rounds, outcomes):
        for kind, examples in outcome.examples.items():
            print(f"\n{name}: {kind}, {outcome[kind]:,} times", *examples, sep="\n  ")
    if options.write:
        text = filled(options.write.name, options.write.read_text("utf-8"), lines, ("attack",),
                      {"attack": lambda lines: lines})
        write_atomically(options.write, lambda file: file.write(text), "w")
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    raise SystemExit(main())
