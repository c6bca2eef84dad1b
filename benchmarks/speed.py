"""How fast training and evaluation are, beside a plain reference written from UCMFH's equations.

    python benchmark.py speed                # everything: about five minutes on two cores
    python benchmark.py speed --quick        # a small version of each measurement
    python benchmark.py speed --accuracy 5   # also the mAP of the fast path against separate float32 runs, 5 seeds
    python benchmark.py speed --record       # also write docs/results/speed.json, for the documents

Reference and ours are measured in turns on the same arrays, and each figure is the median over the turns. The
reference is timed on some steps of an epoch and some queries of an evaluation, and scaled to the whole: both are loops
of equal parts.
"""

from __future__ import annotations

import common.threads  # first: it sets how threads wait, before PyTorch loads

import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import ICMR
import metric
from benchmarks import records
from benchmarks.baselines import ucmfh
from benchmarks.promises import added_percent
from benchmarks.reference import ReferenceTraining, reference_map
from benchmarks.tables import gain
from common.atomic_files import check_writable, write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from evaluation import DIRECTIONS, counting_device, encode, histograms_of, rankings
from load_data import Dataset, Split, dataset_from_arrays, save_hdf5
from training.device import environment, now

LENGTHS = (16, 32, 64, 128)
SCALE_TURNS = 40  # epochs with the scale and as many without: a difference of one percent has to be seen


# --- data -------------------------------------------------------------------------------------------------------------


def arrays(train: int, query: int, retrieval: int, width: int, classes: int) -> Dataset:
    """Features around class centres: only the sizes matter here. Train is the beginning of retrieval."""
    random = torch.Generator().manual_seed(0)
    centres = [torch.randn(classes, width, generator=random) for _ in ("image", "text")]

    def split(rows: int) -> dict[str, np.ndarray]:
        label = torch.empty(rows, classes, dtype=torch.uint8)
        label.bernoulli_(2 / classes, generator=random)
        label[torch.arange(rows), torch.randint(classes, (rows,), generator=random)] = 1
        table = {"label": label.numpy()}
        for side, centre in zip(("image", "text"), centres):
            features = torch.empty(rows, width).normal_(generator=random)
            for start in range(0, rows, 8192):
                features[start:start + 8192] += label[start:start + 8192].float() @ centre
            table[side] = features.numpy()
        return table

    database = split(retrieval)
    beginning = {key: value[:train] for key, value in database.items()}
    return dataset_from_arrays(beginning, split(query), database)


def solver(dataset: str, folder: str, **settings) -> ICMR.Solver:
    """A solver before its first epoch, writing into ``folder``."""
    settings = dict(dataset=dataset, results_dir=folder, checkpoint_dir=folder) | settings
    return ICMR.Solver(ICMR.Config(**settings))


# --- measuring --------------------------------------------------------------------------------------------------------


def in_turns(turns: int, **measurements: Callable[[], float]) -> dict[str, float]:
    """The median seconds that each measurement returns, taken in turns; of several turns the first doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(turns):
        for name, measure in measurements.items():
            seconds[name].append(measure())
    return {name: statistics.median(values[1:] or values) for name, values in seconds.items()}


def timed(device: torch.device, call: Callable[[], object]) -> float:
    started = now(device)
    call()
    return now(device) - started


def epoch(made: ICMR.Solver) -> Callable[[], float]:
    return lambda: timed(made.device, lambda: made.trainhash(2.0))


def training(dataset: str, folder: str, turns: int, steps: int, workers: int, common: dict) -> dict:
    """Seconds an epoch: the reference at each length; ours with UCMFH's networks and with the default ones."""
    four = solver(dataset, folder, **common)
    ours = {f"ours, UCMFH's networks, {bits} bits": solver(dataset, folder, hash_lens=bits, **ucmfh.WHOLE, **common)
            for bits in ([128], [16, 32, 64, 128])}
    ours |= {"ours, 128 bits": solver(dataset, folder, hash_lens=[128], **common), "ours, four lengths": four,
             "ours, four lengths, bfloat16": solver(dataset, folder, **common | {"precision": "bfloat16"})}
    split = four.data.train
    if split.image.shape[1] != split.text.shape[1]:  # UCMFH takes no such features: as many of CLIP's size instead
        sides = (functional.normalize(torch.randn(len(split), 512)) for _ in ("image", "text"))
        split = Split(*sides, split.label, split.index, {})
    batch = four.config.batch_size
    references = {f"reference, {bits} bits": ReferenceTraining(split, bits, batch, four.device, workers)
                  for bits in LENGTHS}
    return in_turns(turns, **{name: epoch(made) for name, made in ours.items()},
                    **{name: lambda each=each: each.seconds(steps) for name, each in references.items()})


