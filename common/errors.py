"""Bad input ends every script in the same way: one clear line and exit status 2."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line: what is wrong, where (file, key, setting), what was found and what was expected.
    """


def listing(names: Iterable[object]) -> str:
    """Names for a message, sorted and separated by commas; at most 20 of them, and "nothing" if there are none."""
    shown = sorted(map(str, names))
    return ", ".join(shown[:20]) + ", ..." * (len(shown) > 20) if shown else "nothing"


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are bad input like any other: one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def exit_on_bad_input(main: Callable[..., object]) -> Callable[..., object]:
    """Let a script's ``main`` end with one line on standard error and status 2 on an :class:`InputError`.

    It does not show a traceback either after Ctrl-C (status 130), when nobody reads its output any more (141), when
    the disk has no space for its output (2), or when the system refuses a file (2).
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows another
        try:
            result = main(*args, **kwargs)
            if sys.stdout is not None:  # None if standard output is closed, as by >&-
                sys.stdout.flush()  # now, so that what can't be written is handled below
            return result
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:  # whoever read the output has gone, as in  | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
            raise SystemExit(128 + 13) from None  # SIGPIPE, which Windows lacks
        except OSError as error:
            if error.filename is not None:  # a name that is too long, a folder that may not be entered
                print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
                raise SystemExit(2) from None
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print("error: cannot write the output: the disk is full", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            raise SystemExit(128 + signal.SIGINT) from None

    return wrapper
