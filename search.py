"""Searches with hash codes: makes an index of a data set's codes, and finds the items nearest to a query.

    python search.py build --checkpoint checkpoints/hash/openmoji_hash.pth --dataset openmoji
    python search.py query --item 7
    python search.py query --item 7 --bits 32          # by the first 32 bits of each code
    python search.py query --features queries.npy      # without PyTorch: in under a second
    python search.py query --text "smiling cat"        # pip install -r requirements-extract.txt first
    torchrun --nproc_per_node=4 search.py query --item 7

An index is a folder, index/<dataset>/<bits> unless told otherwise; a query finds the one written last. Python programs
use indexing/index.py; docs/search.md has an example.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import argparse
import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

# PyTorch, Numba, faiss and Jinja take seconds to load: only commands that need them import what imports them.
from common.atomic_files import write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from common.packages import optional
from indexing import sources
from indexing.folder import CHANGES, MANIFEST, RESCORING, newest, read_manifest
from indexing.index import Index
from indexing.nearest import KINDS
from pairs.rows import SPLITS
from reporting.search_text import result_lines, shortened

ID_DIGITS = 19  # of the largest id, 2^63 - 1
UNDONE = {"added": "lose", "removed": "bring back", "updated": "set back"}  # what a new build does to changed items

# --- the commands ---------------------------------------------------------------------------------


def build(options: argparse.Namespace) -> None:
    """Encode items and write their index."""
    from indexing.encoding import load_model

    modality = options.modality or "image"
    items = read_items(options, modality)
    folder = options.folder
    if folder is None:
        bits = load_model(options.checkpoint)[0].width
        folder = Path("index") / items.source.get("dataset", options.checkpoint.stem) / str(bits)
    if (folder / MANIFEST).is_file():
        about = read_manifest(folder)
        for change, undone in UNDONE.items():
            if count := about["source"].get(change):
                raise InputError(f"{folder}: the index there has {count:,} {change} items, which a new build would "
                                 f"{undone}; give another --folder, or remove this one")
        if about["modality"] != modality and options.dataset is not None:
            raise InputError(f"{folder}: the index there is of {about['modality']}; give another --folder for one of "
                             f"{modality}, or remove this one")
    with progress_bar(items.size) as progress:
        index = Index.build(folder, options.checkpoint, **items._asdict(), kind=options.index,
                            device=device_of(options), progress=progress, rescore=options.rescore)
    print(f"{index.folder}: {len(index):,} items, {code_lengths(index)}, {index.about['modality']}, {kind_of(index)}")


def add(options: argparse.Namespace) -> None:
    """Append items to an index."""
    index = Index.load(options.folder or newest())
    items = read_items(options, index.about["modality"])
    sources.check_same_encoders(index, items)
    before = len(index)
    with progress_bar(items.size) as progress:
        index.add(items.image, items.text, items.ids, items.columns, device_of(options), progress)
    print(f"{index.folder}: {len(index) - before:,} items added, {len(index):,} in all, {kind_of(index)}")


def remove(options: argparse.Namespace) -> None:
    """Remove items from an index."""
    index = Index.load(options.folder or newest())
    before = len(index)
    index.remove(read_ids(options.ids))
    print(f"{index.folder}: {before - len(index):,} items removed, {len(index):,} in all, {kind_of(index)}")


def update(options: argparse.Namespace) -> None:
    """Give items of an index new features or captions."""
    index, ids = Index.load(options.folder or newest()), read_ids(options.ids)
    items = sources.items_of_files(options.image_features, options.text_features)
    columns = {} if options.captions is None else {"caption": sources.read_lines(options.captions)}
    with progress_bar(np.size(ids)) as progress:
        index.update(ids, items.image, items.text, columns, device_of(options), progress)
    print(f"{index.folder}: {np.size(ids):,} items updated, {len(index):,} in all, {kind_of(index)}")


def query(options: argparse.Namespace) -> None:
    """Print the items nearest to each query, or write them as a page."""
    check_query_options(options)
    folder = options.folder or newest()
    with opened(folder) as index:
        if index is None:
            return  # the first process shows the answer
        queries = read_queries(options, index)
        if options.radius is not None:
            hits = index.query_radius(**queries.features, radius=options.radius, bits=options.bits)
        else:
            topk = min(10, len(index)) if options.topk is None else options.topk
            hits = index.query(**queries.features, topk=topk, rerank=options.rerank, bits=options.bits,
                               coarse=options.coarse, candidates=options.candidates, rescore=options.rescore).each()
        results = [(name, index.rows(found)) for name, found in zip(queries.names, hits)]
    if options.gallery is not None:
        from reporting import search_page

        page = search_page.render(f"Search in {folder}", results, options.images)
        write_atomically(options.gallery, lambda file: file.write(page), "w")
    if options.json:
        print(json.dumps({"index": str(folder), "results": [{"query": name, "hits": rows} for name, rows in results]},
                         indent=1, ensure_ascii=False))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    for name, rows in results:
        print(shortened(name, width), *result_lines(rows, width), sep="\n")
    if options.gallery is not None:
        print(options.gallery)


def info(options: argparse.Namespace) -> None:
    """Describe an index, after comparing all of its files with what was written."""
    index = Index.load(options.folder or newest(), verify=True)
    about, source = index.about, index.about["source"]
    origin = (f"{source['split']} split of {source['dataset']}" if "dataset" in source else
              ", ".join(source.get("files", ["arrays"])))
    size = sum(file["bytes"] for file in about["files"].values())
    columns = [] if index.items is None else index.items.column_names
    for name, value in (("folder", f"{index.folder} (version {about['version']}, written {about['written']})"),
                        ("items", f"{len(index):,}, ids {index.ids[0]} to {index.ids[-1]}"),
                        ("from", origin + "".join(f", and {source[change]:,} {change}" for change in CHANGES
                                                  if source.get(change))),
                        ("codes", f"{code_lengths(index)}, of {about['modality']}, "
                                  f"{len(np.unique(index.codes, axis=0)):,} different ones"),
                        ("bit order", about["bit_order"]),
                        ("outputs", about.get("rescore") or "none; build with --rescore int8 to order by them"),
                        ("search", kind_of(index)),
                        ("model", f"trained on {about['model']['dataset']} for {about['model']['epoch']} epochs, "
                                  f"SHA-256 {about['model']['sha256'][:16]}..."),
                        ("columns", ", ".join(columns) or "none"),
                        ("encoders", source.get("encoders") or "not known"),
                        ("size", f"{size:,} bytes in {len(about['files'])} files, all of them unchanged")):
        print(f"{name:<10} {value}")


def evaluate(options: argparse.Namespace) -> None:
    """Print mAP@50 and recall@10 of an index: of its codes alone, reranked and rescored."""
    from indexing import quality

    index = Index.load(options.folder or newest())
    data = sources.load_source(index, options.data_dir)
    modality = options.by or sources.query_modality(index)
    rescored = options.rescore
    if rescored is None:
        rescored = [] if index.outputs is None else options.rerank
    rankings = quality.measure(index, data, modality, options.rerank, options.bits, rescored)
    bits = f"{index.bits} bits" if options.bits is None else f"the first {options.bits} of {index.bits} bits"
    print(f"{len(getattr(data.query, modality)):,} {modality} queries x {len(index):,} items ({index.about['modality']}), "
          f"{bits}, {kind_of(index)}")
    print(f"{'':<32}  mAP@50  recall@10  10 tied")
    for ranking, map_at_50, recall, tied in rankings:
        cells = ["-" if map_at_50 is None else f"{map_at_50:.4f}", "" if recall is None else f"{recall:.4f}",
                 "" if tied is None else f"{tied:.1%}"]
        print(f"{ranking:<32}  {cells[0]:>6}     {cells[1]:>6}   {cells[2]:>6}".rstrip())


def export(options: argparse.Namespace) -> None:
    """Write the codes as Parquet."""
    from exporting import parquet

    index = Index.load(options.folder or newest())
    parquet.write_parquet(index, options.out)
    print(f"{options.out}: {len(index):,} codes of {index.bits} bits")


def serve(options: argparse.Namespace) -> None:
    """Answer queries over HTTP."""
    with optional("requirements-serve.txt"):
        from serving import server
    server.serve(options.folder or newest(), options.host, options.port, options.images, options.encoders)


def load(options: argparse.Namespace) -> None:
    """Write ids, codes and columns into a table of a database."""
    from exporting import databases

    index = Index.load(options.folder or newest())
    with progress_bar(len(index)) as progress:
        written = databases.load(index, options.to, options.table, progress)
    print(f"{options.table}: {written:,} rows written, {len(index):,} in all, codes of {index.bits} bits")
    if options.check:
        queries = databases.check(index, options.to, options.table)
        print(f"{options.table}: the nearest of {queries} queries are those of the index")


# --- what the commands share ----------------------------------------------------------------------


def read_items(options: argparse.Namespace, modality: str) -> sources.Items:
    """The items of a data set's split or of feature files, with the ids and captions given for them."""
    files = options.image_features, options.text_features
    if options.dataset is not None:
        if any(files):
            raise InputError("--dataset and feature files: give one of them")
        items = sources.items_of_split(options.dataset, options.data_dir or "data", options.split or "retrieval",
                                       modality)
    else:
        if not any(files):
            raise InputError("nothing to index: give --dataset, or --image_features or --text_features")
        for name in ("modality", "split", "data_dir"):
            if getattr(options, name, None) is not None:
                raise InputError(f"--{name}: only for --dataset; leave it out with feature files")
        items = sources.items_of_files(*files)
    if options.ids is not None:
        items = items._replace(ids=sources.read_array(options.ids))
    if options.captions is not None:
        items = items._replace(columns={**items.columns, "caption": sources.read_lines(options.captions)})
    return items


