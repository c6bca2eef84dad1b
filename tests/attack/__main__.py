"""Attacks every reader with damaged files, and prints what came of it.

    python tests/attack --count 100000 --seconds 3600
    python tests/attack --count 100000 --seconds 3600 --write docs/safety.md      # puts the table there, too

A child process damages a sample and reads it, again and again; this one watches it and starts another when it hangs or
dies. Whatever isn't read or refused in one line is a failure, and its seed gives it again: --format NAME --first SEED
--count 1. The exit status is 1 if there was one.
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
SECONDS = 20  # for one file
STARTING = 120  # seconds for the imports
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
        if outcome not in ("read", "refused") and len(self.examples[outcome]) < 5:
            self.examples[outcome].append(f"seed {seed}{': ' if detail else ''}{detail[:300]}")

    @property
    def failures(self) -> int:
        return sum(count for outcome, count in self.items() if outcome not in ("read", "refused"))


def attack(name: str, first: int, count: int, until: float) -> Outcome:
    """Read ``count`` damaged files of a format, seeds ``first`` and on, or fewer if the time is over."""
    outcome, seed = Outcome(), first
    while seed < first + count and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.Popen([sys.executable, "-m", "attack.worker", name, str(seed), str(first + count),
                                       folder], cwd=ROOT,
                                      env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": folder,
                                                        "OMP_NUM_THREADS": "1"},  # other formats take the other cores
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
                seed, patience = seed + 1, SECONDS
            worker.kill()
            worker.communicate()
    return outcome


def attack_all(names: Sequence[str], first: int, count: int, seconds: float) -> dict[str, Outcome]:
    """Attack formats side by side, one on each core; what one of them leaves of its share of the time is the others'.
    """
    cores, end, waiting = os.cpu_count() or 1, time.monotonic() + seconds, list(names)

    def attack_one(name: str) -> Outcome:
        share = (end - time.monotonic()) * min(1, cores / len(waiting))
        waiting.remove(name)
        return attack(name, first, count, time.monotonic() + share)

    with ThreadPoolExecutor(cores) as pool:
        return dict(zip(names, pool.map(attack_one, names)))


def table(outcomes: dict[str, Outcome]) -> list[str]:
    """The outcomes in Markdown."""
    from benchmarks import blocks

    rows = [[name, *map("{:,}".format, (outcome.total(), outcome["read"], outcome["refused"], outcome.failures)),
             f"{outcome.seconds:.1f}", f"{outcome.memory >> 20:,}"] for name, outcome in outcomes.items()]
    return blocks.table(["files", "tried", "read", "refused in one line", "failures", "seconds at most",
                         "MB beyond its size at most"], rows)


def origin(argv: Sequence[str]) -> str:
    """The command, the date, the versions and the system."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS if importlib.util.find_spec(
        {"pillow": "PIL"}.get(name, name)))
    return (f"`python tests/attack {' '.join(argv)}`, {datetime.date.today()}, with Python "
            f"{platform.python_version()}, {versions}; {platform.system()}, {os.cpu_count()} cores.")


def main(argv: list[str] | None = None) -> int:
    from attack.formats import FORMATS
    from benchmarks.documents import filled
    from common.atomic_files import write_atomically

    argv = sys.argv[1:] if argv is None else argv
    installed = [name for name, form in FORMATS.items() if all(map(importlib.util.find_spec, form.packages))]
    parser = argparse.ArgumentParser(prog="python tests/attack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="damaged files of each format (default: 300)")
    parser.add_argument("--seconds", type=float, default=600, help="for all of them (default: 600)")
    parser.add_argument("--format", nargs="+", choices=installed, default=installed)
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="also put the table into the block of this "
                                                                      "document that begins <!-- results: attack -->")
    options = parser.parse_args(argv)
    outcomes = attack_all(options.format, options.first, options.count, options.seconds)
    lines = [*table(outcomes), "", origin(argv)]
    print(*lines, sep="\n")
    for name, outcome in outcomes.items():
        for kind, examples in outcome.examples.items():
            print(f"\n{name}: {kind}, {outcome[kind]:,} times", *examples, sep="\n  ")
    if options.write:
        text = filled(options.write.name, options.write.read_text("utf-8"), lines, ("attack",),
                      {"attack": lambda lines: lines})
        write_atomically(options.write, lambda file: file.write(text), "w")
    return int(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    raise SystemExit(main())