def scale_time(dataset: str, folder: str, turns: int, common: dict) -> dict[str, list[float]]:
    """Seconds of epochs with the scale and of epochs without it, taken in turns; the first turn is left out. On a CPU it
    is the processor's time, which other programs disturb less.
    """
    both = {name: solver(dataset, folder, use_progressive_hash=name == "on", **common) for name in ("on", "off")}
    device = both["on"].device
    clock = time.process_time if device.type == "cpu" else lambda: now(device)
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(turns + 1):
        for name in ("on", "off") if turn % 2 else ("off", "on"):
            started = clock()
            both[name].trainhash(2.0)
            seconds[name].append(clock() - started)
    return {name: values[1:] for name, values in seconds.items()}


def evaluation(dataset: str, folder: str, turns: int, queries: int, common: dict) -> dict:
    """Seconds to evaluate four lengths: the reference's mAP@all in two directions, from the codes; ours with all
    that it reports, from the features, and from the codes.
    """
    made = solver(dataset, folder, **common)
    data = made.data
    labels = [split.label.numpy().astype(np.float32) for split in (data.query, data.retrieval)]
    query, retrieval = (encode(made.model, split, device=counting_device(made.model))
                        for split in (data.query, data.retrieval))
    pairs = [sides for (bits, protocol, direction), sides in rankings(made.model, query, retrieval).items()
             if protocol == "unpaired" and direction == "i2t"]
    codes = [[side.numpy(force=True).astype(np.float32) for side in sides] for sides in pairs]

    def reference() -> float:
        started = time.perf_counter()
        for query_codes, retrieval_codes in codes:
            reference_map(query_codes[:queries], retrieval_codes, labels[0][:queries], labels[1])
        return 2 * (time.perf_counter() - started) * len(data.query) / min(queries, len(data.query))

    def both_directions() -> None:
        # The other direction takes as long: it is not another code.
        for histogram in histograms_of(pairs * 2, data.query.label, data.retrieval.label):
            for topk in (None, 50):
                metric.map_from_histogram(histogram, topk)

    return in_turns(turns, **{
        "ours, from the features, both protocols": lambda: timed(made.device, made.evaluate),
        "ours, from the codes, two directions": lambda: timed(made.device, both_directions),
        "reference, from the codes, two directions": reference})


