"""Every figure that the README and the documentation claim: ours against other methods, ablations, speed, and search.

    python benchmark.py --datasets openmoji --seeds 5    # other methods, ours, and ours with progressive hashing off
    python benchmark.py ablation                         # from UCMFH's heads to the default, and what did not help
    python benchmark.py scale                            # scale_min, scale_max and the schedules
    python benchmark.py epochs                           # trainings of 30 to 200 epochs
    python benchmark.py speed | search                   # see  python benchmark.py speed --help

Finished trainings are kept in <results_dir>/<dataset>/benchmark/ and used again, so a benchmark can be stopped and
resumed; a warning counts those of other code. Beside them it writes <study>.md, <study>.json and the figures. Reported
is the last epoch, tie-aware, over all queries and all items. On a CPU each training runs in a process with one thread,
which makes its figures repeatable.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import baselines
import metric
from reporting import plots
from benchmarks.tables import markdown
from reporting.curves import curves_of
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import check_writable, write_atomically
from load_data import Dataset, load_dataset

DEFAULT, OFF = "ours", "ours, progressive off"
PARTNERS = dict(structure_start=0.0, structure_end=0.0)  # targets that are partners only
STEADY = dict(structure_start=0.5, structure_end=0.5)  # half of each target to pairs that are alike, throughout
HEADS = dict(hidden=4096, batch_norm=False, centre=False, noise=0.0, temperature=0.5, **PARTNERS,
             use_progressive_hash=False)  # UCMFH's heads, loss and settings, on the features alone
STUDIES: dict[str, dict[str, dict]] = {  # study: {label: settings that differ from the default}
    "methods": {OFF: {"use_progressive_hash": False}, DEFAULT: {}},
    "ablation": {
        "UCMFH's heads on the features": HEADS,
        "+ centred features": {**HEADS, "centre": True},
        "+ batch norm before the tanh": {**HEADS, "centre": True, "batch_norm": True},
        "+ hidden layer of 1024": {**HEADS, "centre": True, "batch_norm": True, "hidden": 1024},
        "+ progressive scale": {"temperature": 0.5, "noise": 0.0, **PARTNERS},
        "+ structure targets from the features": {"temperature": 0.5, "noise": 0.0, "code_weight": 0.0, **STEADY},
        "+ half of them from the codes": {"temperature": 0.5, "noise": 0.0, **STEADY},
        "+ feature noise": {"temperature": 0.5, **STEADY},
        "+ temperatures from the pairs": STEADY,
        "+ their share falls from 0.8 to 0.2: ours": {},
        "ours, progressive off": {"use_progressive_hash": False},
        "ours, no batch norm": {"batch_norm": False},
        "ours, no batch norm, progressive off": {"batch_norm": False, "use_progressive_hash": False},
        "ours, not centred": {"centre": False},
        "ours, no structure targets": PARTNERS,
        "ours, structure's share 0.5, progressive off": {**STEADY, "use_progressive_hash": False},
        "ours, structure's share from 0.9 to 0.1": {"structure_start": 0.9, "structure_end": 0.1},
        "ours, structure's share from 0.2 to 0.8": {"structure_start": 0.2, "structure_end": 0.8},
        "ours, structure from the features": {"code_weight": 0.0},
        "ours, structure from the features, progressive off": {"code_weight": 0.0, "use_progressive_hash": False},
        "ours, structure from the codes": {"code_weight": 1.0},
        "ours, no noise": {"noise": 0.0},
        "ours, half the noise": {"noise": 0.5},
        "ours, temperature 0.3": {"temperature": 0.3},
        "ours, alike 0.1": {"alike": 0.1},
        "ours, alike 0.2": {"alike": 0.2},
        "ours, hidden layer of 4096": {"hidden": 4096},
        "ours, batch of 256": {"batch_size": 256},
        "ours, balanced loss 0.4": {"loss": "balanced", "positive_weight": 0.4},
        "ours, balanced loss 0.6": {"loss": "balanced", "positive_weight": 0.6},
        "ours, UCMFH's fusion": {"fusion": "transformer"},
    },
    "scale": {
        "off": {"use_progressive_hash": False},
        "1 to 8 (conservative)": {"scale_max": 8.0},
        "1 to 10 (default)": {},
        "2 to 12 (aggressive)": {"scale_min": 2.0, "scale_max": 12.0},
        "1 to 12": {"scale_max": 12.0},
        "1 to 15": {"scale_max": 15.0},
        "1 to 10, exponential": {"scale_schedule": "exponential"},
        "1 to 10, step": {"scale_schedule": "step"},
        "1 to 10, hashnet": {"scale_schedule": "hashnet"},
    },
    "epochs": {f"{epochs} epochs{name}": {"epoch": epochs, **settings} for epochs in (30, 60, 100, 200)
               for name, settings in (("", {}), (", progressive off", {"use_progressive_hash": False}))},
}
CODE = ("ICMR", "model", "loss", "training/targets", "training/cca", "training/precision", "benchmarks/baselines",
        "evaluation", "metric", "reporting/curves", "common/hamming_loops",
        "training/cuda_graph")  # files that say what a training gives
PATHS = ("data_dir", "results_dir", "checkpoint_dir", "run_name")  # settings that don't change a result


@dataclass(frozen=True)
class Job:
    """One training: a method on a data set with a seed; ours for all code lengths at once, others for one."""

    dataset: str
    label: str
    seed: int
    bits: int | None  # None for ours
    config: dict  # of ICMR, with this job's settings
    folder: str  # of its results


# --- the trainings ------------------------------------------------------------------------------------------------


def jobs_of(study: str, dataset: Dataset, options: argparse.Namespace, settings: dict) -> list[Job]:
    """The trainings of a study on a data set, those whose settings are the same in two studies only once."""
    folder = Path(options.results_dir) / dataset.name / "benchmark"
    jobs = []
    for seed in range(options.seeds):
        chosen = dict(settings, seed=seed, hash_lens=options.hash_lens)
        if study == "methods":
            jobs += [Job(options.path, name, seed, bits, chosen, str(folder / f"{name}-{bits}-seed{seed}"))
                     for name in baselines.METHODS for bits in options.hash_lens]
        for label, changes in STUDIES[study].items():
            named = {key: (chosen | changes)[key] for key in {"epoch", "eval_every", *changes}}
            slug = "-".join(f"{key}={value}" for key, value in sorted(named.items())
                            if value != getattr(ICMR.Config(), key)) or "default"
            jobs.append(Job(options.path, label, seed, None, chosen | changes, str(folder / f"{slug}-seed{seed}")))
    wanted = options.methods or [job.label for job in jobs]
    if unknown := set(wanted) - {job.label for job in jobs}:
        raise InputError(f"--methods {', '.join(sorted(unknown))}: expected some of "
                         f"{', '.join(dict.fromkeys(job.label for job in jobs))}")
    return [job for job in jobs if job.label in wanted]


def finished(job: Job, fingerprint: str) -> dict | None:
    """The result of a job, if it is there and of these settings and data."""
    try:
        found = json.loads((Path(job.folder) / "result.json").read_text(encoding="utf-8"))
        return found if found["settings"] == settings_of(job) and found["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settings_of(job: Job) -> dict:
    if job.bits is not None:
        return {"method": job.label, "bits": job.bits, "seed": job.seed}
    config = vars(ICMR.Config(**job.config))
    return {name: value for name, value in config.items() if name not in PATHS}


@functools.cache
def code_digest() -> str:
    """Changes with the code that trains."""
    files = ((Path(__file__).parent / f"{name}.py").read_bytes() for name in CODE)
    return hashlib.sha256(b"".join(files)).hexdigest()


def run(job: Job) -> dict:
    """Train, test, and keep the result."""
    config, code = ICMR.Config(**job.config), code_digest()  # now: the files may be edited before it ends
    if ICMR.choose_device(config.device).type == "cpu":
        torch.set_num_threads(1)
    folder = check_writable(job.folder, "results_dir")
    with open(folder / "training.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        try:
            result = train_ours(job) if job.bits is None else train_baseline(job)
        except InputError as error:  # such as more bits than a method has on these data
            result = {"skipped": str(error), "fingerprint": data(job).fingerprint}
    result |= {"settings": settings_of(job), "code": code}
    write_atomically(folder / "result.json", lambda file: json.dump(result, file), "w")
    return result


@functools.lru_cache(maxsize=1)
def loaded(path: str, data_dir: str) -> Dataset:
    return load_dataset(path, data_dir)


def data(job: Job) -> Dataset:
    return loaded(job.dataset, job.config["data_dir"])


def train_ours(job: Job) -> dict:
    with tempfile.TemporaryDirectory() as checkpoints:
        solver = ICMR.Solver(ICMR.Config(**{**job.config, "dataset": job.dataset, "results_dir": job.folder,
                                            "checkpoint_dir": checkpoints, "run_name": "run"}))
        solver.fit()
        found = solver.results()
    return {key: found[key] for key in ("final", "history", "epochs", "curves", "chosen", "seconds", "fingerprint",
                                        "environment", "sizes")}


def train_baseline(job: Job) -> dict:
    split, device = data(job), ICMR.choose_device(job.config["device"])
    method = baselines.METHODS[job.label](job.bits, job.seed, device)
    history, tested = [], 0.0

    def test(epoch: int) -> None:
        nonlocal tested
        started = time.perf_counter()
        if epoch % 10 == 0 and epoch != method.epochs:
            history.append({"epoch": epoch, str(job.bits): figures(method, split)[0]})
        tested += time.perf_counter() - started

    started = time.perf_counter()
    method.fit(split.train.image, split.train.text, test)
    seconds = time.perf_counter() - started - tested
    final, curves = figures(method, split)
    history.append({"epoch": method.epochs or 1, str(job.bits): final})
    return {"final": {str(job.bits): final}, "curves": {str(job.bits): curves}, "history": history,
            "seconds": {"training": seconds}, "fingerprint": split.fingerprint,
            "environment": ICMR.environment(device), "reference": method.reference,
            "sizes": {name: len(getattr(split, name)) for name in ("train", "query", "retrieval")}}


def figures(method: baselines.Baseline, split: Dataset) -> tuple[dict, dict]:
    """What a method reaches, in the form of ICMR's metrics, and its curves."""
    found, curves = {}, {}
    for protocol in ("paired", "unpaired") if method.paired else ("unpaired",):
        both = protocol == "paired"
        query, retrieval = ([method.encode_image(side.image, side.text if both else None).numpy(),
                             method.encode_text(side.text, side.image if both else None).numpy()]
                            for side in (split.query, split.retrieval))
        found[protocol], curves[protocol] = {}, {}
        if not both:
            found["partners"] = metric.partner_recall(*map(metric.sign_codes, query))
        for way, (asked, stored) in {"i2t": (0, 1), "t2i": (1, 0)}.items():
            histogram = metric.hamming_histogram(metric.sign_codes(query[asked]), metric.sign_codes(retrieval[stored]),
                                                 split.query.label.numpy(), split.retrieval.label.numpy())
            found[protocol][way] = metric.maps_from_histogram(histogram)
            curves[protocol][way] = curves_of(histogram)
    if method.bounded:
        found["quantization_error"] = metric.quantization_error(np.concatenate(retrieval))  # the unpaired, done last
    return found, curves