def read_ids(given: list[str]) -> np.ndarray:
    """The ids that ``--ids`` names: numbers, or one .npy file of them."""
    if len(given) == 1 and not given[0].isdecimal():
        return sources.read_array(Path(given[0]))
    if wrong := [value for value in given if not value.isdecimal() or len(value) > ID_DIGITS]:
        raise InputError(f"--ids {wrong[0]}: expected whole numbers up to 2^63 - 1, or one .npy file of them")
    return np.array([int(value) for value in given], np.uint64)


def check_query_options(options: argparse.Namespace) -> None:
    """Raise InputError for options that don't go together."""
    new = options.text is not None or options.image is not None
    for name in ("rerank", "rescore"):
        if getattr(options, name) is not None and options.radius is not None:
            raise InputError(f"--{name} and --radius: give one of them; a radius has no best N")
    if options.coarse is not None and options.radius is not None:
        raise InputError("--coarse and --radius: give one of them; a search within a radius misses nothing")
    if options.candidates is not None and options.coarse is None:
        raise InputError("--candidates: only for --coarse; leave it out")
    if options.by is not None and new:
        raise InputError("--by: a --text is a text and an --image an image; leave it out")
    if options.encoders is not None and not new:
        raise InputError("--encoders: only for --text or --image; leave it out")
    if options.data_dir is not None and not options.item:
        raise InputError("--data_dir: only for --item; leave it out")
    if options.images is not None and options.gallery is None:
        raise InputError("--images: the pictures are for the page; give --gallery too")
    if options.images is not None and not options.images.is_dir():
        raise InputError(f"--images {options.images}: no such folder; expected the folder of the image files")