def growth(folder: str, turns: int, quick: bool, common: dict) -> dict:
    """Our seconds as one size grows: training pairs and batch (an epoch of four lengths), database and bits (mAP)."""
    unit = 50 if quick else 1
    result: dict[str, dict[str, float]] = {"training pairs": {}, "batch size": {}, "database": {}, "bits": {}}
    base = Path(folder) / "growth.h5"
    for pairs in (5_000 // unit, 10_000 // unit, 20_000 // unit):
        save_hdf5(arrays(pairs, 100, pairs, 512, 24), base)
        made = solver(str(base), folder, **common)
        result["training pairs"] |= in_turns(turns, **{f"{pairs:,}": epoch(made)})
    for batch in (32, 64) if quick else (64, 128, 256, 512, 1024):
        made = solver(str(base), folder, **common | {"batch_size": batch})
        result["batch size"] |= in_turns(turns, **{f"{batch:,}": epoch(made)})
    for items in (18_015 // unit, 60_000 // unit, 186_577 // unit):
        result["database"][f"{items:,}"] = counting(items, 2_000 // unit, 128, turns)
    for bits in (16, 32, 64, 128, 256):
        result["bits"][f"{bits}"] = counting(18_015 // unit, 2_000 // unit, bits, turns)
    return result


def counting(items: int, queries: int, bits: int, turns: int) -> float:
    """Seconds of mAP@all and @50 of one direction at one length, from the codes."""
    random = np.random.default_rng(0)
    codes = [random.choice(np.array([-1, 1], np.int8), (rows, bits)) for rows in (queries, items)]
    labels = [(random.random((rows, 24)) < 0.1).astype(np.uint8) for rows in (queries, items)]
    cpu = torch.device("cpu")
    return in_turns(turns, seconds=lambda: timed(cpu, lambda: metric.evaluate(*codes, *labels)))["seconds"]


def memory(quick: bool, common: dict) -> dict[str, dict[str, float]]:
    """Peak megabytes of the CPU above the data and the models that they work on, each in a process of its own."""
    items, queries = (10_000, 100) if quick else (186_577, 2_000)
    found = {}
    for work in ("reference, training, 128 bits", "ours, training, UCMFH's networks, 128 bits",
                 f"ours, evaluation, {queries:,} x {items:,}, 128 bits"):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[work] = pool.submit(peak, work, items, queries, common).result()
    return found


def peak(work: str, items: int, queries: int, common: dict) -> dict[str, float]:
    def megabytes(key: str) -> float:  # VmRSS: what is held now; VmHWM: the most that was
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**10

    with tempfile.TemporaryDirectory() as folder:
        save_hdf5(arrays(256, 100, 500, 512, 10), Path(folder) / "small.h5")
        settings = ucmfh.WHOLE if "UCMFH" in work else {}
        made = solver(str(Path(folder) / "small.h5"), folder, hash_lens=[128], **settings, **common)
        if work.startswith("reference"):
            training = ReferenceTraining(made.data.train, 128, made.config.batch_size, made.device, workers=0)
            call = lambda: training.seconds(2)
        elif "training" in work:
            call = lambda: made.trainhash(2.0)
        else:
            made.evaluate()  # once before: machine code and libraries are no memory of an evaluation
            made.data = arrays(256, queries, items, 512, 10)
            call = made.evaluate
        Path("/proc/self/clear_refs").write_text("5")  # forget the most of the time before
        before = megabytes("VmRSS")
        call()
        return {"before": before, "above": megabytes("VmHWM") - before}


def utilisation(seconds: float, made: ICMR.Solver) -> dict[str, float]:
    """Floating-point operations a second of an epoch's matrix products, and what a large one reaches here."""
    batch = made.config.batch_size
    made.model.train()
    with FlopCounterMode(display=False) as counter:
        made.hash_step(torch.arange(batch, device=made.device), made.objective.weight(made.progress), 2.0)
    done = counter.get_total_flops() * (len(made.image) // batch) / seconds
    size = 8192 if made.device.type == "cuda" else 1024
    a = torch.randn(size, size, device=made.device).to(getattr(torch, made.config.precision))
    fastest = min(timed(made.device, lambda: a @ a) for _ in range(5))
    return {"GFLOP/s": done / 1e9, "peak GFLOP/s": 2 * size**3 / fastest / 1e9,
            "share of peak": done * fastest / (2 * size**3)}


def whole_run(dataset: str, folder: str, common: dict) -> dict[str, float]:
    """Seconds of a run of 100 epochs and four lengths with its ten evaluations, and of the training in it."""
    started = time.perf_counter()
    made = solver(dataset, folder, **common)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        made.fit()
    return {"whole": time.perf_counter() - started, "training": made.run.seconds}


def accuracy(seeds: int, folder: str, common: dict) -> dict:
    """Unpaired mAP on OpenMoji, mean of I2T and T2I, of one run of four lengths in bfloat16, of one in float32 and of
    one with twice the hidden layer, beside a run in float32 for each length: by cut, kind of run and length, one figure
    a seed.
    """
    together, full = [list(LENGTHS)], {"precision": "float32"}
    runs: dict[str, tuple[list, dict]] = {
        "one run, bfloat16": (together, {"precision": "bfloat16"}), "one run, float32": (together, full),
        "one run, float32, --hidden 2048": (together, full | {"hidden": 2048}),
        "separate, float32": ([[bits] for bits in LENGTHS], full)}
    found: dict[str, dict] = {cut: {name: {str(bits): [] for bits in LENGTHS} for name in runs}
                              for cut in ("map", "map@50")}
    for seed in range(seeds):
        for name, (trainings, settings) in runs.items():
            for lengths in trainings:
                made = solver("openmoji", folder, hash_lens=lengths, seed=seed, eval_every=10**6, **common | settings)
                for done in range(made.config.epoch):
                    made.trainhash(ICMR.scale_at(done / max(made.config.epoch - 1, 1), made.scale_min, made.scale_max))
                for bits, figures in made.evaluate().items():
                    for cut, part in found.items():
                        part[name][bits].append(statistics.mean(
                            figures["unpaired"][direction][cut] for direction in DIRECTIONS))
    return found


# --- the command ------------------------------------------------------------------------------------------------------


def ratios(results: dict) -> list[tuple[str, float]]:
    """How many times as fast ours is, most of them on MIRFlickr's sizes."""
    rows = []
    for name, part in results["training"].items():
        reference = {bits: part[f"reference, {bits} bits"] for bits in LENGTHS}
        every = sum(reference.values())
        rows += [(f"{name}: an epoch at 128 bits, UCMFH's networks in both",
                  reference[128] / part["ours, UCMFH's networks, [128] bits"]),
                 (f"{name}: an epoch at 128 bits, our default networks", reference[128] / part["ours, 128 bits"]),
                 (f"{name}: four lengths in one run, UCMFH's networks, to four reference runs",
                  every / part["ours, UCMFH's networks, [16, 32, 64, 128] bits"]),
                 (f"{name}: four lengths in one run, default networks, to four reference runs",
                  every / part["ours, four lengths"]),
                 (f"{name}: our 128 bits alone, to our four lengths in one run",
                  part["ours, 128 bits"] / part["ours, four lengths"]),
                 (f"{name}: four lengths in bfloat16, to float32",
                  part["ours, four lengths"] / part["ours, four lengths, bfloat16"])]
    for name, part in results["evaluation"].items():
        reference = part["reference, from the codes, two directions"]
        rows += [(f"{name}: evaluation from the codes, ours with ties and @50",
                  reference / part["ours, from the codes, two directions"]),
                 (f"{name}: evaluation, ours from the features in both protocols",
                  reference / part["ours, from the features, both protocols"])]
    reference, ours = (part["above"] for work, part in results["memory"].items() if "training" in work)
    return rows + [("peak memory of training, UCMFH's networks in both (times as little)", reference / max(ours, 1))]


def table(results: dict) -> list[str]:
    lines = ["", "seconds an epoch"]
    for name, part in results["training"].items():
        lines += [f"  {name}: {what:52} {seconds:10.3f}" for what, seconds in part.items()]
    lines += ["what the scale adds to an epoch of four lengths, percent, mean ± standard error"]
    lines += [f"  {name}: {gain(added_percent(part))}" for name, part in results["scale"].items()]
    lines += ["seconds an evaluation"]
    for name, part in results["evaluation"].items():
        lines += [f"  {name}: {what:52} {seconds:10.3f}" for what, seconds in part.items()]
    lines += [f"  {name}: a run of 100 epochs, four lengths: {found['whole']:.1f} seconds, of which training "
              f"{found['training']:.1f}" for name, found in results.get("whole run", {}).items()]
    lines += ["times as fast"] + [f"  {what:90} {ratio:8.2f}" for what, ratio in ratios(results)]
    lines += ["growth: seconds an epoch of four lengths, or of one direction's mAP at 128 bits"]
    for what, part in results["growth"].items():
        lines += [f"  {what:15} " + "   ".join(f"{size}: {seconds:.3f}" for size, seconds in part.items())]
    lines += ["peak memory, megabytes above data, model and libraries"]
    lines += [f"  {work:70} {part['above']:8.0f} above {part['before']:6.0f}"
              for work, part in results["memory"].items()]
    lines += ["use of the hardware by our epoch of four lengths"]
    lines += [f"  {name}: " + ", ".join(f"{what} {value:.3g}" for what, value in part.items())
              for name, part in results["utilisation"].items()]
    for cut, part in results.get("accuracy", {}).items():
        separate = part["separate, float32"]
        lines += [f"{cut} on OpenMoji, unpaired, mean of both directions, in points: mean (standard deviation) over "
                  f"seeds, and the difference from separate runs, +- standard error"]
        for name, found in part.items():
            cells = []
            for bits, values in found.items():
                values, more = 100 * np.array(values), 100 * (np.array(values) - separate[bits])
                spread = [x.std(ddof=1) if len(x) > 1 else 0.0 for x in (values, more)]
                cells.append(f"{bits}: {values.mean():.1f} ({spread[0]:.1f})" + (
                    f" {more.mean():+.2f} +- {spread[1] / len(more) ** 0.5:.2f}" if found is not separate else ""))
            lines += [f"  {name:33}" + "   ".join(cells)]
    return lines + [""]


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog="benchmark.py speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn: a look, not a measurement")
    parser.add_argument("--turns", type=int, default=4, metavar="N",
                        help="the median of all but the first is reported (default: 4)")
    parser.add_argument("--accuracy", type=int, default=0, metavar="SEEDS", help="also compare mAP over so many seeds")
    parser.add_argument("--epoch", type=int, default=100, metavar="N",
                        help="epochs of the accuracy runs (default: 100)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", help="of ours (default: float32)")
    parser.add_argument("--results_dir", default="results", help="where speed.json goes (default: results)")
    parser.add_argument("--record", action="store_true", help="also write the figures to records_dir/speed.json")
    parser.add_argument("--records_dir", default=records.RESULTS, help=f"default: {records.RESULTS}")
    options = parser.parse_args(argv)
    if options.turns < 1 or options.accuracy < 0 or options.epoch < 1:
        raise InputError("--turns and --epoch: expected 1 or more; --accuracy: 0 or more")
    if options.record and options.quick:
        raise InputError("--record: --quick is a look, not a measurement; leave one of them out")
    origin = records.measurement_origin("benchmarks.speed") if options.record else {}
    check_writable(options.results_dir, "results_dir")
    common: dict = dict(device=options.device, precision=options.precision)
    if options.quick:
        common["batch_size"] = 32
    quick, turns = options.quick, 1 if options.quick else options.turns
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        name = str(Path(folder) / "mirflickr-sized.h5")
        save_hdf5(arrays(128, 100, 1_000, 512, 24) if quick else arrays(5_000, 2_000, 18_015, 512, 24), name)
        datasets = {"MIRFlickr-sized": name} | ({} if quick else {"OpenMoji": "openmoji"})
        steps, queries, workers = (1, 10, 0) if quick else (2, 50, 2)
        results: dict = {"training": {}, "evaluation": {}, "utilisation": {}}
        for label, dataset in datasets.items():
            print(f"{label}: training", flush=True)
            results["training"][label] = training(dataset, folder, turns, steps, workers, common)
            results["utilisation"][label] = utilisation(results["training"][label]["ours, four lengths"],
                                                        made := solver(dataset, folder, **common))
            results.setdefault("scale", {})[label] = scale_time(dataset, folder, 1 if quick else SCALE_TURNS, common)
            if made.device.type == "cuda":  # on a CPU it follows from the seconds an epoch
                print(f"{label}: a whole run", flush=True)
                results.setdefault("whole run", {})[label] = whole_run(dataset, folder, common)
            print(f"{label}: evaluation", flush=True)
            results["evaluation"][label] = evaluation(dataset, folder, turns, queries, common)
        print("growth with the sizes", flush=True)
        results["growth"] = growth(folder, min(turns, 2), quick, common)
        print("memory", flush=True)
        results["memory"] = memory(quick, common | {"device": "cpu"})
        if options.accuracy:
            print("accuracy", flush=True)
            results["accuracy"] = accuracy(options.accuracy, folder, common | {"epoch": options.epoch})
        results["ratios"] = dict(ratios(results))
        results["environment"] = environment(made.device) | {
            "precision": made.config.precision, "cores": os.cpu_count(), "load_before": load_before,
            "load_after": os.getloadavg()[0]}
    for line in table(results):
        print(line)
    path = Path(options.results_dir) / "speed.json"
    write_atomically(path, lambda file: json.dump(results, file, indent=1), "w")
    if options.record:
        print(records.write_measurement(Path(options.records_dir) / "speed.json", origin, results))
    print(path)
    return results


if __name__ == "__main__":
    main()
