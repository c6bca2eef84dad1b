"""Packages of Debian, whose files some data sets are made of."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from extraction.fetching import fetch

MAX_FILE_BYTES = 64 << 20  # no picture is larger; a file that says it is would fill the memory


@dataclass(frozen=True)
class DebianPackage:
    name: str
    version: str
    pool: str  # the folder of its .deb on Debian's servers

    @property
    def hint(self) -> str:
        """Where else it is to be had; an epoch, as in 1:0.18, isn't part of the file's name there."""
        return (f"get https://deb.debian.org/debian/pool/main/{self.pool}/"
                f"{self.name}_{self.version.split(':')[-1]}_all.deb elsewhere and give it with --archive")


def apt_download(package: DebianPackage, folder: Path) -> Path:
    """Fetch the package into ``folder``; returns its .deb. Raises InputError, which says where else it is to be had."""
    return fetch(["apt-get", "download", f"{package.name}={package.version}"], folder, ".deb", "E:", "--archive",
                 package.hint)


def deb_files(archive: Path, package: DebianPackage, under: str, name: str) -> Iterator[tuple[str, bytes]]:
    """The files of a .deb below the folder ``under`` whose name in it matches ``name``: the name and the content.

    Links and all else that is no plain file are left out. Nothing is unpacked to the disk. Raises InputError if the
    archive is damaged or isn't the package.
    """
    wanted = re.compile(rf"(?:\./)?{re.escape(under)}/({name})")
    try:
        parts = _ar_members(archive)
        with _tar(parts, "control") as control:
            about = next(control.extractfile(member).read().decode() for member in control
                         if member.name in ("control", "./control") and member.isfile())
        fields = dict(re.findall(r"^(Package|Version): *(.*?) *$", about, re.MULTILINE))
        found = f"{fields['Package']} {fields['Version']}"
        if found != f"{package.name} {package.version}":
            raise InputError(f"{archive}: {found}; expected {package.name} {package.version}; {package.hint}")
        with _tar(parts, "data") as data:
            for member in data:
                if member.isfile() and (match := wanted.fullmatch(member.name)) and member.size <= MAX_FILE_BYTES:
                    yield match[1], data.extractfile(member).read()
    except InputError:
        raise
    except (OSError, EOFError, StopIteration, ValueError, KeyError, tarfile.TarError, zlib.error,
            lzma.LZMAError) as error:
        raise InputError(f"{archive}: can't be read ({getattr(error, 'strerror', None) or error}); expected the Debian "
                         f"package {package.name} {package.version}, a .deb; {package.hint}") from None


def _ar_members(path: Path) -> dict[str, bytes]:
    """The members of an ar archive by name: each is a header of 60 bytes and its content, padded to an even length."""
    members = {}
    with open(path, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("no ar archive")
        while header := file.read(60):
            size = int(header[48:58]) if header[58:] == b"`\n" else -1
            content = file.read(size) if 0 <= size <= path.stat().st_size else b""
            if len(content) != size:
                raise EOFError("a member ends early")
            members[header[:16].decode("latin1").rstrip(" /")] = content
            file.read(size % 2)
    return members


def _tar(parts: dict[str, bytes], name: str) -> tarfile.TarFile:
    """The member ``name``.tar, compressed or not."""
    part = next((part for part in parts if part.startswith(f"{name}.tar")), None)
    if part is None:
        raise ValueError(f"no {name}.tar")
    if part.endswith(".zst"):
        raise ValueError(f"{part}: Ubuntu's, which Python can't read before version 3.14")
    return tarfile.open(fileobj=io.BytesIO(parts[part]), mode=f"r:{part[len(name) + 5:]}")
