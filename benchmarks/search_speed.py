"""Measures the search: build time, size, memory, speed and recall of each index, beside the machine's limits.

    python benchmark.py search --sizes 100000 1000000 --bits 64 128
    python benchmark.py search --sizes 10000000 --bits 64 --indexes numpy flat ivf hash
    python benchmark.py search --record          # also write docs/results/search.json, for the documents

The codes are real ones with noise, as no data set with this project has millions of items: each is the code of an
image of the data set's retrieval split with every bit flipped with probability ``--noise``; queries are made the same
way from texts of the query split. Recall counts by distance: an item as near as the true k-th is a hit. Each index is
measured in a process of its own.

``coarse`` is the search from coarse to fine in nested codes: candidates by the first bits, as many as one of the two
shortest code lengths has, ordered by all bits. It is measured with the longest of ``--bits``.

How well the codes rank, alone, reranked and rescored, is measured on the items of the data set itself.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import torch

import metric
from benchmarks import records
from benchmarks.tables import table
from common.atomic_files import check_writable, write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from common.hamming_loops import compiled, distance_to
from indexing import nearest, quality
from indexing.encoding import load_model
from indexing.features import Encoded
from indexing.index import Index
from load_data import load_dataset
from training import checkpoint
from training.device import processor

INDEXES = ("numpy", *nearest.KINDS, "coarse")
CANDIDATES = (300, 1000, 3000)  # of a search from coarse to fine
BATCH = 1000
RECALL_QUERIES = 200
TOPK = 10
SECONDS = 1.0  # at least so long is each speed measured
READ_BYTES = 1 << 30
RERANKED = (100, 500)  # the best so many, and rescored
ENCODED = 40960


# --- codes ----------------------------------------------------------------------------------------


def real_codes(path: Path, dataset: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    """Packed codes of the images of the retrieval split and of the texts of the query split."""
    model, _ = load_model(path)
    data = load_dataset(dataset, data_dir)
    with torch.inference_mode():
        sides = model.encode(image=data.retrieval.image), model.encode(text=data.query.text)
    return tuple(metric.pack_codes(metric.sign_codes(codes.numpy())) for codes, _ in sides)


def noisy(real: np.ndarray, count: int, noise: float, random: np.random.Generator, out: np.ndarray) -> np.ndarray:
    """``count`` random rows of ``real``, each bit flipped with probability ``noise``, written to ``out``."""
    for start in range(0, count, 1 << 18):
        rows = min(1 << 18, count - start)
        flips = np.packbits(random.random((rows, 8 * real.shape[1]), np.float32) < noise, axis=1)
        out[start:start + rows] = real[random.integers(0, len(real), rows)] ^ flips
    return out


# --- one index ------------------------------------------------------------------------------------


def measure(kind: str, folder: str, coarse: int = 0, candidates: int = 0) -> dict:
    """All figures of one index over ``codes.npy`` of a folder; runs in a process of its own.

    ``coarse`` is the number of bits by which a search from coarse to fine finds so many ``candidates``.
    """
    codes = np.load(Path(folder, "codes.npy"), mmap_mode="r")
    queries, truth = np.load(Path(folder, "queries.npy")), np.load(Path(folder, "truth.npy"))
    nearest.Flat(codes[:1]).nearest(queries[:1], 1)  # machine code is made or loaded before memory counts
    before = memory(reset=True)
    started = time.perf_counter()
    size = codes.nbytes
    if kind == "numpy":
        searcher = NumpyScan(codes)
    elif kind == "flat":
        searcher = nearest.Flat(codes)
    elif kind == "coarse":
        searcher = CoarseToFine(codes, coarse, candidates)
    else:
        made = nearest.make(kind, codes, nearest.parameters(kind, len(codes), 8 * codes.shape[1]))
        searcher = nearest.Approximate(codes, made)
    build = time.perf_counter() - started
    chosen = nearest.parameters(kind, len(codes), 8 * codes.shape[1])
    if kind == "coarse":
        chosen = {"coarse": coarse, "candidates": candidates}
    if kind in nearest.KINDS[1:]:
        path = Path(folder, "faiss.index")
        faiss.write_index_binary(searcher.index, str(path))
        size += path.stat().st_size
        path.unlink()
    single = speed(lambda i: searcher.nearest(queries[i % BATCH:i % BATCH + 1], TOPK))
    batch = None if kind == "numpy" else BATCH * speed(lambda i: searcher.nearest(queries, TOPK))
    after = memory()
    recall = {}
    for k in (10, 100):
        distance, _ = searcher.nearest(queries[:RECALL_QUERIES], k)
        recall[f"recall@{k}"] = float((distance <= truth[:, k - 1:k]).mean())
    return {"index": kind, "parameters": chosen, "build_seconds": build, "bytes_on_disk": size,
            "memory_above_codes": None if after is None else (after - before) / codes.nbytes - 1,
            "queries_per_second": {"1": single, str(BATCH): batch}, **recall}


class NumpyScan:
    """What one writes without a library: XOR, ``numpy.bitwise_count``, and a partition for each query."""

    def __init__(self, codes: np.ndarray):
        word = next(f"u{size}" for size in (8, 4, 2, 1) if codes.shape[1] % size == 0)
        self.words, self.word = codes.view(word), word

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        distance, row = np.empty((len(queries), topk), np.int32), np.empty((len(queries), topk), np.int64)
        for i, query in enumerate(queries.view(self.word)):
            scan = np.bitwise_count(self.words ^ query).sum(axis=1, dtype=np.uint16)
            best = np.argpartition(scan, topk)[:topk]
            row[i] = best[np.lexsort((best, scan[best]))]
            distance[i] = scan[row[i]]
        return distance, row


class CoarseToFine:
    """What :meth:`Index.query_encoded` does for ``coarse``."""

    def __init__(self, codes: np.ndarray, coarse: int, candidates: int):
        self.codes, self.coarse, self.candidates = codes, coarse, candidates
        self.narrow = nearest.Flat(codes).first_bits(coarse)

    def nearest(self, queries: np.ndarray, topk: int) -> tuple[np.ndarray, np.ndarray]:
        _, row = self.narrow.nearest(nearest.first_bits(queries, self.coarse), self.candidates)
        return nearest.refine(queries, self.codes, row, topk, 8 * self.codes.shape[1])


def speed(call: Callable[[int], object]) -> float:
    """Calls a second, after one to warm up."""
    call(0)
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SECONDS:
        call(calls)
        calls += 1
    return calls / seconds


def memory(reset: bool = False) -> int | None:
    """The most memory that this process has held in bytes, since the last reset; None where Linux doesn't tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


