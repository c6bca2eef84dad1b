"""What is attacked: for each format how sound samples are written, and who reads them.

``write(folder)`` makes a sample and returns its path; ``read(path)`` reads it as a user's command would, and raises
InputError for what is wrong. Of a sample that is a folder one file at a time is damaged.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import test_load_data
from benchmarks import records
from extraction.encoders import upright
from extraction.folder import read_captions
from indexing.index import Index
from load_data import load_dataset
from model import HashModel
from training import checkpoint


class Format(NamedTuple):
    samples: tuple[Callable[[Path], Path], ...]
    read: Callable[[Path], object]
    fragments: tuple[bytes, ...] = ()  # what is also inserted; %s becomes the path of a file that code would make


def of_data(*kinds: str) -> tuple[Callable[[Path], Path], ...]:
    """Data sets in some of the layouts of tests/test_load_data.py."""
    def write(kind: str, folder: Path) -> Path:
        rng = np.random.default_rng(0)
        retrieval = test_load_data.table(rng, 20)
        tables = {"train": {key: array[:12] for key, array in retrieval.items()},
                  "query": test_load_data.table(rng, 6), "retrieval": retrieval}
        return test_load_data.WRITERS[kind][0](folder, tables)

    return tuple(functools.partial(write, kind) for kind in kinds)


def write_text(name: str, text: str, folder: Path) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def write_picture(name: str, folder: Path, **options) -> Path:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def write_checkpoint(folder: Path) -> Path:
    about = {"dataset": "toy", "fingerprint": "0" * 64, "image_dim": 7, "text_dim": 5, "epoch": 3, "scale": 10.0,
             "config": {"scale_max": 10.0, "scale_min": 1.0}, "chosen": {"temperature": {"4": 0.2, "8": 0.1}}}
    return checkpoint.save_model(folder / "toy_hash.pth", HashModel(7, 5, [4, 8], hidden=6, nested=True), **about)


def read_checkpoint(path: Path) -> None:
    model, _about = checkpoint.load_trained(path, [4, 8])
    model.encode(image=torch.ones(2, 7))


def write_index(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    Index.build(folder / "index", write_checkpoint(folder), image=rng.random((30, 7), np.float32),
                columns={"caption": np.array([f"words {row}" for row in range(30)], dtype=object)}, rescore="int8")
    return folder / "index"


def read_index(path: Path) -> None:
    index = Index.load(path)
    hits = index.query(text=np.ones((1, 5), np.float32), topk=5, rescore=10)
    index.rows(next(iter(hits.each())))


def write_records(folder: Path) -> Path:
    some = sorted((Path(records.RESULTS) / "openmoji").glob("*.jsonl"))[0]
    (folder / "openmoji").mkdir()
    return write_text(some.name, "\n".join(some.read_text(encoding="utf-8").splitlines()[:3]) + "\n",
                      folder / "openmoji")


def read_records(path: Path) -> None:
    (path.parent.parent / "openmoji").mkdir(exist_ok=True)  # records have to lie in the folder of their data set
    records.read(path.rename(path.parent.parent / "openmoji" / path.name) if path.parent.name != "openmoji" else path)


CAPTIONS = [{"image": f"{row}.jpg", "caption": f"words {row}, and \"more\"", "label": "cat; dog"} for row in range(8)]
CODE = (b"cposix\nsystem\n(S'touch %s'\ntR", b"cbuiltins\nexec\n(S'open(\"%s\", \"w\")'\ntR",
        b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R", b"h\x00", b"\x85" * 64, b"(lp0\n")

FORMATS: dict[str, Format] = {
    "pickle": Format(of_data("pickle protocol 2", "pickle protocol 4", "pickle protocol 5"), load_dataset, CODE),
    "HDF5": Format(of_data("h5 groups", "h5 flat, gzip", "h5 row numbers"), load_dataset),
    "MATLAB 5": Format(of_data("mat 5 classic", "mat 5 row numbers, deflated", "mat 5 structs", "mat 5 sparse"),
                       load_dataset),
    "MATLAB 7.3": Format(of_data("mat 7.3 classic", "mat 7.3 structs"), load_dataset),
    "npz": Format(of_data("npz row numbers", "npz flat, deflated"), load_dataset),
    "captions": Format((functools.partial(write_text, "x.csv", "image,caption,label\n" + "".join(
                            '{},"{}",{}\n'.format(row["image"], row["caption"].replace('"', '""'), row["label"])
                            for row in CAPTIONS)),
                        functools.partial(write_text, "x.jsonl", "".join(json.dumps(row) + "\n" for row in CAPTIONS))),
                       read_captions, (b"[" * 5000, b"9" * 5000, b'"', b"\xff", b"\0", b";;")),
    "pictures": Format(tuple(functools.partial(write_picture, name, **options) for name, options in (
                           ("x.png", {}), ("x.jpg", {}), ("y.jpg", {"progressive": True}), ("x.gif", {}), ("x.webp", {}),
                           ("x.bmp", {}), ("x.tiff", {"compression": "tiff_lzw"}),
                           ("y.tiff", {"compression": "jpeg"}))), upright),
    "checkpoint": Format((write_checkpoint,), read_checkpoint, CODE),
    "index": Format((write_index,), read_index, (*CODE, b"[" * 5000, b"9" * 5000, b"null", b"-1")),
    "records": Format((write_records,), read_records, (b"[" * 5000, b"9" * 5000, b"NaN", b"null", b"{}")),
}
