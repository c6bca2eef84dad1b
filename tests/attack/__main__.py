"""Attacks every reader with damaged files, kills what writes, and prints what came of it.

    python -m tests.attack --count 100000 --kills 100 --lines 500 --disks 1000 --seconds 3600

A child process damages a sample and reads it, again and again; this one watches it and starts another when it hangs or
dies. Whatever isn't read or refused in one line is a failure, and its seed gives it again: --format NAME --first SEED
--count 1. With --kills operations are killed, too, and done again (kills.py); what isn't resumed is a failure. With
--lines wrong command lines are given (command_lines.py), with --disks scripts write where nothing can be written
(full_disks.py). The exit status is 1 if there was a failure.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOUND = ("read", "refused", "resumed")
SECONDS = 20  # for one file
SLOW = {"attack.command_lines": 300, "attack.full_disks": 300}  # seconds for a script, some are first done undisturbed
STARTING = 120  # seconds for the imports
PATHS = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
ENVIRONMENT = dict.fromkeys(SLOW, {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"})  # threads don't survive a fork


class Outcome(collections.Counter):
    """How often what came of a damaged file, with the first seeds of each failure."""

    def __init__(self) -> None:
        super().__init__()
        self.examples: dict[str, list[str]] = collections.defaultdict(list)

    def note(self, outcome: str, seed: int, detail: str = "") -> None:
        self[outcome] += 1
        if outcome not in SOUND and len(self.examples[outcome]) < 5:
            self.examples[outcome].append(f"seed {seed}{': ' if detail else ''}{detail[:300]}")

    @property
    def failures(self) -> int:
        return sum(count for outcome, count in self.items() if outcome not in SOUND)


def attack(name: str, first: int, count: int, until: float, by: str = "attack.worker") -> Outcome:
    """Read ``count`` damaged files of a format, seeds ``first`` and on, or fewer if the time is over; or let another
    worker do as much: "attack.kills" of an operation, "attack.command_lines" or "attack.full_disks".
    """
    outcome, seed = Outcome(), first
    while seed < first + count and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.Popen([sys.executable, "-m", by, name, str(seed), str(first + count),
                                       folder], cwd=ROOT, env=os.environ | ENVIRONMENT.get(by, {}) | PATHS,
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
                seed, patience = seed + 1, SLOW.get(by, SECONDS)
            worker.kill()
            worker.communicate()
    return outcome


def main(argv: list[str] | None = None) -> int:
    from attack.formats import FORMATS

    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="damaged files of each format (default: 300)")
    parser.add_argument("--seconds", type=float, default=600, help="for all of them (default: 600)")
    parser.add_argument("--format", nargs="*", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--kills", type=int, default=0, help="of each operation (default: 0)")
    parser.add_argument("--lines", type=int, default=0, help="command lines with wrong values (default: 0)")
    parser.add_argument("--disks", type=int, default=0, help="full disks and closed outputs (default: 0)")
    options = parser.parse_args(argv)
    operations = []
    if options.kills:
        from attack.operations import OPERATIONS

        operations = list(OPERATIONS)
    started, outcomes = time.monotonic(), {}
    rounds = [*((name, options.count, "attack.worker") for name in options.format),
              *((name, options.kills, "attack.kills") for name in operations),
              *((name, count, f"attack.{name.replace(' ', '_')}")
                for name, count in (("command lines", options.lines), ("full disks", options.disks)) if count)]
    for number, (name, count, by) in enumerate(rounds, 1):
        until = started + options.seconds * number / len(rounds)
        outcomes[name] = attack(name, options.first, count, until, by)
    print("| format | tried | read | refused | failures |\n| --- | ---: | ---: | ---: | ---: |")
    for name, outcome in outcomes.items():
        if name in operations:
            continue
        print(f"| {name} | {sum(outcome.values()):,} | {outcome['read']:,} | {outcome['refused']:,} | "
              f"{outcome.failures:,} |")
    if operations:
        print("\n| operation | kills | resumed | failures |\n| --- | ---: | ---: | ---: |")
    for name in operations:
        outcome = outcomes[name]
        print(f"| {name} | {sum(outcome.values()):,} | {outcome['resumed']:,} | {outcome.failures:,} |")
    for name, outcome in outcomes.items():
        for kind, examples in outcome.examples.items():
            print(f"\n{name}: {kind}, {outcome[kind]:,} times", *examples, sep="\n  ")
    return int(any(outcome.failures for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    raise SystemExit(main())
