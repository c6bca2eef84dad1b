"""The data sets that are measured on and can be made by anyone.

    python benchmark.py data                  # list them
    python benchmark.py data digits           # write data/digits/digits.npz, from scikit-learn
    python benchmark.py data icons            # write data/icons/icons.h5, from an npm package
    python benchmark.py data icons --archive fortawesome-fontawesome-free-7.3.1.tgz    # where npm is not to be had

Icons needs pip install -r requirements-extract.txt. What is made is compared with the fingerprint of the data that the
records are of.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic_files import check_writable, write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from extraction.dataset_file import make_dataset, split
from extraction.encoders import IMAGE_SIZE, optional
from extraction.npm import npm_pack
from load_data import load_dataset

FONT_AWESOME = "@fortawesome/fontawesome-free@7.3.1"
FONT_AWESOME_ATTRIBUTES = {
    "source": f"npm package {FONT_AWESOME}, https://fontawesome.com",
    "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "attribution": "Font Awesome Free by Fonticons, Inc.",
}
QUERIES = 300  # of either data set


# --- digits -------------------------------------------------------------------------------------------------------


def make_digits(out: Path, archive: Path | None = None) -> None:
    """The 1,797 handwritten digits of scikit-learn: the left half of each is its image, the right half its text."""
    if archive is not None:
        raise InputError(f"--archive {archive}: the digits come with scikit-learn; leave it out")
    try:
        from sklearn.datasets import load_digits  # here: it takes a second to load
    except ImportError as error:
        raise InputError(f"digits: {error}; pip install scikit-learn") from None

    digits = load_digits()
    left, right = (half.reshape(-1, 32) for half in np.split(digits.images, 2, axis=2))
    rows = np.random.default_rng(0).permutation(len(left))
    write_atomically(out, lambda file: np.savez(
        file, image=left, text=right, label=digits.target, train_idx=rows[QUERIES:], query_idx=rows[:QUERIES],
        retrieval_idx=rows[QUERIES:]))


# --- icons --------------------------------------------------------------------------------------------------------


def make_icons(out: Path, archive: Path | None = None) -> None:
    """The solid icons of Font Awesome Free that have a category: names and search terms as captions, categories as
    labels.
    """
    optional("yaml"), optional("resvg_py")  # missing is found here, before anything is fetched
    with tempfile.TemporaryDirectory() as folder:
        icons = read_icons(archive or npm_pack(FONT_AWESOME, Path(folder), "--archive"))
    strings = {"icon": [icon.name for icon in icons], "caption": [icon.caption for icon in icons]}
    make_dataset(out, (drawn(icon.svg) for icon in icons), [icon.labels for icon in icons],
                 split(len(icons), QUERIES, 0), strings, FONT_AWESOME_ATTRIBUTES)


@dataclass(frozen=True)
class Icon:
    name: str
    caption: str
    labels: list[str]
    svg: str


def read_icons(archive: Path) -> list[Icon]:
    """The solid icons with a category, in the order of the npm package (.tgz)."""
    yaml = optional("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where there is one, is faster
    try:
        with tarfile.open(archive) as package:
            def text(name: str) -> str:
                return package.extractfile(f"package/{name}").read().decode()

            about = json.loads(text("package.json"))
            found = f"{about['name']}@{about['version']}"
            if found != FONT_AWESOME:
                raise InputError(f"{archive}: {found}; expected {FONT_AWESOME}")
            names = set(package.getnames())
            icons, categories = (yaml.load(text(f"metadata/{name}.yml"), loader) for name in ("icons", "categories"))
            chosen = []
            for name, icon in icons.items():
                labels = [category["label"] for category in categories.values() if name in category["icons"]]
                if labels and f"package/svgs/solid/{name}.svg" in names:
                    terms = (icon.get("search") or {}).get("terms") or []
                    chosen.append(Icon(name, ", ".join(map(str, [icon["label"], *terms])), labels,
                                       text(f"svgs/solid/{name}.svg")))
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{archive}: can't be read ({getattr(error, 'strerror', None) or error}); expected the npm "
                         f"package {FONT_AWESOME}, a .tgz") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{archive}: not the npm package {FONT_AWESOME} ({type(error).__name__}: {error})") from None
    if len(chosen) <= QUERIES:
        raise InputError(f"{archive}: {len(chosen)} solid icons with a category; expected more than {QUERIES}")
    return chosen


def drawn(svg: str):
    """An icon on white, as wide as the network's input and as high as its drawing asks for."""
    png = optional("resvg_py").svg_to_bytes(svg_string=svg, width=IMAGE_SIZE, background="white")
    return optional("PIL.Image").open(io.BytesIO(bytes(png)))


# --- all of them --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    pairs: int
    needs: str
    fingerprint: str  # of the data that the records are of
    file: str  # in data_dir
    make: Callable[[Path, Path | None], None] | None  # None where the data come with the code


RECIPES = {
    "openmoji": Recipe(2319, "nothing: it comes with the code",
                       "8b69ea6f6daa2c9149796d49de1215e1138161ba0f437d1bd44dbfc25c6889ed",
                       "openmoji/openmoji.h5", None),
    "digits": Recipe(1797, "nothing more: scikit-learn has them",
                     "bb5695e56b4f0e6f98497821fe1afbc719f66479ed84c1701bc3ffa4b3071cf3",
                     "digits/digits.npz", make_digits),
    "icons": Recipe(1422, f"requirements-extract.txt, and npm or {FONT_AWESOME} as a .tgz",
                    "f179e4d7d1929bc743679b62f5404c1edefddd4889b17d3db734ad53b9dda3ae", "icons/icons.h5", make_icons),
}


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="benchmark.py data", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=tuple(RECIPES), help="which to make (default: list them all)")
    parser.add_argument("--archive", type=Path, metavar="FILE", help=f"of icons: {FONT_AWESOME} as a .tgz "
                                                                     "(default: npm pack)")
    parser.add_argument("--data_dir", default="data")
    options = parser.parse_args(argv)
    if options.name is None:
        for name, recipe in RECIPES.items():
            print(f"{name:9} {recipe.pairs:5,} pairs; needs {recipe.needs}\n{'':9} fingerprint {recipe.fingerprint}")
        return
    recipe = RECIPES[options.name]
    if recipe.make is None:
        raise InputError(f"{options.name}: comes with the code; python extract_features.py {options.name} makes it "
                         f"again from its source")
    out = Path(options.data_dir) / recipe.file
    check_writable(out.parent, "data_dir")
    recipe.make(out, options.archive)
    made = load_dataset(out)
    print(f"{out}: {len(made.query) + len(made.retrieval):,} pairs, fingerprint {made.fingerprint}")
    if made.fingerprint != recipe.fingerprint:
        print(f"warning: {out}: the records are of data with the fingerprint {recipe.fingerprint}; another version of "
              f"a package can make other features, and its figures differ a little", file=sys.stderr)


if __name__ == "__main__":
    main()
