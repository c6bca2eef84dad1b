"""Writing files: whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing removes the temporary files of programs that were killed
    fcntl = None


def write_atomically(path: str | os.PathLike, write: Callable[[Any], None], mode: str = "wb") -> Path:
    """Write a file so that ``path`` always holds either the old content or the new, whole.

    ``write(file)`` fills a temporary file beside ``path``, which is flushed to the disk and moved into place. Those of
    programs that were killed are removed.

    Raises:
        InputError: the folder or the disk refuses the file; the old file is still there, no other is left.
    """
    with written(path, write, mode):
        return Path(path)


@contextlib.contextmanager
def written(path: str | os.PathLike, write: Callable[[Any], None], mode: str = "wb") -> Iterator[None]:
    """As :func:`write_atomically`, but the file is moved into place at the end of the context, and not if that ends
    with an exception: of several files all can be on the disk before the first takes its place.
    """
    path = Path(os.path.realpath(path))  # the file that a link points to is written, not the link
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "a folder or a device has that name")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        with _temporary_file(path, mode) as file:
            temporary = file.name
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows moves no file that is open
            yield
            os.replace(temporary, path)
        temporary = None
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        refusal = error.__cause__ or error.__context__ or error
        reason = getattr(error, "strerror", None) or getattr(refusal, "strerror", None) or refusal
        kept = "the file that was there is unchanged" if path.exists() else "nothing was written"
        raise InputError(f"{path}: cannot write: {reason}; {kept}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _temporary_file(path: Path, mode: str) -> IO:
    """A new file beside ``path``, locked until it is closed: so nobody takes it for one that was left.

    The lock is a shared one, as HDF5 takes to read a file, which may be as soon as it is in its place.
    """
    mode, encoding = ("x+b", None) if "b" in mode else ("x+", "utf-8")
    while True:
        file = open(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"), mode, encoding=encoding)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks, where nothing is removed either
                fcntl.flock(file, fcntl.LOCK_SH)
        if os.path.exists(file.name):
            return file
        file.close()  # another process removed it between the two


def _remove_left(path: Path) -> None:
    """Remove the temporary files of ``path`` that nobody is writing any more."""
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"
    for left in path.parent.glob(pattern) if fcntl is not None else ():
        with contextlib.suppress(OSError), open(left, "r+b") as file:  # of a living writer, it is locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def check_writable(folder: str | os.PathLike, setting: str) -> Path:
    """Make ``folder`` and prove, before any work is done, that files can be written into it.

    Raises:
        InputError: they can't; the message names the folder and the setting that chose it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write there: {error.strerror}; "
                         f"choose another folder with --{setting}") from error
    return folder
