"""Optional packages: what to install where one is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from common.errors import InputError


@contextlib.contextmanager
def optional(requirements: str) -> Iterator[None]:
    """Around imports: raises InputError, which names the missing package and the requirements file that has it."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{error.name or error} can't be imported; run pip install -r {requirements}") from error
