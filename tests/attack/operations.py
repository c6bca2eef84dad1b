"""What is killed: six operations, each with what is there before, the work, and what a reader finds afterwards.

The work, done again after a kill, is to end as if there had been none. ``found(folder)`` gives digests by name; each
may be the old one or the new one at any time, and nothing else.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

import extract_features
import reporting.page
import search
import test_documents
import toy
from benchmarks import documents, records
from common import hamming_loops  # noqa: F401, loaded here once
from exporting import databases
from extraction import chunks
from extraction.encoders import packaged
from formats import hdf5
from indexing import encoding, nearest  # noqa: F401
from indexing.index import Index
from load_data import load_dataset
from model import HashModel
from toy_encoders import toy_encoders
from training import checkpoint

with contextlib.suppress(ImportError):
    import duckdb  # noqa: F401

IMAGE, TEXT, ITEMS = 9, 5, 60


class Operation(NamedTuple):
    prepare: Callable[[Path], None]
    work: Callable[[Path], None]
    found: Callable[[Path], dict[str, str]]


def make_small() -> None:
    """Let small files be written in several parts, and leave out what takes long and writes nothing."""
    torch.set_num_threads(1)
    encoding.CHUNK_ROWS, chunks.CHUNK, databases.BATCH_ROWS = 25, 8, 16
    packaged.load = toy_encoders
    hdf5.check_structure = lambda path: None
    reporting.page.shown_figure = lambda caption, figure: {"caption": caption, "svg": "", "downloads": []}
    documents.DOCUMENTS = {"README.md": ("unseen", "headline", "scale")}


def digest(*content: object) -> str:
    return hashlib.sha256(pickle.dumps(content)).hexdigest()


# --- training ---------------------------------------------------------------------------------------------------------


def train(folder: Path, seed: int, resume: bool = False) -> None:
    ICMR.main([*toy.toy_arguments(folder, "--run_name", "run", "--eval_every", "2", "--codes_mat", "true"), "--seed",
               str(seed), *["--resume"] * resume])


def prepare_training(folder: Path) -> None:
    toy.write_toy(folder, ITEMS, 12)
    train(folder, seed=0)
    (folder / "checkpoints/hash/toy_hash_4_8_state.pth").unlink()  # of a run that is over, and would not be resumed


def work_training(folder: Path) -> None:
    train(folder, seed=1, resume=(folder / "checkpoints/hash/toy_hash_4_8_state.pth").exists())


def found_training(folder: Path) -> dict[str, str]:
    metrics = json.loads((folder / "results/toy/run/metrics.json").read_text("utf-8"))
    last = np.load(folder / "results/toy/run/average_precision.npz")
    weights = checkpoint.load_trained(folder / "checkpoints/hash/toy_hash.pth", [4, 8])[0].state_dict()
    return {"weights": digest({name: values.numpy().tobytes() for name, values in weights.items()}),
            "metrics.json": digest(metrics["final"], metrics["history"]),
            "average_precision.npz": digest({name: last[name].tobytes() for name in last.files})}


# --- indexes ----------------------------------------------------------------------------------------------------------


def features(folder: Path) -> None:
    """The features of old and new items, of queries, and a model for them."""
    rng = np.random.default_rng(0)
    for name, shape in (("old", (ITEMS, IMAGE)), ("new", (ITEMS, IMAGE)), ("queries", (3, TEXT))):
        np.save(folder / f"{name}.npy", rng.normal(size=shape).astype(np.float32))
    np.save(folder / "ids.npy", 1000 + np.arange(ITEMS))
    (folder / "captions.txt").write_text("".join(f"words {row}\n" for row in range(ITEMS)))
    torch.manual_seed(0)
    checkpoint.save_model(folder / "model.pth", HashModel(IMAGE, TEXT, [8, 16], hidden=8, nested=True))


def build(folder: Path, items: str) -> None:
    search.main(["build", "--checkpoint", str(folder / "model.pth"), "--image_features", str(folder / f"{items}.npy"),
                 "--captions", str(folder / "captions.txt"), "--folder", str(folder / "index"), "--index", "ivf",
                 "--rescore", "int8", "--device", "cpu"])


def prepare_index(folder: Path) -> None:
    features(folder)
    build(folder, "old")


def work_adding(folder: Path) -> None:
    if len(Index.load(folder / "index")) == ITEMS:
        search.main(["add", "--folder", str(folder / "index"), "--image_features", str(folder / "new.npy"),
                     "--ids", str(folder / "ids.npy"), "--captions", str(folder / "captions.txt"), "--device", "cpu"])


def found_index(folder: Path) -> dict[str, str]:
    index = Index.load(folder / "index")
    index.verify()
    hits = index.query(text=np.load(folder / "queries.npy"), topk=10, rescore=20).each()
    return {"index": digest(index.codes.tobytes(), index.ids.tobytes(), index.outputs.tobytes(),
                            json.dumps([index.rows(each) for each in hits]))}


# --- extracting -------------------------------------------------------------------------------------------------------


def extract(folder: Path, word: str) -> None:
    lines = [f"{row}.png,{word * (1 + row % 7)},{'ab'[row % 2]}\n" for row in range(20)]
    (folder / "captions.csv").write_text("image,caption,label\n" + "".join(lines))
    extract_features.main(["folder", "--images", str(folder / "pictures"), "--captions", str(folder / "captions.csv"),
                           "--out", str(folder / "data/mine/mine.h5")])


def prepare_extracting(folder: Path) -> None:
    (folder / "pictures").mkdir()
    for row in range(20):
        Image.new("RGB", (6, 5), (row, 2 * row, 100)).save(folder / f"pictures/{row}.png")
    extract(folder, "a")


def found_extracting(folder: Path) -> dict[str, str]:
    load_dataset("mine", folder / "data")
    return {"mine.h5": digest((folder / "data/mine/mine.h5").read_bytes())}


# --- a database -------------------------------------------------------------------------------------------------------


def load(folder: Path) -> None:
    search.main(["load", "--folder", str(folder / "index"), "--to", f"duckdb:{folder / 'codes.duckdb'}"])


def prepare_loading(folder: Path) -> None:
    prepare_index(folder)
    load(folder)
    build(folder, "new")


def found_loading(folder: Path) -> dict[str, str]:
    with databases.opened(f"duckdb:{folder / 'codes.duckdb'}") as database:
        rows = database.execute("SELECT id, CAST(code AS varchar), caption FROM items").fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    return {f"row {row[0]}": digest(row) for row in rows}


# --- tables -----------------------------------------------------------------------------------------------------------


def publish(folder: Path, score: float) -> None:
    """Write records, and the documents that they are evidence of."""
    documents.ROOT = folder
    methods = [test_documents.record(seed=seed, score=score) for seed in range(2)]
    methods += [test_documents.record("UCCH", lengths=(bits,), score=score / 2) for bits in (16, 64)]
    records.write(methods, folder / records.RESULTS)
    documents.main(["--export", str(folder / "tables")])


def prepare_publishing(folder: Path) -> None:
    shutil.copy(test_documents.ROOT / "README.md", folder)
    publish(folder, 0.3)


def found_publishing(folder: Path) -> dict[str, str]:
    records.read_all(folder / records.RESULTS)
    return {str(path.relative_to(folder)): digest(path.read_bytes())
            for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


OPERATIONS: dict[str, Operation] = {
    "training": Operation(prepare_training, work_training, found_training),
    "building": Operation(prepare_index, lambda folder: build(folder, "new"), found_index),
    "adding": Operation(prepare_index, work_adding, found_index),
    "extracting": Operation(prepare_extracting, lambda folder: extract(folder, "b"), found_extracting),
    "loading": Operation(prepare_loading, load, found_loading),
    "publishing": Operation(prepare_publishing, lambda folder: publish(folder, 0.4), found_publishing),
}
