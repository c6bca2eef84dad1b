"""Searches with hash codes: makes an index of a data set's codes, and finds the items nearest to a query.

    python search.py build --checkpoint checkpoints/hash/openmoji_hash_64.pth --dataset openmoji
    python search.py query --item 7
    python search.py query --text "smiling cat"        # pip install -r requirements-extract.txt first
    torchrun --nproc_per_node=4 search.py query --item 7

An index is a folder, index/<dataset>/<bits> unless told otherwise; a query finds the one written last. ``index.py`` is
the same for Python programs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import NamedTuple

# Before numpy and torch load: see ICMR.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from extraction import encoders
import metric
from reporting import search_page
from indexing import shards
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import write_atomically
from reporting.gallery import shown
from ICMR import choose_device
from indexing.index import SIDECAR, Hits, Index, load_model, read_sidecar
from load_data import SPLITS, Dataset, attributes, load_dataset
from reporting.terminal import clip, columns_of

OTHER = {"image": "text", "text": "image"}


# --- what goes in ---------------------------------------------------------------------------------


class Items(NamedTuple):
    """What ``build`` and ``add`` take: arguments of :meth:`Index.build` and :meth:`Index.add`."""

    image: np.ndarray | None
    text: np.ndarray | None
    ids: np.ndarray | None
    columns: dict[str, np.ndarray]
    source: dict

    def __len__(self) -> int:
        return rows_of(self.text if self.image is None else self.image)


def read_items(options: argparse.Namespace, modality: str) -> Items:
    """The items of a data set's split, or of feature files."""
    ids = None if options.ids is None else read_array(options.ids)
    captions = {} if options.captions is None else {"caption": read_lines(options.captions)}
    files = {name: getattr(options, f"{name}_features") for name in ("image", "text")}
    if options.dataset is None:
        if not any(files.values()):
            raise InputError("nothing to index: give --dataset, or --image_features or --text_features")
        for name in ("modality", "split", "data_dir"):
            if getattr(options, name, None) is not None:
                raise InputError(f"--{name}: only for --dataset; leave it out with feature files")
        image, text = (None if path is None else read_array(path) for path in files.values())
        return Items(image, text, ids, captions, {"files": [str(path) for path in files.values() if path is not None]})
    if any(files.values()):
        raise InputError("--dataset and feature files: give one of them")
    data = load_dataset(options.dataset, options.data_dir or "data")
    name = options.split or "retrieval"
    split, made_by = getattr(data, name), attributes(data).get("encoders")
    return Items(split.image.numpy() if modality in ("image", "both") else None,
                 split.text.numpy() if modality in ("text", "both") else None,
                 split.index if ids is None else ids, {**split.meta, **captions},
                 {"dataset": data.name, "path": str(data.path.absolute()), "fingerprint": data.fingerprint,
                  "split": name, "encoders": made_by if isinstance(made_by, str) else None})


def read_array(path: Path) -> np.ndarray:
    """A .npy file, memory-mapped. Raises :class:`InputError`; runs no code from it."""
    try:
        with open(path, "rb") as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:  # np.load reads other formats, too
                raise ValueError
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "damaged, empty or another format"
        raise InputError(f"{path}: cannot be read as a .npy file of numbers ({reason})") from None


def rows_of(array: np.ndarray) -> int:
    """The rows of an array; 0 for a single number, which index.py refuses."""
    return len(array) if array.ndim else 0


def read_lines(path: Path) -> np.ndarray:
    try:
        return np.array(path.read_text("utf-8-sig").removesuffix("\n").split("\n"), dtype=object)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as UTF-8 text ({reason})") from None


def encode_new(index: Index, modality: str, given: str, model: str | None) -> np.ndarray:
    """Features (1, d) of a text or an image file, if the encoder is the one that made the index's data set; ``model``
    is where a CLIP model is now.

    Raises :class:`InputError` with the reason if it isn't, or isn't installed.
    """
    recorded = index.about["source"].get("encoders")
    if recorded is None:
        raise InputError(f"--{modality}: the index doesn't say which encoder made its features, so that no other query "
                         f"can be encoded like them; search with --item, or --features and the same encoder")
    return encoders.like(recorded, modality, model)([given])