def read_queries(options: argparse.Namespace, index: Index) -> sources.Queries:
    """The queries that the options ask for."""
    if options.text is not None:
        return sources.text_query(index, options.text, options.encoders)
    if options.image is not None:
        return sources.image_query(index, options.image, options.encoders)
    modality = options.by or sources.query_modality(index)
    if options.features is not None:
        return sources.file_queries(options.features, modality)
    return sources.split_queries(sources.load_source(index, options.data_dir), options.item, modality)


def device_of(options: argparse.Namespace):
    """The device of ``--device``."""
    from training.device import choose_device

    return choose_device(options.device)


def world_size() -> int:
    """The number of processes that torchrun has started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def is_first() -> bool:
    """Whether this process is the one that reads queries and prints: the first of torchrun's, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def opened(folder: Path) -> contextlib.AbstractContextManager[Index | None]:
    """The index of a folder, spread over the processes of torchrun if there are several; None in all but the first."""
    if world_size() == 1:
        return contextlib.nullcontext(Index.load(folder))
    from indexing import shards

    return shards.open_index(folder)


def kind_of(index: Index) -> str:
    """The kind of an index with its parameters, such as "ivf (nlist 256, nprobe 16)"."""
    parameters = ", ".join(f"{name} {value}" for name, value in index.about["parameters"].items())
    return index.about["kind"] + (f" ({parameters})" if parameters else "")


def code_lengths(index: Index) -> str:
    """The bits of the codes, and the lengths that can be searched, such as "128 bits (nested: 16, 32, 64, 128)"."""
    lengths = ", ".join(map(str, index.lengths))
    return f"{index.bits} bits" + (f" (nested: {lengths})" if len(index.lengths) > 1 else "")


@contextlib.contextmanager
def progress_bar(total: int):
    """Gives a function that moves a bar of ``total`` items on; on a terminal only."""
    from tqdm import tqdm

    with tqdm(total=total, unit=" items", leave=False, dynamic_ncols=True, disable=None) as bar:
        yield bar.update


# --- command line ---------------------------------------------------------------------------------


