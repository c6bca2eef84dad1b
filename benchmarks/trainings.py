"""Trainings: run in processes, kept in their folders, and used again as long as nothing that decides them has changed.

A finished training lies in ``<its folder>/result.json`` with its settings, the fingerprint of its data, the digest of
its code and the commit of it. :func:`finished` is the one place that decides whether it can be used again.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import contextlib
import datetime
import functools
import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

import evaluation
from benchmarks import records
from benchmarks.baselines.base import Unsuited, evaluate, evaluate_last
from benchmarks.baselines.own import Own
from benchmarks.datasets import with_finer_labels
from benchmarks.methods import METHODS
from benchmarks.studies import Job
from common import json_text, own_code
from common.atomic_files import check_writable, write_atomically
from common.errors import InputError
from load_data import Dataset, load_dataset
from reporting import last_figures
from training.device import choose_device, environment

# Deciding settings that are not among those of a record: it has them elsewhere, or they decide no figure of its last
# epoch.
UNRECORDED = ("dataset", "hash_lens", "seed", "eval_every", "task")


def settings_of(job: Job) -> dict:
    """What has to be the same for a finished training to be used again."""
    if job.own:
        return {"method": job.label, "class": own_code.unpinned(job.own), "bits": job.bits, "seed": job.seed}
    if job.bits is not None:
        return {"method": job.label, "bits": job.bits, "seed": job.seed}
    return ICMR.Config(**job.config).outcome()


def recorded_settings(job: Job) -> dict:
    """The settings that decide the outcome and differ from the default."""
    if job.bits is not None:
        return {}
    default = ICMR.Config().outcome()
    return {name: value for name, value in ICMR.Config(**job.config).outcome().items()
            if name not in UNRECORDED and value != default[name]}


def method_of(job: Job) -> str:
    return records.OURS if job.bits is None else job.label


def module_of(job: Job) -> str:
    """The module of this project whose imports decide what a training gives."""
    return "benchmarks.baselines.own" if job.own else records.root_module(method_of(job))


def code_of(job: Job) -> str:
    """Changes with the code that decides what a training gives, that of a method of one's own included."""
    code = records.code_digest(module_of(job))
    return f"{code}@{job.own.rpartition('@')[2]}" if job.own else code


# --- finished trainings -------------------------------------------------------------------------------------------


def finished(path: str | Path, settings: dict, fingerprint: str, code: str) -> tuple[dict | None, str]:
    """The result that the file ``path`` holds and "", if it is one of these settings, data and code; else None and
    what is wrong with it, "" if there is no file.
    """
    try:
        found = json_text.read(Path(path))
        for key, value, reason in (("settings", settings, "trained with other settings"),
                                   ("fingerprint", fingerprint, "trained on other data"),
                                   ("code", code, "trained by other code")):
            if found[key] != value:
                return None, reason
        return found, ""
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, KeyError, TypeError):
        return None, "damaged or of an older version"


def finished_job(job: Job, fingerprint: str) -> tuple[dict | None, str]:
    """What :func:`finished` says of a job on data of this fingerprint."""
    return finished(Path(job.folder) / "result.json", settings_of(job), fingerprint, code_of(job))


def stamp(method: str, settings: dict) -> dict:
    """What :func:`finished` and a record will want to know of a training; to be made as it begins, as the files of the
    code may be edited before it ends.
    """
    module = records.root_module(method)
    return {"settings": settings, "code": records.code_digest(module), "commit": records.committed(module)[0],
            "date": datetime.date.today().isoformat()}


def keep(path: str | Path, result: dict, stamp: dict) -> dict:
    """Write the result of a training with its stamp, for :func:`finished`; returns both."""
    result = result | stamp
    write_atomically(path, lambda file: json.dump(json_text.sealed(result), file), "w")
    return result


def look(jobs: list[Job], fingerprints: dict[str, str]) -> list[dict | None]:
    """The results of the jobs that are finished, None for the others; says how many there are of each."""
    found = [finished_job(job, fingerprints[job.dataset]) for job in jobs]
    reasons = Counter(reason for _, reason in found if reason)
    again = f"; {reasons.total()} are trained again: " + ", ".join(f"{count} {reason}"
                                                                   for reason, count in reasons.items())
    print(f"{len(jobs)} trainings, {sum(result is not None for result, _ in found)} of them found finished"
          + (again if reasons else ""), flush=True)
    return [result for result, _ in found]


# --- one training -------------------------------------------------------------------------------------------------