def read_queries(index: Index, options: argparse.Namespace) -> tuple[dict[str, np.ndarray], list[str]]:
    """The features of the queries, by modality, and what to call each query."""
    if options.clip is not None and options.text is None and options.image is None:
        raise InputError("--clip: only for --text or --image; leave it out")
    if options.text is not None:
        if not options.text.strip():
            raise InputError("--text: empty; give some words")
        if not encoders.is_unicode(options.text):
            raise InputError(f"--text: not valid text: {options.text!r}")
        return {"text": encode_new(index, "text", options.text, options.clip)}, [options.text]
    if options.image is not None:
        return {"image": encode_new(index, "image", options.image, options.clip)}, [Path(options.image).name]
    modality = index.about["modality"]
    by = options.by or OTHER.get(modality, "text")
    if options.features is not None:
        features = read_array(options.features)
        return {by: features}, [f"{options.features.name}, row {row}" for row in range(rows_of(features))]
    data = load_again(index, options)
    for item in options.item:
        if not 0 <= item < len(data.query):
            raise InputError(f"--item {item}: expected 0 to {len(data.query) - 1}, the rows of {data.name}'s query "
                             f"split")
    captions = data.query.meta.get("caption")
    names = [f"{by} of query {item}" + ("" if captions is None else f": {captions[item]}") for item in options.item]
    return {by: getattr(data.query, by)[options.item].numpy()}, names


def load_again(index: Index, options: argparse.Namespace) -> Dataset:
    """The data set that the index was made from, unchanged."""
    source = index.about["source"]
    if "dataset" not in source:
        raise InputError(f"{index.folder}: made from feature files, not from a data set; search with --features")
    data = load_dataset(source["dataset"] if options.data_dir else source["path"], options.data_dir or "data")
    if data.fingerprint != source["fingerprint"]:
        raise InputError(f"{data.path}: not the data set that {index.folder} was made from (its fingerprint differs); "
                         f"name the folder of that one with --data_dir, or build again")
    return data


# --- what comes out -------------------------------------------------------------------------------


def describe(index: Index, hits: Hits) -> list[dict]:
    """The hits of one query as dictionaries: rank, id, distance, score if reranked, and the item's columns; None for
    NaN and infinity, which JSON doesn't know.
    """
    rows = []
    for rank, (item, columns) in enumerate(zip(hits.id, index.describe(hits.id)), 1):
        row = {"rank": rank, "id": int(item), "distance": int(hits.distance[rank - 1])}
        if hits.score is not None:
            row["score"] = round(float(hits.score[rank - 1]), 4)
        columns = {name: None if isinstance(value, float) and not isfinite(value) else value
                   for name, value in columns.items()}
        rows.append({**row, **columns, **row})  # a column named as a field of the hit must not replace it
    return rows


def text_lines(rows: list[dict], width: int) -> list[str]:
    """One line an item, at most ``width`` columns: rank, distance, id, and emoji and caption if it has them."""
    if not rows:
        return ["  nothing found"]
    scored = "score" in rows[0]
    digits = max(2, *(len(str(row["id"])) for row in rows))
    lines = ["rank  distance  " + "   score  " * scored + f"{'id':>{digits}}"]
    for row in rows:
        score = f"{row['score']:8.2f}  " if scored else ""
        words = " ".join((shown(str(row.get("emoji") or "")), str(row.get("caption") or "")))
        line = f"{row['rank']:4}  {row['distance']:8}  {score}{row['id']:>{digits}}  {' '.join(words.split())}".rstrip()
        lines.append(trimmed(line, width))
    return lines


def trimmed(line: str, width: int) -> str:
    """The line, cut where it takes more than ``width`` columns of a terminal."""
    return line if columns_of(line) <= width else clip(line, width - 1).rstrip() + "…"


def newest(root: Path = Path("index")) -> Path:
    """The index that was written last, of those in ``index/<dataset>/<bits>``."""
    written = sorted((path.stat().st_mtime_ns, path.parent) for path in root.glob(f"*/*/{SIDECAR}"))
    if not written:
        raise InputError(f"no index in {root}/<dataset>/<bits>; make one with python search.py build, or name its "
                         f"folder with --folder")
    return written[-1][1]


