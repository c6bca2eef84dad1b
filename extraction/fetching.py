"""Packages fetched by the programs that their registries have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError


def fetch(command: Sequence[str], folder: Path, suffix: str, mark: str, option: str, hint: str) -> Path:
    """Let a program fetch a package into ``folder``; returns the package.

    Args:
        command: the program, its command and the package, such as npm, pack, openmoji@17.0.0.
        suffix: of the package's file.
        mark: what a line of standard error that says what went wrong begins with.
        option: the one of ours that takes the file instead.
        hint: where else the package is to be had.

    Raises:
        InputError: the program isn't installed, or it failed.
    """
    program = shutil.which(command[0])
    if program is None:
        raise InputError(f"no {option} given and {command[0]} isn't installed; {hint}")
    result = subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True)
    fetched = list(folder.glob(f"*{suffix}"))
    if result.returncode or not fetched:
        lines = [line for line in result.stderr.splitlines() if line.startswith(mark)]
        reason = lines[0] if lines else f"exit status {result.returncode}"
        raise InputError(f"{' '.join(command)} failed ({reason}); {hint}")
    return fetched[0]