def run_all(jobs: list[Job], fingerprints: dict[str, str], processes: int) -> list[dict]:
    """The results of all jobs in their order, those that are there already read, the others trained."""
    results = [finished(job, fingerprints[job.dataset]) for job in jobs]
    missing = [number for number, result in enumerate(results) if result is None]
    print(f"{len(jobs)} trainings, {len(jobs) - len(missing)} of them found finished", flush=True)
    others = [job.folder for job, result in zip(jobs, results) if result and result.get("code") != code_digest()]
    if others:
        print(f"warning: {len(others)} of them were trained by other code than this; remove their folders, such as "
              f"{others[0]}, to train them again", file=sys.stderr)
    if not missing:
        return results
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        places = {executor.submit(run, jobs[number]): number for number in missing}
        for place in (bar := tqdm(as_completed(places), total=len(places), unit="training", dynamic_ncols=True)):
            job = jobs[places[place]]
            results[places[place]] = place.result()
            bar.set_postfix_str(f"{Path(job.dataset).stem}: {job.label}, seed {job.seed}")
    except BaseException:  # Ctrl-C, or a training that failed: the others would go on for minutes
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    executor.shutdown()
    return results


# --- the results --------------------------------------------------------------------------------------------------


def gather(jobs: list[Job], results: list[dict]) -> dict[str, dict[str, list[dict]]]:
    """Results by method and code length, one entry a seed: ``found["UCCH"]["16"][seed]``."""
    found: dict[str, dict[str, list[dict]]] = {}
    for job, result in zip(jobs, results):
        for bits, final in result.get("final", {}).items():
            entry = {**final, "seed": job.seed, "seconds": result["seconds"]["training"],
                     "curves": result["curves"][bits], "epochs": result.get("epochs"),
                     "history": [{"epoch": each["epoch"], **each[bits]} for each in result["history"]]}
            found.setdefault(job.label, {}).setdefault(bits, []).append(entry)
    return found


