"""Bad input: one clear line and exit status 2, the same from every script."""

from __future__ import annotations

import argparse
import errno
import functools
import os
import signal
import sys
from typing import Callable, NoReturn


class InputError(ValueError):
    """Something the user gave is wrong.

    The message is one line: what is wrong, where (file, key, setting), what was found and what was expected.
    """


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are bad input like any other: one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def exit_on_bad_input(main: Callable[..., object]) -> Callable[..., object]:
    """Let a script's ``main`` end with one line on standard error and status 2 on an :class:`InputError`.

    Nor does it show a traceback after Ctrl-C (status 130), when its output is no longer read (141), when there is no
    space for its output (2), or when the system refuses a file (2).
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal that can't show a sign shows another
        try:
            result = main(*args, **kwargs)
            if sys.stdout is not None:  # as after  >&-
                sys.stdout.flush()  # here, where it is known what to do if the output can't be written
            return result
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:  # whoever read the output has gone, as in  | head -1
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
            raise SystemExit(128 + signal.SIGPIPE) from None
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
