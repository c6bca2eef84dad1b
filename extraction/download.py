"""The files of a download: in a folder, or still in the zip archives that it came as."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from common.errors import InputError, listing

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_DEPTH = 6  # folders below the root; COCO nested one deeper needs three, Kaggle's Flickr30k four
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, KeyError)


class File(NamedTuple):
    """A file of a folder, or a member of a zip archive."""

    path: str  # of the file, or of the archive
    member: str | None = None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}/{self.member}"

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The content as a stream. Raises InputError if it can't be opened or read."""
        try:
            with open(self.path, "rb") if self.member is None else _archive(self.path, os.getpid()).open(
                    self.member) as stream:
                yield stream
        except ZIP_ERRORS as error:
            raise InputError(f"{self}: can't be read ({getattr(error, 'strerror', None) or error})") from None

    def read_bytes(self) -> bytes:
        """The content. Raises InputError."""
        with self.open() as stream:
            return stream.read()

    def info(self) -> zipfile.ZipInfo:
        """What the archive says of its member."""
        return _archive(self.path, os.getpid()).getinfo(self.member)

    def lines(self) -> list[str]:
        """The lines of a text in UTF-8, without their ends; what isn't UTF-8 becomes U+FFFD. Raises InputError."""
        lines = self.read_bytes().decode("utf-8-sig", "replace").split("\n")  # splitlines() splits at more than that
        if not lines[-1]:
            lines.pop()
        return [line.removesuffix("\r") for line in lines]

    def picture(self) -> Path | Image:
        """The path, or the picture opened out of its archive, its pixels not read yet. Raises InputError."""
        if self.member is None:
            return Path(self.path)
        from extraction.encoders.pictures import image_of  # here, since the encoders take a while to import

        return image_of(self.read_bytes(), self)


class Pictures(Sequence):
    """Pictures as encoders take them, each opened when it is asked for: a path, or a PIL image out of an archive."""

    def __init__(self, files: Sequence[File | None]):
        self.files = files  # None: the picture isn't there

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Path | Image:
        return self.files[row].picture()


class Download:
    """The files below a folder and those in the zip archives there.

    Where a file is there more than once, the one in a folder is taken before the one in an archive, and of these the
    one with the fewest folders before it. Raises InputError if the folder or an archive can't be read.
    """

    def __init__(self, root: Path):
        if not root.is_dir():
            raise InputError(f"--root {root}: {'is a file' if root.exists() else 'is not there'}; expected the folder "
                             f"that the download is in")
        self.root = root
        found = sorted(_walk(str(root), 0), key=lambda path: (path.count(os.sep), path))
        start = len(os.path.join(root, ""))
        self.files = [(path[start:].replace(os.sep, "/"), File(path)) for path in found]
        self.archives = [path for path in found if path.lower().endswith(".zip")]
        for path in self.archives:
            try:
                members = [info.filename for info in _archive(path, os.getpid()).infolist() if not info.is_dir()]
            except ZIP_ERRORS as error:
                raise InputError(f"{path}: not a whole zip archive ({error}); download it again, or move it away "
                                 f"if it is of another download") from None
            self.files += [(name.replace("\\", "/"), File(path, name))
                           for name in sorted(members, key=lambda name: (name.count("/"), name))
                           if not name.startswith("__MACOSX/")]

    def find(self, pattern: str, parts: int = 1) -> dict[str, File]:
        """The files whose path ends in what matches ``pattern``, by that end: by the last ``parts`` parts of a path."""
        matches, found = re.compile(pattern).fullmatch, {}
        for path, file in self.files:
            end = path.rsplit("/", parts)[-parts:]
            name = end[0] if parts == 1 else "/".join(end)
            if name not in found and matches(name):
                found[name] = file
        return found

    def one(self, name: str, source: str, parts: int = 1) -> File:
        """The file whose path ends in ``name``, in upper or lower case. Raises InputError, which says that ``source``
        has it.
        """
        for file in self.find(f"(?i){re.escape(name)}", parts).values():
            return file
        raise self.missing(name, source)

    def missing(self, name: str, source: str) -> InputError:
        """The error that ``name``, which comes with ``source``, isn't there."""
        packed = [Path(path).name for path, _ in self.files if re.search(r"\.(tar|tgz|tar\.gz|rar|7z)$", path.lower())]
        unpack = f"; unpack {listing(packed)} first, if it is in there" if packed else ""
        return InputError(f"{self.root}: no {name}; expected it in the folder or in a zip archive there, as in "
                          f"{source}{unpack}")


def _walk(folder: str, depth: int) -> Iterator[str]:
    """The files below a folder, links followed, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_file():
                    yield entry.path
                elif depth < MAX_DEPTH and entry.is_dir():
                    yield from _walk(entry.path, depth + 1)
    except OSError as error:
        raise InputError(f"{folder}: can't be read ({error.strerror})") from None


@functools.cache
def _archive(path: str, process: int) -> zipfile.ZipFile:
    """An archive, opened once in each process, since processes that share a file share its position."""
    return zipfile.ZipFile(path)


# --- texts --------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """A text in one line, with single spaces."""
    return " ".join(text.split())


# --- the command line -----------------------------------------------------------------------------------------


def add_root(parser: argparse.ArgumentParser, content: str) -> None:
    parser.add_argument("--root", type=Path, required=True,
                        help=f"folder of the download: {content}, unpacked or as they come")