# --- the commands ---------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> None:
    modality = options.modality or "image"
    items = read_items(options, modality)
    folder = options.folder
    if folder is None:
        bits = load_model(options.checkpoint)[0].hash_lens[0]
        folder = Path("index") / items.source.get("dataset", options.checkpoint.stem) / str(bits)
    if (folder / SIDECAR).is_file():
        about = read_sidecar(folder)
        if added := about["source"].get("added"):
            raise InputError(f"{folder}: the index there has {added:,} added items, which a new build would lose; give "
                             f"another --folder, or remove this one")
        if about["modality"] != modality and options.dataset is not None:
            raise InputError(f"{folder}: the index there is of {about['modality']}; give another --folder for one of "
                             f"{modality}, or remove this one")
    with progress_bar(len(items)) as progress:
        index = Index.build(folder, options.checkpoint, *items[:4], kind=options.index, source=items.source,
                            device=choose_device(options.device), progress=progress)
    print(f"{index.folder}: {len(index):,} items, {index.bits} bits, {index.about['modality']}, "
          f"{described_kind(index)}")


def add(options: argparse.Namespace) -> None:
    index = Index.load(options.folder or newest())
    items = read_items(options, index.about["modality"])
    known = [source.get("encoders") for source in (index.about["source"], items.source)]
    if None not in known and not encoders.same(*known):
        raise InputError(f"{index.folder}: its features were made by {known[0]}, those to add by {known[1]}; "
                         f"their codes can't be compared")
    before = len(index)
    with progress_bar(len(items)) as progress:
        index.add(*items[:4], device=choose_device(options.device), progress=progress)
    print(f"{index.folder}: {len(index) - before:,} items added, {len(index):,} in all, {described_kind(index)}")


def info(options: argparse.Namespace) -> None:
    index = Index.load(options.folder or newest())
    index.verify()
    about, source = index.about, index.about["source"]
    origin = (f"{source['split']} split of {source['dataset']}" if "dataset" in source else
              ", ".join(source.get("files", ["arrays"])))
    size = sum(file["bytes"] for file in about["files"].values())
    columns = [] if index.items is None else index.items.column_names
    for name, value in (("folder", f"{index.folder} (version {about['version']}, written {about['written']})"),
                        ("items", f"{len(index):,}, ids {index.ids[0]} to {index.ids[-1]}"),
                        ("from", origin + (f", and {source['added']:,} added" if source.get("added") else "")),
                        ("codes", f"{index.bits} bits, of {about['modality']}, "
                                  f"{len(np.unique(index.codes, axis=0)):,} different ones"),
                        ("bit order", about["bit_order"]),
                        ("search", described_kind(index)),
                        ("model", f"trained on {about['model']['dataset']} for {about['model']['epoch']} epochs, "
                                  f"SHA-256 {about['model']['sha256'][:16]}..."),
                        ("columns", ", ".join(columns) or "none"),
                        ("encoders", source.get("encoders") or "not known"),
                        ("size", f"{size:,} bytes in {len(about['files'])} files, all of them unchanged")):
        print(f"{name:<10} {value}")


def described_kind(index: Index) -> str:
    chosen = ", ".join(f"{name} {value}" for name, value in index.about["parameters"].items())
    return index.about["kind"] + (f" ({chosen})" if chosen else "")


def query(options: argparse.Namespace) -> None:
    if options.rerank is not None and options.radius is not None:
        raise InputError("--rerank and --radius: give one of them; a radius has no best N")
    if options.by is not None and (options.text is not None or options.image is not None):
        raise InputError("--by: a --text is a text and an --image an image; leave it out")
    if options.data_dir is not None and not options.item:
        raise InputError("--data_dir: only for --item; leave it out")
    if options.images is not None and options.gallery is None:
        raise InputError("--images: the pictures are for the page; give --gallery too")
    if options.images is not None and not options.images.is_dir():
        raise InputError(f"--images {options.images}: no such folder; expected the folder of the image files")
    folder = options.folder or newest()
    with opened(folder) as index:
        if index is None:
            return  # another process shows the answer
        features, names = read_queries(index, options)
        if options.radius is not None:
            found = index.query_radius(**features, radius=options.radius)
        else:
            topk = min(10, len(index)) if options.topk is None else options.topk
            found = index.query(**features, topk=topk, rerank=options.rerank).each()
        results = [(name, describe(index, hits)) for name, hits in zip(names, found)]
    if options.gallery is not None:
        page = search_page.render(f"Search in {folder}", results, options.images)
        write_atomically(options.gallery, lambda file: file.write(page), "w")
    if options.json:
        print(json.dumps({"index": str(folder), "results": [{"query": name, "hits": rows} for name, rows in results]},
                         indent=1, ensure_ascii=False))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    for name, rows in results:
        print(trimmed(name, width))
        print("\n".join(text_lines(rows, width)))
    if options.gallery is not None:
        print(options.gallery)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Index | None]:
    """The index; under torchrun, spread over the processes, and None in all but the first, once that is done."""
    if shards.world_size() == 1:
        yield Index.load(folder)
        return
    import torch.distributed as dist
    dist.init_process_group("gloo")
    try:
        index = Index.load(folder, shards.Sharded)
        if dist.get_rank() == 0:
            try:
                yield index
            finally:
                index.searcher.stop()
        else:
            index.searcher.serve()
            yield None
    finally:
        dist.destroy_process_group()


