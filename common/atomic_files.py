"""Writing files: whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import InputError


def write_atomically(path: str | os.PathLike, write: Callable[[Any], None], mode: str = "wb") -> Path:
    """Write a file so that ``path`` always holds either the old content or the new, whole.

    ``write(file)`` fills a temporary file beside ``path``, which is flushed to the disk and moved into place.

    Raises:
        InputError: the folder or the disk refuses the file; the old file is still there, no other is left.
    """
    given, path = path, Path(os.path.realpath(path))  # the file that a link points to is written, not the link
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EEXIST, "a folder or a device has that name")
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = None if "b" in mode else "utf-8"
        with tempfile.NamedTemporaryFile(mode, encoding=encoding, dir=path.parent, prefix=f".{path.name}.",
                                         suffix=".tmp", delete=False) as file:
            temporary = file.name
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # a temporary file is private; a result is not
        os.replace(temporary, path)
        temporary = None
    except (OSError, RuntimeError) as error:  # torch's zip writer reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        kept = "the file that was there is unchanged" if path.exists() else "nothing was written"
        raise InputError(f"{path}: cannot write: {reason}; {kept}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return Path(given)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
