"""Pictures out of Debian packages, with the captions that stand beside them or in them."""

from __future__ import annotations

import collections
import io
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from benchmarks.sources import ENCODERS
from benchmarks.sources.splits import random_split
from common.errors import InputError
from extraction.collection import Collection
from extraction.dataset_file import make_dataset
from extraction.debian import DebianPackage, apt_download, deb_files
from extraction.encoders import IMAGE_SIZE, optional, upright


@dataclass(frozen=True)
class Picture:
    file: str  # in the package, such as animals/mammals/cat.svg
    caption: str
    content: bytes  # of that file

    @property
    def folders(self) -> Sequence[str]:
        return PurePosixPath(self.file).parts[:-1]


def make_pictures(out: Path, pictures: list[Picture], depth: int | None, attributes: dict[str, str]) -> None:
    """Write the pictures that can be drawn: the top folder as label, the first ``depth`` (None: all) as ``folder``.

    A picture that looks like an earlier one and has its caption is left out. Raises InputError.
    """
    drawn = {}
    for picture in tqdm(pictures, "drawings", disable=None):
        if (png := draw(picture)) is not None:
            drawn.setdefault((png, picture.caption), picture)
    kept = list(drawn.values())
    columns = {"file": [picture.file for picture in kept],
               "folder": ["/".join(picture.folders[:depth]) for picture in kept]}
    images = (optional("PIL.Image").open(io.BytesIO(png)) for png, _ in drawn)
    make_dataset(out, Collection(images, [[picture.caption] for picture in kept],
                                 [picture.folders[:1] for picture in kept], random_split(len(kept)), columns,
                                 attributes), ENCODERS)


def draw(picture: Picture) -> bytes | None:
    """A picture as a PNG file of 224 x 224 pixels, whole, in the middle of a white square; None if nothing is seen."""
    pil, ops = optional("PIL.Image"), optional("PIL.ImageOps")
    try:
        content = picture.content
        if picture.file.endswith(".svg"):
            # Without fonts, which differ from computer to computer. It refuses sizes in points unless dpi is given.
            content = optional("resvg_py").svg_to_bytes(svg_string=content.decode(), width=IMAGE_SIZE,
                                                        height=IMAGE_SIZE, dpi=96, skip_system_fonts=True)
        image = upright(pil.open(io.BytesIO(bytes(content))))
    except (InputError, MemoryError):
        raise
    except Exception:  # the readers raise whatever a damaged picture makes them
        return None
    if image.getextrema() == ((255, 255),) * 3:
        return None
    file = io.BytesIO()
    ops.pad(image, (IMAGE_SIZE, IMAGE_SIZE), pil.Resampling.BICUBIC, "white").save(file, "PNG")
    return file.getvalue()


def files_of(package: DebianPackage, archive: Path | None, under: str, name: str) -> dict[str, bytes]:
    """The files of a package, or of its .deb, in the order of their names; see :func:`deb_files`."""
    optional("resvg_py")  # missing is found here, before anything is fetched
    with tempfile.TemporaryDirectory() as folder:
        files = dict(deb_files(archive or apt_download(package, Path(folder)), package, under, name))
    if not files:
        raise InputError(f"{archive or package.name}: no files in {under}; {package.hint}")
    return dict(sorted(files.items()))


# --- stamps -------------------------------------------------------------------------------------------------------

STAMPS = DebianPackage("tuxpaint-stamps-default", "2022.06.04-1", "t/tuxpaint-stamps")
STAMPS_ATTRIBUTES = {
    "source": f"Debian package {STAMPS.name} {STAMPS.version}, https://tuxpaint.org/stamps/",
    "licence": "GPL-2, https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
    "attribution": "Tux Paint stamps by Bill Kendrick and contributors",
}


def make_stamps(out: Path, archive: Path | None = None) -> None:
    """The stamps of Tux Paint, a drawing program for children: photographs and drawings, and a sentence about each.

    Label: the top folder, such as animals. ``folder``: with the one below it, such as animals/mammals.
    """
    files = files_of(STAMPS, archive, "usr/share/tuxpaint/stamps", r"[^/]+/.+\.(?:png|svg|txt)")
    make_pictures(out, read_stamps(files), 2, STAMPS_ATTRIBUTES)


def read_stamps(files: dict[str, bytes]) -> list[Picture]:
    """The pictures with a text beside them, whose first line is English and the next ones are other languages.

    Mirrored ones are left out, and of a picture in both formats the pixels.
    """
    stamps = []
    for file, content in files.items():
        stem, suffix = file[:-4], file[-4:]
        if suffix == ".txt" or stem.endswith(("_mirror", "_flip")) or suffix == ".png" and f"{stem}.svg" in files:
            continue
        caption = files.get(f"{stem}.txt", b"").decode(errors="replace").partition("\n")[0].strip()
        if caption:
            stamps.append(Picture(file, caption, content))
    return stamps


# --- clipart ------------------------------------------------------------------------------------------------------

CLIPART = DebianPackage("openclipart-svg", "1:0.18+dfsg-19", "o/openclipart")
CLIPART_ATTRIBUTES = {
    "source": f"Debian package {CLIPART.name} {CLIPART.version}, https://openclipart.org",
    "licence": "public domain",
    "attribution": "the artists of the Open Clip Art Library",
}
MAX_ALIKE = 10  # drawings with one caption: a title that more have names a collection and says nothing of a drawing
RDF, DC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/dc/elements/1.1/}"


def make_clipart(out: Path, archive: Path | None = None) -> None:
    """Drawings of the Open Clip Art Library, whose title and keywords are the caption.

    Label: the top folder, such as animals, without those of unsorted drawings. ``folder``: all folders, such as
    animals/birds.
    """
    files = files_of(CLIPART, archive, "usr/share/openclipart/svg", r"(?!unsorted/)[^/]+/.+\.svg")
    make_pictures(out, read_clipart(files), None, CLIPART_ATTRIBUTES)


def read_clipart(files: dict[str, bytes]) -> list[Picture]:
    """The drawings with a caption that no more than 10 have."""
    captions = {file: svg_caption(content) for file, content in files.items()}
    alike = collections.Counter(captions.values())
    return [Picture(file, caption, files[file]) for file, caption in captions.items()
            if caption and alike[caption] <= MAX_ALIKE]


def svg_caption(svg: bytes) -> str:
    """Title and keywords in the metadata of an SVG drawing, each once, joined by commas; "" if there are none.

    A drawing that declares entities is not read: a few lines of them can fill the memory.
    """
    try:
        text = svg.decode()
        if "<!ENTITY" in text:
            return ""
        work = ElementTree.fromstring(text).find(f".//{RDF}RDF/*[{DC}title]")
    except (ValueError, ElementTree.ParseError):
        return ""
    if work is None:
        return ""
    phrases = [work.findtext(f"{DC}title"), *(item.text for item in work.iterfind(f"{DC}subject//{RDF}li"))]
    phrases = [" ".join((phrase or "").split()) for phrase in phrases]
    # "hash" is what the library's own tools wrote where they lost a keyword.
    return ", ".join(dict.fromkeys(phrase for phrase in phrases if phrase not in ("", "hash")))
