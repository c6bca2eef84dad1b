"""Writes a trained hash model into a folder, in forms that work without this project, with a model card.

    python export_model.py checkpoints/hash/openmoji_hash.pth --out exported/openmoji       # ONNX and safetensors
    python export_model.py checkpoints/hash/openmoji_hash.pth --out exported/openmoji --to onnx --inputs both

    onnx         image.onnx and text.onnx, compared with PyTorch by onnxruntime
    torch        image.pt2 and text.pt2, for torch.export.load
    safetensors  model.safetensors and config.json, as on Hugging Face's hub
    half         the checkpoint itself with matrices in half precision: half the size

First: pip install -r requirements-export.txt (not for torch and half). docs/exporting.md has more.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

from common.atomic_files import written
from common.errors import InputError, Parser, exit_on_bad_input
from exporting import card, graphs
from ICMR import Config
from indexing.encoding import load_model
from model import HashModel
from training import checkpoint

FORMS = ("onnx", "torch", "safetensors", "half")


def export(path: Path, out: Path, forms: list[str], inputs: list[str], metrics: Path | None = None,
           license: str | None = None) -> list[str]:
    """Write the hash model of a checkpoint to the folder ``out``, in place of files of the same names.

    Args:
        forms: of :data:`FORMS`.
        inputs: of the graphs: image, text, both.
        metrics: the ``metrics.json`` of the run, for the card.
        license: for the card, an identifier of Hugging Face's.

    Returns:
        A line about each file.

    Raises:
        InputError: the license is no identifier, the checkpoint holds no hash model, a package is missing, the metrics
            belong to another run, the exported graph differs from the model, or the folder can't be written; nothing
            has been written then.
    """
    card.check_license(license)  # before a graph is exported, which takes long
    if "half" in forms and (out / path.name).resolve() == path.resolve():
        raise InputError(f"--out {out}: the model in half precision would replace {path} itself; give another folder")
    if "half" in forms and path.name in ("README.md", "config.json", "model.safetensors"):
        raise InputError(f"{path}: the export has a file of this name itself; rename the checkpoint")
    model, trained = load_model(path)
    about = {"trained": trained, "license": license,
             "metrics": metrics and card.read_metrics(metrics, trained, model.hash_lens, Config().outcome())}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
            folder, lines = Path(temporary), {}
            for kind in inputs:
                if "onnx" in forms:
                    lines[f"{kind}.onnx"] = compared(graphs.write_onnx(
                        model, kind, folder / f"{kind}.onnx", metadata(model, trained)))
                if "torch" in forms:
                    lines[f"{kind}.pt2"] = compared(graphs.write_program(model, kind, folder / f"{kind}.pt2"))
            if "safetensors" in forms:
                from exporting.hub import HubHashModel  # here: it needs an optional package
                HubHashModel.from_checkpoint(path).save_pretrained(folder)
                lines |= {"model.safetensors": "", "config.json": ""}
            if "half" in forms:
                checkpoint.save_model(folder / path.name, halved(model), **trained)
                lines[path.name] = ""
            (folder / "README.md").write_text(card.render(model.settings, list(lines), **about), "utf-8")
            sizes = {name: (folder / name).stat().st_size for name in (*lines, "README.md")}
            for name in sizes:  # all are on the disk before the first takes its place
                content = (folder / name).read_bytes()
                stack.enter_context(written(out / name, lambda file: file.write(content)))
    except OSError as error:
        where = error.filename or "the folder of temporary files (TMPDIR)"
        raise InputError(f"{where}: cannot be written: {error.strerror or error}") from error
    return [f"{out / name}: {size:,} bytes{lines.get(name, '')}" for name, size in sizes.items()]


def halved(model: HashModel) -> HashModel:
    """The model with its matrices in half precision, which loading turns back; its variances might not fit in it."""
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.half()
            if not weight.isfinite().all():
                raise InputError("--to half: a weight is beyond 65,504, the range of half precision")
    return model


def compared(difference: float) -> str:
    """What is said of a graph that has been compared with the model."""
    return f"; x differs from that of PyTorch by at most {difference:.0e}"


def metadata(model: HashModel, trained: dict) -> dict[str, str]:
    """What an ONNX file says of itself."""
    return {"bits": str(model.width), "lengths": json.dumps(model.hash_lens), "dataset": str(trained.get("dataset")),
            "bit_order": "bit j (of value 2**j) of byte i is bit 8 * i + j of the code"}


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="export_model.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a hash model, e.g. checkpoints/hash/openmoji_hash.pth")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--to", nargs="+", choices=FORMS, default=["onnx", "safetensors"],
                        help="(default: onnx safetensors)")
    parser.add_argument("--inputs", nargs="+", choices=graphs.INPUTS, default=["image", "text"],
                        help="a graph for each: features of images, of texts, or of both sides of pairs (default: "
                             "image text)")
    parser.add_argument("--metrics", type=Path, metavar="FILE.json", help="metrics.json of the run, for the card")
    parser.add_argument("--license", metavar="NAME", help="for the card, such as mit or cc-by-sa-4.0")
    options = parser.parse_args(argv)
    print(*export(options.checkpoint, options.out, options.to, options.inputs, options.metrics, options.license),
          sep="\n")


if __name__ == "__main__":
    main()
