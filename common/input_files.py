"""Files that a user names, to be read whole: neither devices nor pipes, which may have no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def require_file(path: str | os.PathLike) -> None:
    """Raise OSError if there is no file at the path, or something that is none: a folder, a device or a pipe."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "a folder, a device or a pipe; expected a file", os.fspath(path))


def read_text(path: str | os.PathLike, encoding: str = "utf-8") -> str:
    """The text in a file. Raises OSError as :func:`require_file` or if it can't be read, UnicodeDecodeError if it is in
    another encoding.
    """
    require_file(path)
    return Path(path).read_text(encoding)