# --- the machine ----------------------------------------------------------------------------------


def limits(widths: list[int]) -> dict:
    """What a flat scan can't beat: bytes read from memory, and codes XORed and counted in the cache, a second.

    Reading is the sum over 1 GiB of integers by all threads; counting is the sum of the distances of 32 queries to
    codes that stay in the cache, by one thread, times the threads.
    """
    whole = torch.ones(READ_BYTES // 8, dtype=torch.int64)
    read = whole.nbytes * speed(lambda _: whole.sum())
    found = {"threads": torch.get_num_threads(), "read_bytes_per_second": read, "pairs_per_second": {}}
    for width in widths:
        codes = np.random.default_rng(0).integers(0, 256, (2048, width), dtype=np.uint8)
        (item, words), (query, _) = nearest.as_words(codes), nearest.as_words(codes[:32])
        pairs = 32 * 2048 * speed(lambda _: total_distance(query, item, (0,) * words))
        found["pairs_per_second"][str(8 * width)] = pairs * found["threads"]
    return found


@compiled
def total_distance(query, item, words):
    """The sum of all distances, the least that a scan has to compute; arguments as of hamming_loops.find_nearest."""
    width, total = len(words), np.uint64(0)
    for i in range(len(query) // width):
        code = query[i * width:(i + 1) * width]
        for j in range(len(item) // width):
            total += distance_to(item, j, code, words)
    return total


def encoding_speed(path: Path, dataset: str, data_dir: str, folder: Path) -> float:
    """Items a second, from image features to an index on the disk."""
    image = load_dataset(dataset, data_dir).retrieval.image.numpy()
    image = np.resize(image, (ENCODED, image.shape[1]))
    started = time.perf_counter()
    Index.build(folder, path, image=image)
    return ENCODED / (time.perf_counter() - started)


def reranking(path: Path, dataset: str, data_dir: str, folder: Path) -> list[dict]:
    """How well and how fast a model's codes rank in both directions: alone, and with the best of them reranked or
    rescored. The bytes are those that a ranking reads of an item, codes and outputs.
    """
    data, rows = load_dataset(dataset, data_dir), []
    source = {"dataset": data.name, "path": str(data.path), "split": "retrieval", "fingerprint": data.fingerprint}
    for query, item in (("text", "image"), ("image", "text")):
        index = Index.build(folder / item, path, **{item: getattr(data.retrieval, item).numpy()},
                            ids=data.retrieval.items(item).index, source=source, rescore="int8")
        asked, options = index.encode(**{query: getattr(data.query, query).numpy()}), dict(
            quality.rankings(index, RERANKED, RERANKED))
        singles = [Encoded(*(side[i:i + 1] for side in asked)) for i in range(len(asked.x))]
        for found in quality.measure(index, data, query, RERANKED, rescore=RERANKED):
            row = {"query": query, "bits": index.bits, "ranking": found.ranking, "map@50": found.map_at_50,
                   "recall@10": found.recall_at_10, "tied@10": found.tied_at_10}
            if (how := options.get(found.ranking)) is not None:
                row["bytes_per_item"] = index.codes.shape[1] + ("rescore" in how) * index.outputs.shape[1]
                row["queries_per_second"] = speed(
                    lambda i: index.query_encoded(singles[i % len(singles)], TOPK, **how))
            rows.append(row)
            if found.recall_at_10 is not None:
                print(f"{index.bits} bits, {query} queries, {found.ranking}: recall@10 {found.recall_at_10:.3f}, 10 "
                      f"tied {found.tied_at_10:.1%}, {row['queries_per_second']:,.0f} queries/s one at a time", flush=True)
    return rows


# --- the report -----------------------------------------------------------------------------------


def report(result: dict) -> list[str]:
    """The figures as Markdown."""
    machine = result["limits"]
    lines = [f"{machine['threads']} threads, {result['cpu']}, load {result['load']} at the start; faiss "
             f"{faiss.__version__}. Limits: reading {machine['read_bytes_per_second'] / 1e9:.1f} GB/s; "
             + "; ".join(f"{bits} bits: {pairs / 1e9:.1f} billion pairs/s"
                         for bits, pairs in machine["pairs_per_second"].items())
             + ". Encoding from image features: "
             + ", ".join(f"{bits} bits {rate:,.0f} items/s" for bits, rate in result["encoded_per_second"].items())
             + f". Codes: {result['dataset']}'s with {result['noise']:.0%} of the bits flipped.", ""]
    rows = []
    for row in result["figures"]:
        per_second = row["queries_per_second"]
        chosen = ", ".join(f"{name} {value}" for name, value in row["parameters"].items())
        above, megabytes = row["memory_above_codes"], row["codes"] * row["bits"] / 8e6
        build = "" if row["index"] in ("numpy", "flat") else f"{row['build_seconds']:.1f}"
        share = [f"{part:.0%}" for part in row["of_limit"].values() if part is not None]
        rows.append([f"{row['index']}{f' ({chosen})' if chosen else ''}", f"{row['bits']}", f"{row['codes']:,}", build,
                     f"{row['bytes_on_disk'] / 1e6:,.1f}",
                     "" if above is None else f"{above * megabytes:,.1f} MB ({above:.0%})",
                     *(rounded(per_second[batch]) for batch in ("1", str(BATCH))), " / ".join(share),
                     f"{row['recall@10']:.3f}", f"{row['recall@100']:.3f}"])
    header = ["index", "bits", "codes", "build, s", "on disk, MB", "memory above the codes", "queries/s, batch 1",
              f"queries/s, batch {BATCH:,}", "of the limit", "recall@10", "recall@100"]
    return [*lines, *table(header, rows), "",
            "Of the limit: of a flat scan at batch 1, of what reading the codes once a query allows; at batch "
            f"{BATCH:,}, of counting pairs in the cache."]


def rounded(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="benchmark.py search", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N")
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 128], metavar="N",
                        help="code lengths of the model (default: 64 128)")
    parser.add_argument("--indexes", nargs="+", choices=INDEXES, default=list(INDEXES))
    parser.add_argument("--dataset", default="openmoji", help="whose codes the noise is added to (default: openmoji)")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--checkpoint_dir", default="checkpoints", help="of hash/<dataset>_hash.pth")
    parser.add_argument("--noise", type=float, default=0.1, help="chance of a bit to be flipped (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmark_search.json"),
                        help="figures; the table goes beside it as .md (default: results/benchmark_search.json)")
    parser.add_argument("--record", action="store_true", help="also write the figures to records_dir/search.json")
    parser.add_argument("--records_dir", default=records.RESULTS, help=f"default: {records.RESULTS}")
    options = parser.parse_args(argv)
    if min(options.sizes) < BATCH:
        raise InputError(f"--sizes {min(options.sizes)}: expected {BATCH:,} or more")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected 0 or more")
    if options.out.is_dir() or options.out.suffix != ".json":
        raise InputError(f"--out {options.out}: expected the name of a .json file; the table goes beside it, as .md")
    if not 0 <= options.noise <= 0.5:
        raise InputError(f"--noise {options.noise}: expected 0 to 0.5")
    return options


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    options = parse(argv)
    name = load_dataset(options.dataset, options.data_dir).name
    path = Path(options.checkpoint_dir) / "hash" / f"{name}_hash.pth"
    model, about = load_model(path)
    for bits in options.bits:
        if bits not in model.hash_lens:
            raise InputError(f"--bits {bits}: expected one of {', '.join(map(str, model.hash_lens))}, the code lengths "
                             f"of {path}")
    if options.indexes == ["coarse"] and max(options.bits) == min(model.hash_lens):
        raise InputError(f"--indexes coarse: {path} has no code length below {max(options.bits)}; give other --bits")
    origin = records.measurement_origin("benchmarks.search_speed") if options.record else {}
    check_writable(options.out.parent, "out")
    result = {"dataset": name, "noise": options.noise, "seed": options.seed, "topk": TOPK,
              "cpu": processor(), "load": round(os.getloadavg()[0], 1), "platform": platform.platform(),
              "faiss": faiss.__version__, "numpy": np.__version__,
              "limits": limits([-(-bits // 8) for bits in options.bits]), "encoded_per_second": {}, "rerank": [],
              "figures": []}
    for bits in options.bits:
        shorter = [length for length in model.hash_lens if length < bits]
        with tempfile.TemporaryDirectory() as scratch:
            path = checkpoint.save_model(Path(scratch, "model.pth"), model.only([*shorter, bits]), **about)
            base, asked = real_codes(path, options.dataset, options.data_dir)
            result["encoded_per_second"][str(bits)] = encoding_speed(path, options.dataset, options.data_dir,
                                                                     Path(scratch))
            result["rerank"] += reranking(path, options.dataset, options.data_dir, Path(scratch, str(bits)))
        coarse = shorter[:2] if bits == max(options.bits) else []
        for size in options.sizes:
            result["figures"] += measure_all(options, bits, coarse, size, base, asked, result["limits"])
    write_atomically(options.out, lambda file: json.dump(result, file, indent=1), "w")
    lines = report(result)
    write_atomically(options.out.with_suffix(".md"), lambda file: file.write("\n".join(lines) + "\n"), "w")
    print("\n".join(lines))
    if options.record:
        print(records.write_measurement(Path(options.records_dir) / "search.json", origin, result))
    print(options.out)
    return result


def measure_all(options: argparse.Namespace, bits: int, coarse: list[int], size: int, base: np.ndarray,
                asked: np.ndarray, machine: dict) -> list[dict]:
    """The figures of every index over ``size`` codes of ``bits`` bits, and of ``coarse`` with these shorter lengths."""
    rows, searches = [], [(kind,) for kind in options.indexes if kind != "coarse"]
    if "coarse" in options.indexes:
        searches += [("coarse", length, number) for length in coarse for number in CANDIDATES if number < size]
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:  # /tmp may be memory
        random = np.random.default_rng([options.seed, bits, size])
        codes = np.lib.format.open_memmap(Path(folder, "codes.npy"), "w+", np.uint8, (size, base.shape[1]))
        noisy(base, size, options.noise, random, codes).flush()
        queries = noisy(asked, BATCH, options.noise, random, np.empty((BATCH, base.shape[1]), np.uint8))
        truth, _ = nearest.Flat(codes).nearest(queries[:RECALL_QUERIES], 100)
        np.save(Path(folder, "queries.npy"), queries)
        np.save(Path(folder, "truth.npy"), truth)
        del codes
        for kind, *chosen in searches:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                row = {"bits": bits, "codes": size, **process.submit(measure, kind, folder, *chosen).result()}
            per_second = row["queries_per_second"]
            exact = kind in ("numpy", "flat")
            row["of_limit"] = {} if not exact else {
                "1": per_second["1"] * size * base.shape[1] / machine["read_bytes_per_second"],
                str(BATCH): None if per_second[str(BATCH)] is None else
                per_second[str(BATCH)] * size / machine["pairs_per_second"][str(8 * base.shape[1])]}
            rows.append(row)
            print(f"{bits} bits, {size:,} codes, {' '.join(map(str, (kind, *chosen)))}: {per_second['1']:,.1f} "
                  f"queries/s one at a time, recall@10 {row['recall@10']:.3f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