def export(options: argparse.Namespace) -> None:
    """Parquet: id, code as fixed-size binary, and the columns of the items."""
    if options.out.suffix != ".parquet":
        raise InputError(f"--out {options.out}: expected the name of a .parquet file")
    index = Index.load(options.folder or newest())
    width = index.codes.shape[1]
    fields = [] if index.items is None else [  # a name that comes twice could not be read
        field.with_name(f"item_{field.name}") if field.name in ("id", "code") else field for field in index.items.schema]
    schema = pa.schema([pa.field("id", pa.int64(), False), pa.field("code", pa.binary(width), False), *fields],
                       metadata={"bits": str(index.bits), "bit_order": index.about["bit_order"],
                                 "model_sha256": index.about["model"]["sha256"]})

    def write(file) -> None:
        with pa.parquet.ParquetWriter(file, schema) as writer:
            for start in range(0, len(index), 1 << 16):
                part = slice(start, start + (1 << 16))
                codes = np.array(index.codes[part])
                packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(codes), [None, pa.py_buffer(codes)])
                columns = [pa.array(index.ids[part]), packed]
                if index.items is not None:
                    columns += index.items.slice(start, len(codes)).columns
                writer.write_table(pa.table(columns, schema=schema))

    write_atomically(options.out, write)
    print(f"{options.out}: {len(index):,} codes of {index.bits} bits")


def evaluate(options: argparse.Namespace) -> None:
    """mAP@50, with labels, and recall@10 of the items nearest in the real-valued space, with and without reranking."""
    index = Index.load(options.folder or newest())
    data = load_again(index, options)
    split = getattr(data, index.about["source"]["split"])
    order = np.argsort(split.index)
    if not np.array_equal(split.index[order], index.ids):
        raise InputError(f"{index.folder}: holds other items than the {index.about['source']['split']} split of "
                         f"{data.name}; build an index of that split alone")
    if len(index) < 50:
        raise InputError(f"{index.folder}: holds {len(index)} items; mAP@50 and recall@10 need 50 or more")
    modality = index.about["modality"]
    by = options.by or OTHER.get(modality, "text")
    x = index.encode(**{by: getattr(data.query, by).numpy()})
    items = index.encode(**{name: getattr(split, name).numpy()[order] for name in ("image", "text")
                            if modality in (name, "both")})
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, items)]
    nearest = [np.argsort(-(unit[1] @ query), kind="stable")[:10] for query in unit[0]]
    labels, item_labels = data.query.label.numpy(), split.label.numpy()[order]
    signs = metric.sign_codes(x), metric.sign_codes(items)
    map_at_50 = f"{metric.mean_average_precision(*signs, labels, item_labels, 50):.4f}" if data.num_classes else "-"
    print(f"{len(x):,} {by} queries x {len(index):,} items ({modality}), {index.bits} bits, {described_kind(index)}")
    print(f"{'':<32}  mAP@50  recall@10")
    print(f"{'Hamming, ties averaged':<32}  {map_at_50:>6}")
    for number in (None, *(n for n in options.rerank if n <= len(index))):
        ids = index.query_encoded(x, 50, number).id
        rows = np.where(ids == -1, -1, np.searchsorted(index.ids, ids))
        relevant = np.stack([(item_labels[found] @ label > 0) & (found != -1) for found, label in zip(rows, labels)])
        precision = relevant.cumsum(axis=1) / np.arange(1, 51)
        average = (precision * relevant).sum(axis=1) / np.maximum(relevant.sum(axis=1), 1)
        recall = np.mean([np.isin(best, found[:10]).mean() for best, found in zip(nearest, rows)])
        name = "Hamming, ties by id" if number is None else f"the best {number:,} reranked"
        map_at_50 = f"{average.mean():.4f}" if data.num_classes else "-"
        print(f"{name:<32}  {map_at_50:>6}     {recall:.4f}")


