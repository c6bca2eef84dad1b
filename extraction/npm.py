"""Packages of the npm registry, whose files some data sets are made of."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common import json_text
from common.errors import InputError
from common.input_files import require_file
from extraction.fetching import fetch

Chosen = TypeVar("Chosen")


def npm_pack(package: str, folder: Path, option: str) -> Path:
    """Fetch an npm package, ``name@version``, into ``folder``; returns its .tgz. Raises InputError, which says that
    ``option`` of the command takes the file too.
    """
    hint = (f"get it elsewhere with `npm pack {package}` and give {option} "
            f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz")
    return fetch(["npm", "pack", package], folder, ".tgz", "npm error", option, hint)


def read_package(path: Path, package: str, wanted: str, choose: Callable[[dict[str, bytes]], Chosen]) -> Chosen:
    """What ``choose`` makes of the files of an npm package, by their names in it.

    Args:
        path: the package, a .tgz or a folder.
        package: ``name@version``.
        wanted: a regular expression for the names of the files to be read.
        choose: its KeyError, TypeError, ValueError or AttributeError means that the files aren't those of the package.

    Raises:
        InputError: the package can't be read, is another one, or has other files.
    """
    names = re.compile(rf"package\.json|{wanted}")
    try:
        if path.is_dir():
            files = {name: each.read_bytes() for each in path.rglob("*")
                     if names.fullmatch(name := each.relative_to(path).as_posix()) and each.is_file()}
        else:
            require_file(path)
            with tarfile.open(path) as archive:
                files = {name: archive.extractfile(member).read() for member in archive
                         if names.fullmatch(name := member.name.removeprefix("package/")) and member.isfile()}
        about = json_text.parse(files["package.json"])
        found = f"{about['name']}@{about['version']}"
        if found != package:
            raise InputError(f"{path}: {found}; expected {package}")
        return choose(files)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}); expected the npm "
                         f"package {package}, a folder or .tgz") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the npm package {package} ({type(error).__name__}: {error})") from None
