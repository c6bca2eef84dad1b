"""Train some records of docs/results again, chosen at random, and compare what they reach with what is recorded.

    python benchmark.py check                               # two of all trainings; some take hours on a CPU
    python benchmark.py check --dataset digits --method ours --count 1

Nothing is written. On the machine of a record the figures are the same. Elsewhere the rounding differs, and a training
becomes another one, as with another seed: the exit status is 1 if mAP@all differs, in any code length, protocol or
direction, by more than three standard deviations of the difference of two seeds, or by more than 1 point where fewer
than three seeds are recorded of the same training.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import os
import random
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import records, trainings
from benchmarks.studies import Job
from common import own_code
from common.errors import InputError, Parser, exit_on_bad_input
from load_data import load_dataset
from training.device import choose_device

MIN_TOLERANCE = 0.1  # points: where seeds hardly matter, the rounding of another machine does
FEW_SEEDS_TOLERANCE = 1.0  # points, where a standard deviation means little


def scores(record: dict) -> np.ndarray:
    """mAP@all in points, of all code lengths, protocols and directions, always in the same order."""
    return np.array([100 * figures[protocol][direction]["map"] for _, figures in sorted(record["final"].items())
                     for protocol in ("unpaired", "paired") if protocol in figures for direction in ("i2t", "t2i")])


def spread(record: dict, known: list[dict]) -> float | None:
    """The standard deviation of :func:`scores` over the seeds of a training, the root mean square over its entries;
    None if there are fewer than three seeds.
    """
    def without_seed(each: dict) -> str:
        return repr(records.identity(each)[:-1])

    seeds = [scores(each) for each in known if "final" in each and without_seed(each) == without_seed(record)]
    return float(np.sqrt(np.var(seeds, axis=0, ddof=1).mean())) if len(seeds) > 2 else None


def job_of(record: dict, data_dir: str, device: str, folder: str) -> Job:
    """The training that a record is of. Raises InputError if the settings or the data are not to be had."""
    settings = {"epoch": ICMR.Config().epoch, **record["settings"]}
    config = dict(settings, seed=record["seed"], hash_lens=record["hash_lens"], eval_every=settings["epoch"],
                  data_dir=data_dir, device=device, precision=record["precision"])
    if own_code.is_own(str(config.get("loss"))):
        raise InputError(f"{record['dataset']}: a record with the loss {config['loss']}; records are of the project's "
                         f"own losses, and no code that a record names is run")
    ICMR.Config(**config).check()
    found = load_dataset(record["dataset"], data_dir).fingerprint
    if found != record["fingerprint"]:
        raise InputError(f"{record['dataset']}: the data in {data_dir} have the fingerprint {found[:12]}..., those of "
                         f"the record {record['fingerprint'][:12]}...; expected the same data (benchmark.py data)")
    return Job(record["dataset"], record["method"], record["seed"], record["bits"], config, folder)


def name_of(record: dict) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
    bits = "" if record["bits"] is None else f", {record['bits']} bits"
    return f"{record['dataset']}: {record['method']}{bits}, seed {record['seed']}{f' ({settings})' if settings else ''}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="benchmark.py check", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2, metavar="N", help="records to check (default: 2)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the choice (default: another each time)")
    parser.add_argument("--dataset", metavar="NAME", help="only records of this data set")
    parser.add_argument("--method", metavar="NAME", help="only records of this method; ours is one")
    parser.add_argument("--records_dir", default=records.RESULTS, help=f"default: {records.RESULTS}")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, help="trainings at a time (default: the number of cores; one on a GPU)")
    options = parser.parse_args(argv)
    for name in ("count", "jobs"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: expected 1 or more")
    if options.seed is not None and options.seed < 0:
        raise InputError(f"--seed {options.seed}: expected 0 or more")
    return options


@exit_on_bad_input
def main(argv: list[str] | None = None) -> list[dict]:
    options = parse(argv)
    cpu = choose_device(options.device).type == "cpu"
    known = records.read_all(options.records_dir)
    wanted = [record for record in known if "final" in record and options.dataset in (None, record["dataset"])
              and options.method in (None, record["method"])]
    if not wanted:
        there = sorted({f"{record['dataset']}: {record['method']}" for record in known if "final" in record})
        raise InputError(f"{options.records_dir}: no such record; found {', '.join(there) or 'none'}; benchmark.py "
                         f"--record writes records")
    seed = random.randrange(2**31) if options.seed is None else options.seed
    chosen = random.Random(seed).sample(wanted, min(options.count, len(wanted)))
    print(f"{len(chosen)} of {len(wanted)} records, chosen with --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        jobs = [job_of(record, options.data_dir, options.device, str(Path(folder) / str(number)))
                for number, record in enumerate(chosen)]
        found = trainings.run_all(jobs, [None] * len(jobs), options.jobs or (os.cpu_count() if cpu else 1))
    rows = [compared(record, result, known) for record, result in zip(chosen, found)]
    width = max(len(row["record"]) for row in rows)
    print(f"{'record':{width}}  difference  spread of seeds  allowed")
    for row in rows:
        between = "few seeds" if row["spread"] is None else f"{row['spread']:.2f}"
        print(f"{row['record']:{width}}  {row['difference']:10.2f}  {between:>15}  {row['allowed']:7.2f}"
              f"{'' if row['same'] else '  DIFFERS'}{'  recorded by other code' if row['other_code'] else ''}")
    print("The difference is the largest of mAP@all, in points.")
    if not all(row["same"] for row in rows):
        raise SystemExit(1)
    return rows


def compared(record: dict, result: dict, known: list[dict]) -> dict:
    """A row of the table: a record beside the ``result`` of its training now."""
    if "skipped" in result:
        raise InputError(f"{name_of(record)}: can't be trained again: {result['skipped']}")
    deviation = spread(record, known)
    allowed = FEW_SEEDS_TOLERANCE if deviation is None else max(3 * 2**0.5 * deviation, MIN_TOLERANCE)
    difference = float(np.abs(scores(record) - scores(result)).max())
    return {"record": name_of(record), "difference": difference, "spread": deviation, "allowed": allowed,
            "same": difference <= allowed, "other_code": record["code"] != result["code"]}


if __name__ == "__main__":
    main()