def parse_options(argv: list[str] | None) -> argparse.Namespace:
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
                                                                     "checkpoints/hash/openmoji_hash.pth")
    make.add_argument("--modality", choices=("image", "text", "both"),
                      help="what of a data set's items is encoded (default: image)")
    make.add_argument("--index", choices=KINDS, default="flat",
                      help="flat is exact; the others are faster and may miss items (default: flat)")
    make.add_argument("--rescore", choices=RESCORING, help="also keep the real-valued outputs, in a byte a bit, for "
                                                           "query --rescore")
    more = command(add, "append items to an index, encoded by its model")
    for child in (make, more):
        child.add_argument("--dataset", help="name of a folder in data_dir, or path of a folder or file")
        child.add_argument("--data_dir", help="where the data sets are (default: data)")
        child.add_argument("--split", choices=SPLITS, help="of the data set (default: retrieval)")
        child.add_argument("--ids", type=Path, metavar="FILE.npy", help="whole numbers from 0, (n,), each once "
                           "(default: row numbers in the data set's file, or the numbers after the largest)")
    less = command(remove, "remove items from an index")
    change = command(update, "give items of an index new features, captions, or both; what isn't given stays")
    for child in (less, change):
        child.add_argument("--ids", nargs="+", required=True, metavar="N",
                           help="ids of items, or one .npy file of them")
    for child in (make, more, change):
        for side in ("image", "text"):
            child.add_argument(f"--{side}_features", type=Path, metavar="FILE.npy",
                               help=f"{'new ones' if child is change else 'instead of a data set'}: (n, d_{side[0]})")
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
    ask.add_argument("--encoders", "--clip", metavar="MODEL",
                     help="the model for --text or --image, if it isn't where the data set says: a name on Hugging "
                          "Face's hub or a folder")
    order = ask.add_mutually_exclusive_group()
    order.add_argument("--rerank", type=int, metavar="N", help="re-order the best N by the real-valued query against "
                                                               "the binary codes")
    order.add_argument("--rescore", type=int, metavar="N", help="re-order the best N by the real-valued query against "
                                                                "the stored outputs; needs build --rescore int8")
    ask.add_argument("--coarse", type=int, metavar="N", help="find candidates by the first N bits, and order only "
                                                             "these by all bits, or by --bits; may miss items")
    ask.add_argument("--candidates", type=int, metavar="N", help="how many with --coarse (default: 100 for each item "
                                                                 "that is asked for)")
    ask.add_argument("--json", action="store_true", help="print JSON")
    ask.add_argument("--gallery", type=Path, metavar="OUT.html", help="write the results as a page")
    ask.add_argument("--images", type=Path, metavar="DIR", help="folder of the data set's image files, for the gallery")

    service = command(serve, "answer queries over HTTP, with a page to search by words and pictures")
    service.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 is every address of this machine "
                                                             "(default: 127.0.0.1, for this machine alone)")
    service.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    service.add_argument("--images", type=Path, metavar="DIR", help="folder of the data set's image files, to show them")
    service.add_argument("--encoders", "--clip", metavar="MODEL", help="as for query")

    command(info, "describe an index and check that its files are unchanged")
    out = command(export, "write ids, codes and captions as Parquet, for a vector database")
    out.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    into = command(load, "write ids, codes and captions into a database; goes on with an interrupted load")
    into.add_argument("--to", required=True, metavar="DATABASE", help="postgres://USER@HOST/DATABASE or duckdb:FILE")
    into.add_argument("--table", default="items", metavar="NAME", help="(default: items)")
    into.add_argument("--check", action="store_true", help="then compare the nearest of some queries with the index")
    test = command(evaluate, "measure an index on its data set's query split: codes alone, reranked, rescored")
    test.add_argument("--rerank", type=int, nargs="+", default=[100, 500], metavar="N", help="(default: 100 500)")
    test.add_argument("--rescore", type=int, nargs="+", metavar="N", help="(default: as --rerank, if the index holds "
                                                                          "the outputs)")
    for child in (ask, test):
        child.add_argument("--by", choices=("image", "text"), help="modality of the queries (default: the one that the "
                                                                   "index doesn't hold, or text)")
        child.add_argument("--bits", type=int, metavar="N", help="compare the first N bits, one of the code lengths of "
                                                                 "a nested model (default: all)")
        child.add_argument("--data_dir", help="where the data set is now (default: where it was)")
    return parser.parse_args(argv)


@exit_on_bad_input
def main(argv: list[str] | None = None) -> None:
    try:
        options = parse_options(argv)
        if world_size() > 1 and options.run is not query:
            raise InputError(f"search.py {options.command}: runs in one process; torchrun is for query")
        options.run(options)
    except InputError:
        if is_first():
            raise
        raise SystemExit(2) from None  # the first process has said it


if __name__ == "__main__":
    main()
