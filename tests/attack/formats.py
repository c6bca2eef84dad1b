"""What is attacked: for each format how sound samples are written, and who reads them.

``write(folder)`` makes a sample and returns its path; ``read(path)`` reads it as a user's command would, and raises
InputError for what is wrong. Of a sample that is a folder one file at a time is damaged.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import report
import test_load_data
from attack import crafted_checkpoints, hostile_arrays, service
from attack.mutants import mutant
from benchmarks import compare, records
from common import json_text
from common.errors import InputError, one_line
from exporting.card import read_metrics, render
from extraction.encoders import upright
from extraction.folder import read_captions
from indexing.folder import read_manifest
from indexing.index import Index
from indexing.sources import file_queries
from load_data import load_dataset
from ICMR import Config, Solver
from model import HashModel
from toy import write_toy
from training import checkpoint


class Format(NamedTuple):
    samples: tuple[Callable[[Path], Path], ...]
    read: Callable[[Path], object]
    fragments: tuple[bytes, ...] = ()  # what is also inserted; %s becomes the path of a file that code would make
    packages: tuple[str, ...] = ()  # that have to be installed
    damage: Callable[[bytes, object, tuple[bytes, ...]], bytes] = mutant


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
             "config": {"scale_max": 10.0, "scale_min": 1.0, "seed": 0, "epoch": 3},
             "chosen": {"temperature": {"4": 0.2, "8": 0.1}}}
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


def read_resealed_index(path: Path) -> None:
    """The index, with the sizes and digests of its files as they are now, which whoever edits them can write, too."""
    about = read_manifest(path)
    for file in (path / about["version"]).iterdir():
        content = file.read_bytes()
        about["files"][file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "index.json").write_text(json.dumps(about))
    read_index(path)


def write_array(folder: Path) -> Path:
    np.save(folder / "x.npy", np.ones((8, 5), np.float32))
    return folder / "x.npy"


def read_array_of_queries(path: Path) -> None:
    np.array(file_queries(path, "text").features["text"])


def write_records(folder: Path) -> Path:
    some = sorted((Path(records.RESULTS) / "openmoji").glob("*.jsonl"))[0]
    (folder / "openmoji").mkdir()
    lines = map(json.loads, some.read_text(encoding="utf-8").splitlines()[:3])
    return write_text(some.name, "".join(json.dumps(json_text.unsealed(line)) + "\n" for line in lines),
                      folder / "openmoji")  # with their seals, all that is tried would be the seals


def read_records(path: Path) -> None:
    (path.parent.parent / "openmoji").mkdir(exist_ok=True)  # records have to lie in the folder of their data set
    records.read(path.rename(path.parent.parent / "openmoji" / path.name) if path.parent.name != "openmoji" else path)


@functools.cache
def metrics() -> dict:
    """Those of a short training."""
    folder = Path(tempfile.mkdtemp())
    solver = Solver(Config(dataset="toy", data_dir=str(write_toy(folder, pairs=60, queries=10) / "data"),
                           results_dir=str(folder), checkpoint_dir=str(folder), hash_lens=[4], hidden=16,
                           batch_size=16, epoch=1, device="cpu", quiet=True))
    with contextlib.redirect_stdout(io.StringIO()):
        solver.fit()
    return {name: value for name, value in solver.results().items() if name != "average_precision"}


def write_metrics(sealed: bool, folder: Path) -> Path:
    return write_text("metrics.json", json.dumps(json_text.sealed(metrics()) if sealed else metrics()), folder)


def read_metrics_everywhere(path: Path) -> None:
    """All that reads the file; report.py, which draws for a second, one file in 32."""
    (path.parent / "sound").mkdir(exist_ok=True)
    write_metrics(True, path.parent / "sound")
    trained = metrics() | {"epoch": 1, "scale": 10.0}
    readers = [lambda: compare.main.__wrapped__([str(path), str(path.parent / "sound")]),
               lambda: Config.parse(["--config", str(path)], "ICMR.py", ""),
               lambda: render(HashModel(9, 5, [4], nested=True).settings, ["model.safetensors"], trained,
                              read_metrics(path, trained, [4], Config().outcome()))]
    if zlib.crc32(path.read_bytes()) % 32 == 0:
        readers.append(lambda: report.main.__wrapped__([str(path.parent)]))
    refused = []
    for read in readers:
        try:
            read()
        except InputError as error:
            refused.append(error)
    if refused:
        raise max(refused, key=lambda error: len(one_line(error)))


CAPTIONS = [{"image": f"{row}.jpg", "caption": f"words {row}, and \"more\"", "label": "cat; dog"} for row in range(8)]
CODE = (b"cposix\nsystem\n(S'touch %s'\ntR", b"cbuiltins\nexec\n(S'open(\"%s\", \"w\")'\ntR",
        b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R", b"h\x00", b"\x85" * 64, b"(lp0\n")
JSON = (b"[" * 5000, b"9" * 5000, b"NaN", b"null", b"{}")

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
                           ("x.png", {}), ("x.jpg", {}), ("y.jpg", {"progressive": True}), ("x.gif", {}),
                           ("x.webp", {}), ("x.bmp", {}), ("x.tiff", {"compression": "tiff_lzw"}),
                           ("y.tiff", {"compression": "jpeg"}))), upright),
    "checkpoint": Format((write_checkpoint,), read_checkpoint, CODE),
    "crafted checkpoint": Format((crafted_checkpoints.write_model,), crafted_checkpoints.read_model, CODE,
                                 damage=crafted_checkpoints.crafted),
    "run state": Format((crafted_checkpoints.write_state,), crafted_checkpoints.read_state, CODE,
                        damage=crafted_checkpoints.crafted),
    "index": Format((write_index,), read_index, (*CODE, b"[" * 5000, b"9" * 5000, b"null", b"-1")),
    "resealed index": Format((write_index,), read_resealed_index),
    "npy": Format((write_array,), read_array_of_queries, tuple(map(str.encode, hostile_arrays.PIECES))),
    "records": Format((write_records,), read_records, JSON),
    "metrics.json": Format((functools.partial(write_metrics, False), functools.partial(write_metrics, False),
                            functools.partial(write_metrics, True)), read_metrics_everywhere, JSON),
    "service requests": Format(tuple(functools.partial(service.write, number)
                                     for number in range(len(service.REQUESTS))), service.ask, service.FRAGMENTS,
                               service.PACKAGES),
}


def installed() -> list[str]:
    """The formats whose packages are."""
    return [name for name, form in FORMATS.items() if all(map(importlib.util.find_spec, form.packages))]
