"""One process at a time: another is refused, not kept waiting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError


@contextlib.contextmanager
def alone(lock: Path, refusal: str) -> Iterator[None]:
    """Hold the file ``lock``, which is made, as long as the context lasts or the process lives.

    Raises:
        InputError: with the text ``refusal``, if another process holds it, or if it can't be locked at all.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise InputError(refusal) from None
    except OSError as error:  # a network's file system may have no locks
        raise InputError(f"{lock}: cannot be locked: {error.strerror or error}; choose a folder on a file system that "
                         f"has locks") from error
    try:
        yield
    finally:
        held.release()
