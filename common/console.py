"""What the scripts print: lines above a progress bar, warnings that are printed once, and the log that keeps both."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import warnings
from contextvars import ContextVar
from pathlib import Path

from common import processes
from common.columns import MAX_COLUMNS
from common.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a notebook without ipywidgets gets a bar of characters
    from tqdm.auto import tqdm

_log: ContextVar[Log | None] = ContextVar("log", default=None)  # of this thread


class Log:
    """Keeps what :func:`say` and :func:`warn` print in the context of the log, in this thread.

    Lines wait until :meth:`keep_in` names a file, to whose end they are written, each as it comes.

    Args:
        quiet: whether lines are only kept, unless they are final.
    """

    def __init__(self, quiet: bool = False):
        self.quiet, self.path, self.waiting, self.entered = quiet, None, [], []

    def __enter__(self) -> Log:
        self.entered.append(_log.set(self))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _log.reset(self.entered.pop())
        if isinstance(error, InputError) and not self.entered:
            with contextlib.suppress(InputError):  # what went wrong first is what is said
                self.add(wrapped(f"error: {error}"))

    def keep_in(self, path: Path) -> None:
        """Write the lines to the end of this file from now on, and those that wait."""
        self.path = path
        waiting, self.waiting = self.waiting, []
        self.add(waiting)

    def add(self, lines: list[str]) -> None:
        """Keep lines. Raises InputError if the file can't be written."""
        if self.path is None:
            self.waiting += lines
        elif lines:
            try:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.writelines(line + "\n" for line in lines)
            except OSError as error:
                raise InputError(f"{self.path}: cannot write: {error.strerror}") from error


def wrapped(line: str) -> list[str]:
    """A line in pieces of at most MAX_COLUMNS, the later ones indented deeper; a longer word stays whole."""
    if len(line) <= MAX_COLUMNS:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, MAX_COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def say(line: str, final: bool = False) -> None:
    """Print a line, above the progress bar if there is one; one that is not ``final`` not in a quiet run."""
    lines, log = wrapped(line), _log.get()
    if log is not None:
        log.add(lines)
    if log is None or final or not log.quiet:
        for piece in lines:
            tqdm.write(piece)
        sys.stdout.flush()


def warn(line: str) -> None:
    """Print a warning on standard error, once however many processes there are."""
    if not processes.rank():
        print(f"warning: {line}", file=sys.stderr)
        if log := _log.get():
            log.add(wrapped(f"warning: {line}"))


def progress_bar(**settings) -> tqdm:
    """A progress bar that leaves nothing: a notebook's, or one of characters where standard error is a terminal."""
    in_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    return tqdm(**{"leave": False, "dynamic_ncols": True, "disable": False if in_notebook else None} | settings)