def run(job: Job) -> dict:
    """Train, test, and keep the result; one that says why, where a method can't be trained on these data."""
    mark = stamp(method_of(job), settings_of(job)) | {"code": code_of(job)}
    device = choose_device(job.config["device"])
    if device.type == "cpu":
        torch.set_num_threads(1)
    folder = check_writable(job.folder, "results_dir")
    about = {**environment(device), "processes": 1, "precision": "float32"}
    with open(folder / "training.log", "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        try:
            result = train_ours(job) if job.bits is None else train_baseline(job, device)
        except Unsuited as error:
            result = {"skipped": str(error)}
    split = data(job)
    result |= {"dataset": split.name, "fingerprint": split.fingerprint,
               "environment": {**about, **result.get("environment", {})},
               "sizes": {name: len(getattr(split, name)) for name in ("train", "query", "retrieval")}}
    return keep(folder / "result.json", result, mark)


@functools.lru_cache(maxsize=1)
def loaded(path: str, data_dir: str) -> tuple[Dataset, Dataset | None]:
    data = load_dataset(path, data_dir)
    return data, with_finer_labels(data)


def data(job: Job) -> Dataset:
    return loaded(job.dataset, job.config["data_dir"])[0]


def finer(job: Job, figures: Callable[[Dataset], dict[str, dict]]) -> dict:
    """The mAP of the unpaired codes with the finer labels of the data, if there are any; ``figures`` gives those of any
    data by code length.
    """
    found = loaded(job.dataset, job.config["data_dir"])[1]
    if found is None:
        return {}
    return {"finer": {bits: {"unpaired": each["unpaired"]} for bits, each in figures(found).items()}}


def train_ours(job: Job) -> dict:
    with tempfile.TemporaryDirectory() as checkpoints:
        solver = ICMR.Solver(ICMR.Config(**{**job.config, "dataset": job.dataset, "results_dir": job.folder,
                                            "checkpoint_dir": checkpoints, "run_name": "run"}))
        solver.fit()
        found = solver.results()
    last_figures.write(Path(job.folder) / last_figures.FILE, solver.data, found["average_precision"])
    found |= finer(job, lambda data: evaluation.evaluate_codes(solver.model, data, solver.scale_max))
    return {key: found[key] for key in ("final", "finer", "history", "epochs", "curves", "chosen", "seconds",
                                        "environment") if key in found}


def train_baseline(job: Job, device: torch.device) -> dict:
    split = data(job)
    method = Own(job.own, job.bits, job.seed, device) if job.own else METHODS[job.label](job.bits, job.seed, device)
    # Of its one thread on a CPU, so that other programs on the machine don't count.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    history, tested = [], 0.0

    def test(epoch: int) -> None:
        nonlocal tested
        started = clock()
        if epoch % 10 == 0 and epoch != method.epochs:
            history.append({"epoch": epoch, str(job.bits): evaluate(method, split)[0]})
        tested += clock() - started

    started = clock()
    method.fit(split.train.image[split.train.image_of_text], split.train.text, test)  # every text with its image
    seconds = clock() - started - tested
    final, curves, precision = evaluate_last(method, split)
    last_figures.write(Path(job.folder) / last_figures.FILE, split, precision)
    history.append({"epoch": method.epochs or 1, str(job.bits): final})
    return {"final": {str(job.bits): final}, "curves": {str(job.bits): curves}, "history": history,
            "seconds": {"training": seconds}, "reference": method.reference,
            **finer(job, lambda data: {str(job.bits): evaluate(method, data)[0]})}


# --- all of them --------------------------------------------------------------------------------------------------


def run_all(jobs: list[Job], results: list[dict | None], processes: int) -> list[dict]:
    """The results of all jobs in their order: those of :func:`look`, and the missing ones trained."""
    results = list(results)
    missing = [number for number, result in enumerate(results) if result is None]
    if not missing:
        return results
    executor = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    try:
        places = {executor.submit(run, jobs[number]): number for number in missing}
        for place in (bar := tqdm(as_completed(places), total=len(places), unit="training", dynamic_ncols=True)):
            job = jobs[places[place]]
            results[places[place]] = place.result()
            bar.set_postfix_str(f"{Path(job.dataset).stem}: {job.label}, seed {job.seed}")
    except BrokenProcessPool:
        raise InputError("the process of a training was killed, perhaps for want of memory; what is finished is kept: "
                         "run the same command again, with fewer --jobs") from None
    except BaseException:  # Ctrl-C, or a training that failed: the others would go on for minutes
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    executor.shutdown()
    return results


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


# --- records ------------------------------------------------------------------------------------------------------


def require_recordable(jobs: list[Job], results: list[dict | None]) -> None:
    """Raise InputError, before anything is trained, if the finished trainings, or those to come, can't be recorded."""
    uncommitted = [job for job, result in zip(jobs, results) if result is not None and result["commit"] is None]
    if uncommitted:
        raise InputError(f"--record: {len(uncommitted)} finished trainings are of code that was not committed, such as "
                         f"{uncommitted[0].folder}; --fresh trains them again")
    for method in dict.fromkeys(method_of(job) for job, result in zip(jobs, results) if result is None):
        records.require_committed(records.root_module(method))


def record_of(job: Job, result: dict, dataset: str) -> dict:
    """The record of a training of the data set named ``dataset``. Raises InputError as :func:`records.make`."""
    return records.make(result, dataset=dataset, method=method_of(job), bits=job.bits, seed=job.seed,
                        settings=recorded_settings(job),
                        hash_lens=list(job.config["hash_lens"]) if job.bits is None else [job.bits])