def draw(found: dict[str, dict[str, list[dict]]], folder: Path, study: str) -> list[Path]:
    """The figures of a study: mAP against bits and epochs, precision-recall and precision@N, unpaired; ours in the
    same colours whatever is beside them.
    """
    found = {label: found[label] for label in sorted(found, key=lambda label: (label != DEFAULT, label != OFF))}
    trained = {int(bits) for lengths in found.values() for bits in lengths}
    shown = max((bits for bits in trained if bits <= 64), default=min(trained))
    at = {label: lengths.get(str(shown), []) for label, lengths in found.items()}
    at = {label: entries for label, entries in at.items() if entries}

    def panels(x, y, entries=at) -> dict:
        return {plots.DIRECTIONS[way]: {label: {"x": x(runs[0], way), "y": [y(entry, way) for entry in runs]}
                                        for label, runs in entries.items()} for way in plots.DIRECTIONS}

    written = []
    for cut in ("map", "map@50"):
        series = {plots.DIRECTIONS[way]: {label: {
            "x": [int(bits) for bits in lengths],
            "y": [[runs[seed]["unpaired"][way][cut] for runs in lengths.values()]
                  for seed in range(min(map(len, lengths.values())))]}
            for label, lengths in found.items()} for way in plots.DIRECTIONS}
        written += plots.save(plots.map_against_bits(series, "mAP@all" if cut == "map" else "mAP@50"),
                              folder / f"{study}_{cut.replace('@', '')}_bits")
    if at:
        curve = lambda name: lambda entry, way: entry["curves"]["unpaired"][way][name]
        written += plots.save(plots.precision_recall(panels(curve("recall"), curve("precision"))),
                              folder / f"{study}_precision_recall")
        written += plots.save(plots.precision_at_n(panels(curve("n"), curve("precision_at_n"))),
                              folder / f"{study}_precision_at_n")
        written += plots.save(plots.map_against_epoch(panels(
            lambda entry, way: [each["epoch"] for each in entry["history"]],
            lambda entry, way: [each["unpaired"][way]["map"] for each in entry["history"]],
            {label: runs for label, runs in at.items() if len(runs[0]["history"]) > 1} or at)),
            folder / f"{study}_map_epoch")
    return written


