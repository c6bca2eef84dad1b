"""Bad input ends every script in the same way: one clear line and exit status 2."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TextIO

from common.columns import printable

MESSAGE = 400  # characters
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what a disk says that takes no more


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line: what is wrong, where (file, key, setting), what was found and what was expected.
    """


def listing(names: Iterable[object]) -> str:
    """Names for a message, sorted and separated by commas; at most 20 of them, and "nothing" if there are none."""
    shown = sorted(map(str, names))
    return ", ".join(shown[:20]) + ", ..." * (len(shown) > 20) if shown else "nothing"


def one_line(message: object) -> str:
    """A message as it is shown: in one line of at most 400 characters; of long words, and else of the whole, the middle
    is left out.
    """
    line = printable(" ".join(str(message).split()))
    line = re.sub(r"\S{121,}", lambda word: f"{word[0][:80]}…{word[0][-39:]}", line)
    return line if len(line) <= MESSAGE else f"{line[:MESSAGE // 2]}…{line[1 - MESSAGE // 2:]}"


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are bad input like any other: one line, without the usage text.

    It takes no argument that can't be written down as text, and no ``--option=--``, where Python 3.11 sees no value.
    """

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: object = None) -> tuple:
        for argument in (args := sys.argv[1:] if args is None else args):
            if not _is_text(argument):
                self.error(f"{argument!r}: not valid text; expected UTF-8 without NUL characters")
            if argument.startswith("-") and argument.partition("=")[2] == "--":
                self.error(f"{argument}: expected a value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _is_text(argument: str) -> bool:
    """Whether an argument can be part of a file in UTF-8, and of a file's name."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in argument


def exit_on_bad_input(main: Callable[..., object]) -> Callable[..., object]:
    """Let a script's ``main`` end with one line on standard error and status 2 on an :class:`InputError`.

    It does not show a traceback either after Ctrl-C (status 130), when nobody reads its output any more (141), when
    its output can't be written (2), or when the system refuses a file (2).
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
        try:
            result = main(*args, **kwargs)
            sys.stdout.flush()  # now, so that what can't be written is handled below
            return result
        except InputError as error:
            _complain(f"error: {one_line(error)}")
            raise SystemExit(2) from None
        except BrokenPipeError:  # whoever read the output has gone, as in  | head -1
            _discard(sys.stdout)
            raise SystemExit(128 + 13) from None  # SIGPIPE, which Windows lacks
        except OSError as error:
            if error.filename is not None:  # a name that is too long, a folder that may not be entered
                _complain(f"error: {one_line(error.filename)}: {error.strerror}")
                raise SystemExit(2) from None
            if error.errno not in UNWRITTEN:
                raise
            _discard(sys.stdout)
            _complain(f"error: cannot write the output: {error.strerror}")
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            _complain("Stopped.")
            raise SystemExit(128 + signal.SIGINT) from None

    return wrapper


def _complain(line: str) -> None:
    """Write a line on standard error; if that is full or closed, the exit status has to say it all."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Let what a stream still holds, which Python flushes once more at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_closed_streams() -> None:
    """Let the streams that are closed, as standard output is by ``>&-``, take what is printed and drop it.

    The next file that is opened would be given the number of the closed one, and hold what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # has the smallest number that is free: in this order, its own
            os.set_inheritable(nowhere, True)
            setattr(sys, name, open(nowhere, mode, encoding="utf-8", closefd=False))