# --- command line ---------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_bar(total: int):
    with tqdm(total=total, unit=" items", leave=False, dynamic_ncols=True, disable=None) as bar:
        yield bar.update


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="search.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run, text: str) -> Parser:
        child = commands.add_parser(run.__name__, help=text, description=text, allow_abbrev=False)
        child.set_defaults(run=run)
        child.add_argument("--folder", type=Path, help="of the index (default: index/<dataset>/<bits>, of which the "
                                                       "one written last is searched)")
        return child

    make = command(build, "encode a database and index its codes; resumes an interrupted build")
    make.add_argument("--checkpoint", type=Path, required=True, help="a hash model, e.g. "
                                                                     "checkpoints/hash/openmoji_hash_64.pth")
    make.add_argument("--modality", choices=("image", "text", "both"),
                      help="what of a data set's items is encoded (default: image)")
    make.add_argument("--index", choices=("flat", "ivf", "hnsw", "hash"), default="flat",
                      help="flat is exact; the others are faster and may miss items (default: flat)")
    more = command(add, "append items to an index, encoded by its model")
    for child in (make, more):
        child.add_argument("--dataset", help="name of a folder in data_dir, or path of a folder or file")
        child.add_argument("--data_dir", help="where the data sets are (default: data)")
        child.add_argument("--split", choices=SPLITS, help="of the data set (default: retrieval)")
        child.add_argument("--image_features", type=Path, metavar="FILE.npy", help="instead of a data set: (n, d_i)")
        child.add_argument("--text_features", type=Path, metavar="FILE.npy", help="instead of a data set: (n, d_t)")
        child.add_argument("--ids", type=Path, metavar="FILE.npy", help="whole numbers from 0, (n,), each once "
                           "(default: row numbers in the data set's file, or the numbers after the largest)")
        child.add_argument("--captions", type=Path, metavar="FILE.txt", help="a line for each item")
        child.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N, for encoding (default: auto)")

    ask = command(query, "find the items nearest to queries")
    which = ask.add_mutually_exclusive_group(required=True)
    which.add_argument("--item", type=int, nargs="+", metavar="N", help="rows of the data set's query split")
    which.add_argument("--features", type=Path, metavar="FILE.npy", help="features of queries, (q, d)")
    which.add_argument("--text", help="words; needs the encoder that made the data set (requirements-extract.txt)")
    which.add_argument("--image", metavar="FILE", help="an image; needs the encoder that made the data set")
    many = ask.add_mutually_exclusive_group()
    many.add_argument("--topk", type=int, metavar="K", help="how many items (default: 10, or all of fewer)")
    many.add_argument("--radius", type=int, metavar="R", help="all items within this Hamming distance instead")
    ask.add_argument("--clip", metavar="MODEL", help="the CLIP model for --text or --image, if it isn't where the data "
                                                     "set says: a name on Hugging Face's hub or a folder")
    ask.add_argument("--rerank", type=int, metavar="N", help="re-order the best N by the real-valued query against the "
                                                             "binary codes")
    ask.add_argument("--json", action="store_true", help="print JSON")
    ask.add_argument("--gallery", type=Path, metavar="OUT.html", help="write the results as a page")
    ask.add_argument("--images", type=Path, metavar="DIR", help="folder of the data set's image files, for the gallery")

    command(info, "describe an index and check that its files are unchanged")
    out = command(export, "write ids, codes and captions as Parquet, for a vector database")
    out.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    test = command(evaluate, "measure an index on its data set's query split, with and without reranking")
    test.add_argument("--rerank", type=int, nargs="+", default=[100, 500], metavar="N", help="(default: 100 500)")
    for child in (ask, test):
        child.add_argument("--by", choices=("image", "text"), help="modality of the queries (default: the one that the "
                                                                   "index doesn't hold, or text)")
        child.add_argument("--data_dir", help="where the data set is now (default: where it was)")
    return parser.parse_args(argv)


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    try:
        options = _parse(argv)
        if shards.world_size() > 1 and options.run is not query:
            raise InputError(f"search.py {options.command}: runs in one process; torchrun is for query")
        options.run(options)
    except InputError:
        if shards.is_first():
            raise
        raise SystemExit(2) from None  # the first process has said it


if __name__ == "__main__":
    main()