def compact(found: dict[str, dict[str, list[dict]]]) -> dict:
    """What the JSON of a study holds: all but the curves and the epochs, which are in the files of the trainings."""
    def short(entry: dict) -> dict:
        return {key: value for key, value in entry.items() if key not in ("curves", "epochs", "history")}

    return {label: {bits: [short(entry) for entry in entries] for bits, entries in lengths.items()}
            for label, lengths in found.items()}


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["speed"], ["search"]):
        import importlib  # only what is asked for

        module = {"speed": "benchmarks.speed", "search": "benchmarks.search_speed"}[argv[0]]
        return importlib.import_module(module).main(argv[1:])
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", choices=(*STUDIES, "speed", "search"), default="methods",
                        help="default: methods")
    parser.add_argument("--datasets", nargs="+", default=["openmoji"], help="names or paths, as ICMR.py takes them")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds: 0, 1, ... (default: 5)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these rows of the study")
    parser.add_argument("--hash_lens", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--epoch", type=int, default=100, help="training epochs of ours (default: 100)")
    parser.add_argument("--eval_every", type=int, default=10, help="epochs between tests of ours (default: 10)")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", help="of our trainings (default: float32, as on any machine)")
    parser.add_argument("--jobs", type=int, help="trainings at a time (default: the number of cores; one on a GPU)")
    options = parser.parse_args(argv)
    if options.study not in STUDIES:
        raise InputError(f"{options.study}: has options of its own; give it first: benchmark.py {options.study} ...")
    for name in ("seeds", "jobs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: expected 1 or more")
    settings = {name: getattr(options, name) for name in ("epoch", "eval_every", "data_dir", "device", "precision")}
    ICMR.Config(**settings, hash_lens=options.hash_lens).check()
    cpu = ICMR.choose_device(options.device).type == "cpu"
    processes = options.jobs or (os.cpu_count() if cpu else 1)
    studies, fingerprints = [], {}
    datasets = {path: load_dataset(path, options.data_dir) for path in options.datasets}
    for dataset in datasets.values():  # all, before the first folder is made
        dataset.require_labels("the benchmark measures mAP")
    for path, dataset in datasets.items():
        options.path, fingerprints[path] = path, dataset.fingerprint
        folder = check_writable(Path(options.results_dir) / dataset.name / "benchmark", "results_dir")
        studies.append((dataset.name, folder, jobs_of(options.study, dataset, options, settings)))
    results = iter(run_all([job for *_, jobs in studies for job in jobs], fingerprints, processes))
    output = {}
    for name, folder, jobs in studies:
        own = [next(results) for _ in jobs]
        found = gather(jobs, own)
        if not found:
            raise InputError(f"{name}: no method could be trained: {own[0]['skipped']}")
        sizes = next(result["sizes"] for result in own if "sizes" in result)
        skipped = {job.label + (f", {job.bits} bits" if job.bits else ""): result["skipped"]
                   for job, result in zip(jobs, own) if "skipped" in result}
        command = shlex.join(["python", "benchmark.py", *argv])
        text = markdown(options.study, name, command, sizes, found, skipped, DEFAULT, OFF)
        output[name] = {"command": command, "methods": compact(found), "skipped": skipped}
        written = [write_atomically(folder / f"{options.study}.md", lambda file: file.write(text), "w"),
                   write_atomically(folder / f"{options.study}.json", lambda file: json.dump(output[name], file), "w"),
                   *draw(found, folder, options.study)]
        print(text, *map(str, written), sep="\n", flush=True)
    return output


if __name__ == "__main__":
    main()
