"""Stopping a training between two steps: Ctrl-C or SIGTERM asks for it, and the state can be saved first."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading

from common import processes
from common.columns import MAX_COLUMNS


class Stopped(Exception):
    """A training was asked to stop, and has done a whole number of steps."""


class StopRequest:
    """While the context lasts, remembers the first Ctrl-C or SIGTERM as ``signal``; a second one ends the program.

    Python lets only the main thread handle signals: a training in another goes on to its end.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> StopRequest:
        main = threading.current_thread() is threading.main_thread()
        self.handlers = {number: signal.signal(number, self._remember) for number in self.SIGNALS if main}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def how_to_resume(resumed: bool) -> list[str]:
    """What to do to resume a run that was stopped, in lines; ``resumed`` says whether it had been before."""
    if processes.size() > 1:
        return [f"  the same torchrun command{'' if resumed else ' --resume'}"]
    if os.path.basename(sys.argv[0]) != "ICMR.py":  # a notebook or another program
        return ["  the same settings with resume=True"]
    lines, python = [" "], os.path.basename(sys.executable)
    if shutil.which(python) != sys.executable:  # not the one that a shell finds by its name
        python = sys.executable
    for word in [python, *sys.argv, *([] if resumed else ["--resume"])]:
        if len(lines[-1]) + len(shlex.quote(word)) > MAX_COLUMNS - 3:
            lines.append("   ")
        lines[-1] += f" {shlex.quote(word)}"
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]  # one command in a shell
