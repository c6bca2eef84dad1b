"""Every figure that the README and the documentation claim: how it is measured, recorded, and checked.

    python benchmark.py --datasets openmoji --seeds 5    # other methods, ours, and ours with progressive hashing off
    python benchmark.py --datasets all                   # the same on the whole bench; also: selection, unseen
    python benchmark.py --method my_method.py:Mine       # and a method of your own (docs/extending.md)
    python benchmark.py ablation                         # from UCMFH's heads to the default, and what did not help
    python benchmark.py scale                            # scale_min, scale_max and the schedules
    python benchmark.py epochs                           # trainings of 30 to 200 epochs
    python benchmark.py constants                        # each constant at half and at double
    python benchmark.py speed | search                   # how fast training, evaluation and search are
    python benchmark.py data [NAME | all]                # make a data set that is measured on, or list them all
    python benchmark.py tables                           # write the figures of the records into the documents
    python benchmark.py check                            # train some records again, and compare
    python benchmark.py compare RUN RUN ...              # any runs: settings, figures, significance of differences

Each of the last six has options of its own: python benchmark.py speed --help. The others are studies. Their finished
trainings are kept in <results_dir>/<dataset>/benchmark/ and used again as long as settings, data and code are the same,
so a study can be stopped and resumed. Beside them it writes <study>.md, <study>.json, each table as LaTeX and CSV, and
the figures. A data set of the bench that is not there, or is another one, gives one line; the others are measured, and
the exit status is 2. With fewer --methods the other rows that an earlier run wrote stay, as long as they are of the
same settings, data and code; those that are not are left out and named.
Reported is the last epoch, tie-aware, over all queries and all items. On a CPU each training runs in a process with one
thread, which makes its figures repeatable. With --record the trainings are also written to docs/results, from which
the documents take their figures; the code has to be committed then.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import functools
import importlib
import json
import os
import shlex
import sys
from pathlib import Path

from benchmarks import earlier, exports, records, trainings
from benchmarks.baselines.own import label_of
from benchmarks.datasets import RECIPES, SELECTION, UNSEEN, Recipe
from benchmarks.figures import draw
from benchmarks.methods import METHODS
from benchmarks.studies import DEFAULT, OFF, STUDIES, Job, jobs_of
from benchmarks.tables import markdown
from common import own_code
from common.atomic_files import check_writable, write_atomically
from common.console import warn
from common.errors import InputError, Parser, exit_on_bad_input
from load_data import Dataset, load_dataset
from training.device import choose_device

COMMANDS = {"speed": "speed", "search": "search_speed", "data": "datasets", "tables": "documents", "check": "check",
            "compare": "compare"}


@exit_on_bad_input
def main(argv: list[str] | None = None) -> object:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:  # only what is asked for is imported
        return importlib.import_module(f"benchmarks.{COMMANDS[argv[0]]}").main(argv[1:])
    return run_study(parse(argv), shlex.join(["python", "benchmark.py", *argv]))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="benchmark.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", choices=(*STUDIES, *COMMANDS), default="methods", help="default: methods")
    parser.add_argument("--datasets", nargs="+", default=["openmoji"], help="names or paths, as ICMR.py takes them; "
                        "selection and unseen stand for the halves of the bench, all for both")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds: 0, 1, ... (default: 5)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these rows of the study")
    parser.add_argument("--method", action="append", default=[], metavar="FILE.py:Class", help="a method of your own "
                        "beside them, a class with fit, encode_image and encode_text; can be given several times")
    parser.add_argument("--fresh", action="store_true", help="train again what is finished")
    parser.add_argument("--hash_lens", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--epoch", type=int, default=100, help="training epochs of ours (default: 100)")
    parser.add_argument("--eval_every", type=int, default=10, help="epochs between tests of ours (default: 10)")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", help="of our trainings (default: float32)")
    parser.add_argument("--jobs", type=int, help="trainings at a time (default: the number of cores; one on a GPU)")
    parser.add_argument("--record", action="store_true", help="also write the trainings to records_dir")
    parser.add_argument("--records_dir", default=records.RESULTS, help=f"default: {records.RESULTS}")
    options = parser.parse_args(argv)
    if options.study not in STUDIES:
        raise InputError(f"{options.study}: has options of its own; give it first: benchmark.py {options.study} ...")
    for name in ("seeds", "jobs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: expected 1 or more")
    if options.method and options.study != "methods":
        raise InputError(f"--method: the study {options.study} is of ours alone; expected it with the study methods")
    if options.method and options.record:
        raise InputError("--record: a method of your own (--method) can't be recorded, as the records are of committed "
                         "code; leave one of both out")
    return options


def own_methods(names: list[str]) -> dict[str, str]:
    """Methods of one's own by label, pinned to their code. Raises InputError: a class can't be loaded, has another
    interface, or the label of another row.
    """
    found: dict[str, str] = {}
    for name in names:
        pinned = own_code.pinned(name)
        label = label_of(pinned)
        if label in (*METHODS, *STUDIES["methods"], *found):
            raise InputError(f"--method {name}: there is a row {label!r} already; give the class another name")
        found[label] = pinned
    return found


def run_study(options: argparse.Namespace, command: str) -> dict:
    """Train what is missing of a study and write its results; returns what its JSON files hold, by data set."""
    settings = {name: getattr(options, name)
                for name in ("epoch", "eval_every", "hash_lens", "data_dir", "device", "precision")}
    ICMR.Config(**settings).check()
    cpu = choose_device(options.device).type == "cpu"
    own = own_methods(options.method)
    datasets, missing = load_all(options.datasets, options.data_dir, options.record)
    studies = []
    for path, dataset in datasets.items():
        folder = check_writable(Path(options.results_dir) / dataset.name / "benchmark", "results_dir")
        jobs_with = functools.partial(jobs_of, options.study, path, settings, folder=folder)
        studies.append((dataset, folder, jobs_with, jobs_with(seeds=options.seeds, wanted=options.methods, own=own)))
    jobs = [job for *_, asked in studies for job in asked]
    results = [None] * len(jobs) if options.fresh else \
        trainings.look(jobs, {path: dataset.fingerprint for path, dataset in datasets.items()})
    if options.record:
        check_writable(options.records_dir, "records_dir")
        trainings.require_recordable(jobs, results)
    results = iter(trainings.run_all(jobs, results, options.jobs or (os.cpu_count() if cpu else 1)))
    found = {}
    for dataset, folder, jobs_with, asked in studies:
        rows = [(job, next(results)) for job in asked]
        before = earlier.rows(folder / f"{options.study}.json", jobs_with, asked, dataset.fingerprint)
        found[dataset.name] = report(options, command, dataset.name, folder, rows, before)
    if missing:
        raise InputError(f"not measured: {', '.join(missing)}, for the reasons given above; all else is done")
    return found


def load_all(wanted: list[str], data_dir: str, record: bool = False) -> tuple[dict[str, Dataset], list[str]]:
    """The data sets by name or path, all of them before the first is trained on, and the names of those that can't be
    measured. Of the bench these are named in a line each and left out; any other raises InputError.
    """
    halves = {"all": list(RECIPES), **{half: [name for name, recipe in RECIPES.items() if recipe.half == half]
                                       for half in (SELECTION, UNSEEN)}}
    found, missing = {}, []
    for path in dict.fromkeys(name for each in wanted for name in halves.get(each, [each])):
        try:
            dataset = load_dataset(path, data_dir)
            dataset.require_labels("the benchmark measures mAP")
            if path in RECIPES:
                check_recipe(dataset, RECIPES[path], record)
        except InputError as error:
            if path not in RECIPES:
                raise
            reason = f"{path}: {error}; python benchmark.py data {path} makes it; needs {RECIPES[path].needs}"
            if wanted == [path]:
                raise InputError(reason) from None
            missing.append(path)
            print(f"error: {' '.join(reason.split())}", file=sys.stderr, flush=True)
        else:
            if other := next((name for name, each in found.items() if each.name == dataset.name), None):
                raise InputError(f"--datasets {path}: has the name of {other}, {dataset.name}, and would replace its "
                                 f"results; rename one, or leave it out")
            found[path] = dataset
    if not found:
        raise InputError("none of these data sets is here")
    return found, missing


def check_recipe(dataset: Dataset, recipe: Recipe, record: bool) -> None:
    """Raise InputError if a data set of the bench is another one than its recipe makes; warn if only its features are,
    as another processor gives others in their last digits, unless that would be recorded.
    """
    pairs, classes = len(dataset.query) + len(dataset.retrieval), dataset.num_classes
    if (pairs, classes) != (recipe.pairs, recipe.classes):
        raise InputError(f"{dataset.path}: {pairs:,} pairs of {classes} classes; the bench has {recipe.pairs:,} of "
                         f"{recipe.classes}: another version of its source")
    if dataset.fingerprint != recipe.fingerprint:
        about = (f"{dataset.path}: fingerprint {dataset.fingerprint[:16]}..., the bench has "
                 f"{recipe.fingerprint[:16]}...: features that another processor or encoder made")
        if record:
            raise InputError(f"{about}, which records of this data set can't have; measure without --record")
        warn(f"{about}; figures may differ a little from the recorded ones")


def report(options: argparse.Namespace, command: str, name: str, folder: Path, trained: list[tuple[Job, dict]],
           before: earlier.Rows) -> dict:
    """Write and print the results of a study on the data set ``name``; returns what its JSON file holds.

    Args:
        trained: the trainings that were asked for, with their results; ``before`` are the rows beside them.
    """
    if not trainings.gather(*zip(*trained)):
        raise InputError(f"{name}: no method could be trained: {trained[0][1]['skipped']}")
    jobs, results = zip(*before.among(trained))
    found = trainings.gather(jobs, results)
    skipped = {job.label + (f", {job.bits} bits" if job.bits else ""): result["skipped"]
               for job, result in zip(jobs, results) if "skipped" in result}
    text = markdown(options.study, name, command, results[0]["sizes"], found, skipped, DEFAULT, OFF) + before.notes()
    output = {"command": command, "methods": compact(found), "skipped": skipped,
              "own": {job.label: job.own for job in jobs if job.own}}
    written = [write_atomically(folder / f"{options.study}.md", lambda file: file.write(text), "w"),
               write_atomically(folder / f"{options.study}.json", lambda file: json.dump(output, file), "w"),
               *exports.write(text, folder, options.study), *draw(found, folder, options.study)]
    if options.record:
        written += records.write([trainings.record_of(job, result, name) for job, result in trained],
                                 options.records_dir)
    print(text, *map(str, written), sep="\n", flush=True)
    return output


def compact(found: dict[str, dict[str, list[dict]]]) -> dict:
    """What the JSON of a study holds: all but the curves and the epochs, which are in the files of the trainings."""
    def short(entry: dict) -> dict:
        return {key: value for key, value in entry.items() if key not in ("curves", "epochs", "history")}

    return {label: {bits: [short(entry) for entry in entries] for bits, entries in lengths.items()}
            for label, lengths in found.items()}


if __name__ == "__main__":
    main()
