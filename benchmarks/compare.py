"""Compare finished runs: the settings that differ, the figures, and whether their differences are significant.

    python benchmark.py compare results/openmoji/RUN results/openmoji/OTHER_RUN
    python benchmark.py compare results/openmoji/benchmark/{default-seed*,CCA-ITQ-*}      # five seeds of two methods
    python benchmark.py compare results/openmoji/benchmark                                # all that is there

A RUN is the folder of a run, its metrics.json, the folder of a training of benchmark.py, or a folder of any of these.
Runs that differ in nothing but the seed or, of other methods, the code length are one method; the first RUN's is what
the others are compared with. Two runs that would be the same seed of one method, as from before and after an edit, are
two methods, named by their folders.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test

from benchmarks import exports
from benchmarks.blocks import written
from benchmarks.tables import spread, table
from common.atomic_files import write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from reporting import metrics_json
from reporting.last_figures import DIRECTIONS, FILE

FIGURES = {"map": "mAP@all", "map@50": "mAP@50", "map@radius2": "mAP, radius 2", "ndcg@50": "NDCG@50",
           "ndcg@1000": "NDCG@1000"}
RESAMPLES = 9999  # of a randomisation test; the smallest p is 2 in 10,000
UNCOMPARED = ("dataset", "seed", "eval_every", "task")  # settings that make no other method
ENVIRONMENT = ("torch", "numpy", "device", "gpu", "cpu", "processes", "commit", "code")  # what else may make a difference
NO_DIFFERENCES = "These runs are of different data, so that their figures can't be compared; no differences are given:"


@dataclass
class Run:
    """A finished run: what its file says."""

    folder: Path
    method: str
    settings: dict
    seed: int
    dataset: str
    fingerprint: str
    environment: dict
    final: dict[str, dict]
    precision: dict[str, np.ndarray]  # the average precision of each query; none if there is no such file


@dataclass
class Method:
    """Runs that differ in their seeds or code lengths alone."""

    label: str
    runs: list[Run]

    def values(self, bits: str, direction: str, figure: str) -> list[float]:
        """In points, one a seed."""
        found = [run.final[bits]["unpaired"].get(direction, {}).get(figure) for run in self.runs
                 if "unpaired" in run.final.get(bits, {})]
        return [100 * value for value in found if value is not None]

    def precision(self, bits: str, direction: str, figure: str) -> np.ndarray | None:
        """In points, (seeds, queries); None if a run has no file of it."""
        name = f"{bits}/unpaired/{direction}/{figure}"
        runs = [run for run in self.runs if bits in run.final]
        if not runs or not all(name in run.precision for run in runs):
            return None
        return 100 * np.stack([run.precision[name] for run in runs])


@exit_on_bad_input
def main(argv: list[str] | None = None) -> list[dict]:
    """Print the comparison; returns the differences, one a method, code length, direction and figure."""
    parser = Parser(prog="benchmark.py compare", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=["map", "map@50"],
                        help="default: map map@50; only these two are tested for significance")
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=["i2t", "t2i"], help="default: i2t t2i")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="also write it, and its tables as LaTeX and CSV")
    options = parser.parse_args(argv)
    if options.out and options.out.suffix != ".md":
        raise InputError(f"--out {options.out}: expected the name of a .md file")
    methods = methods_of([run for path in options.runs for run in runs_at(path)])
    if len(methods) < 2:
        raise InputError(f"{', '.join(map(str, options.runs))}: runs of one method, {methods[0].label}; expected two "
                         f"or more to compare")
    same_data = len({run.fingerprint for method in methods for run in method.runs}) == 1
    found = differences(methods, options.figures, options.directions) if same_data else []
    text = "\n".join(report(methods, found, options.figures, options.directions)) + "\n"
    print(text)
    if options.out:
        for path in (write_atomically(options.out, lambda file: file.write(text), "w"),
                     *exports.write(text, options.out.parent, options.out.stem)):
            print(path)
    return found


# --- reading ------------------------------------------------------------------------------------------------------


def runs_at(path: Path) -> list[Run]:
    """The runs of a RUN on the command line, in order. Raises InputError if there is none, or one can't be read."""
    names = ("metrics.json", "result.json")
    files = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()] or \
        sorted(file for name in names for file in path.glob(f"*/{name}"))
    runs = [run for file in files if (run := read(file))]
    if not runs:
        raise InputError(f"{path}: no finished run; expected the folder of a run, its metrics.json, or a folder of "
                         f"such folders")
    return runs


def read(path: Path) -> Run | None:
    """The run of a file; None of a training that was skipped.

    Raises:
        InputError: the file can't be read, or is not one of ICMR.py or benchmark.py.
    """
    try:
        found = metrics_json.read(path)
        if "skipped" in found:
            return None
        if "config" in found:  # of ICMR.py; of a test, how the longest code was trained
            longest = max(found["trained"], key=lambda bits: int(bits) if bits.isdigit() else 0, default=None)
            settings = found["trained"][longest]["config"] if longest else found["config"]
        else:
            settings = found["settings"]
        method = settings.get("method", "ours")
        names = ICMR.Config().outcome().keys() - set(UNCOMPARED)
        known = {name: value for name, value in settings.items()
                 if name in names or method != "ours" and name not in ("method", "bits", "seed")}
        dataset = found.get("dataset") or path.absolute().parents[2].name  # its folder, before benchmark.py wrote it
        final = {bits: figures for bits, figures in found["final"].items() if isinstance(figures, dict)}
        environment = {**found["environment"], **{key: (found.get(key) or "–")[:7] for key in ("commit", "code")}}
        run = Run(path.parent, str(method), known, int(settings["seed"]), dataset, found["fingerprint"], environment,
                  final, {})
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}; expected the metrics of a finished run") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the results of a run of ICMR.py or benchmark.py "
                         f"({type(error).__name__}: {error})") from None
    run.precision = read_precision(path.with_name(FILE), run)
    return run


def read_precision(path: Path, run: Run) -> dict[str, np.ndarray]:
    """The average precision of each query of a run, if it has the file; InputError if that is damaged or of another."""
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        of_run = str(found.pop("fingerprint")) == run.fingerprint and all(
            np.isclose(values.mean(), run.final[bits][protocol][direction][figure], atol=1e-3)
            for name, values in found.items() if not name.startswith("rows/")
            for bits, protocol, direction, figure in [name.split("/")])
    except Exception as error:  # zipfile and NumPy raise whatever a damaged file makes them
        raise InputError(f"{path}: not the average precision of the queries ({type(error).__name__}: {error}); run it "
                         f"again, or remove the file") from None
    if not of_run:
        raise InputError(f"{path}: of another run than the results beside it; run it again, or remove the file")
    return found


def methods_of(runs: Sequence[Run]) -> list[Method]:
    """The runs by method, in the order in which they were given."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not any(run.folder.resolve() == other.folder.resolve() for group in groups.values() for other in group):
            key = json.dumps([run.method, run.settings, run.fingerprint, run.environment["code"]], sort_keys=True)
            groups.setdefault(key, []).append(run)
    methods = []
    for group in groups.values():
        places = [(run.seed, bits) for run in group for bits in run.final]
        if len(set(places)) == len(places):
            methods.append(Method(label_of(group[0]), sorted(group, key=lambda run: run.seed)))
        else:
            methods += [Method(f"{label_of(run)} ({run.folder.name})", [run]) for run in group]
    labels = [method.label for method in methods]
    for method in methods:
        if labels.count(method.label) > 1:
            method.label += f" ({method.runs[0].dataset}/{method.runs[0].folder.name})"
    return methods


def label_of(run: Run) -> str:
    """``ours, --scale_max 8``: the settings that differ from the default."""
    default = vars(ICMR.Config())
    changed = [f"--{name} {written(value)}" for name, value in run.settings.items()
               if run.method == "ours" and name != "hash_lens" and value != default[name]]
    return run.method + (f", `{' '.join(changed)}`" if changed else "")


# --- comparing ----------------------------------------------------------------------------------------------------


def differences(methods: Sequence[Method], figures: Iterable[str], directions: Iterable[str]) -> list[dict]:
    """Each method minus the first, in points, with the p-values of :func:`p_values` where there are any, corrected by
    Holm's method for the number of methods that are compared with the first.
    """
    found = []
    lengths = lengths_of(methods)
    for bits, direction, figure in itertools.product(lengths, directions, figures):
        rows = []
        for other in methods[1:]:
            sides = [method.values(bits, direction, figure) for method in (methods[0], other)]
            if all(sides):
                row = {"method": other.label, "bits": bits, "direction": direction, "figure": figure,
                       "difference": float(np.mean(sides[1]) - np.mean(sides[0])), "queries": None, "seeds": None}
                precision = [method.precision(bits, direction, figure) for method in (methods[0], other)]
                if all(side is not None for side in precision):
                    row["queries"], row["seeds"] = p_values(*precision)
                rows.append(row)
        for kind in ("queries", "seeds"):
            tested = [row for row in rows if row[kind] is not None]
            for row, value in zip(tested, holm([row[kind] for row in tested])):
                row[kind] = value
        found += rows
    order = [method.label for method in methods]
    return sorted(found, key=lambda row: order.index(row["method"]))


def p_values(first: np.ndarray, other: np.ndarray) -> tuple[float | None, float | None]:
    """Two-sided p-values of the difference between two methods, by randomisation (Fisher).

    Over queries: the mean over seeds of a query's average precision may as well be the one method's as the other's, so
    that the sign of each query's difference is drawn at random (Smucker et al., CIKM 2007). The trainings are taken as
    they are. Over seeds: the mean of a training may as well belong to the one method as to the other, so that the
    trainings are divided anew; all divisions are taken where they are few. The queries are taken as they are.

    Args:
        first, other: the average precision, (seeds, queries), of the same queries; the seeds may be other ones.

    Returns:
        Both; None over queries if there is only one, and over seeds if a method has only one.
    """
    settings = {"vectorized": True, "n_resamples": RESAMPLES, "batch": 500}
    over_queries = over_seeds = None
    gains = other.mean(axis=0) - first.mean(axis=0)
    if len(gains) > 1:
        queries = permutation_test((gains,), np.mean, permutation_type="samples", rng=np.random.default_rng(0),
                                   **settings)
        over_queries = float(queries.pvalue)
    if min(len(first), len(other)) > 1:
        seeds = permutation_test((other.mean(axis=1), first.mean(axis=1)),
                                 lambda one, two, axis: one.mean(axis=axis) - two.mean(axis=axis),
                                 permutation_type="independent", rng=np.random.default_rng(0), **settings)
        over_seeds = float(seeds.pvalue)
    return over_queries, over_seeds


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(values)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.array(values)[order] * np.arange(len(values), 0, -1)), 1)
    return corrected.tolist()


def lengths_of(methods: Sequence[Method]) -> list[str]:
    """The code lengths of all runs, sorted, and ``real`` last."""
    found = {bits for method in methods for run in method.runs for bits in run.final}
    return sorted(found, key=lambda bits: (not bits.isdigit(), int(bits) if bits.isdigit() else 0))


# --- writing ------------------------------------------------------------------------------------------------------


def report(methods: Sequence[Method], found: Sequence[dict], figures: Sequence[str], directions: Sequence[str]
           ) -> list[str]:
    """The comparison in Markdown."""
    runs = [run for method in methods for run in method.runs]
    data = {run.fingerprint: f"{run.dataset} ({run.fingerprint[:8]})" for run in runs}
    lines = ["# Comparison", "", *(f"- {method.label}: {', '.join(str(run.folder) for run in method.runs)}"
                                   for method in methods), ""]
    lines += [f"Data: {', '.join(data.values())}."] if len(data) == 1 else [
        NO_DIFFERENCES, "", *(f"- {method.label}: {data[method.runs[0].fingerprint]}" for method in methods)]
    lines += ["", "## Settings", "", *settings(methods), "", "## Figures", "",
              "In points, unpaired, after the last epoch; mean ± standard deviation over seeds. The best is in bold, "
              "the second best underlined.", ""]
    rows, columns = [], [method.label for method in methods]
    for bits, direction, figure in itertools.product(lengths_of(methods), directions, figures):
        cells = [spread(method.values(bits, direction, figure)) for method in methods]
        if any(cells):
            best = [row[0] for row in exports.mark_best([[cell] for cell in cells], words=0)] if found else cells
            rows.append([bits, direction.upper(), FIGURES[figure], *best])
    lines += table(["bits", "", "", *columns], rows, 3)
    if found:
        lines += ["", f"## Differences from {methods[0].label}", "", *significance(methods, found)]
    return lines


def settings(methods: Sequence[Method]) -> list[str]:
    """What differs between the methods, of their settings and of the machines they were trained on."""
    default = ICMR.Config()
    rows = []
    names = list(dict.fromkeys([*vars(default), *(name for method in methods for name in method.runs[0].settings)]))
    for name in names:
        of_ours = [run.settings.get(name) for method in methods for run in method.runs if name in run.settings]
        if any(value != of_ours[0] for value in of_ours[1:]):
            rows.append([name, *(written(method.runs[0].settings[name]) if name in method.runs[0].settings else "–"
                                 for method in methods)])
    for name in ENVIRONMENT:
        cells = [", ".join(dict.fromkeys(str(run.environment.get(name, "–")) for run in method.runs))
                 for method in methods]
        if len(set(cells)) > 1:
            rows.append([name, *cells])
    rows.append(["seeds", *(", ".join(dict.fromkeys(str(run.seed) for run in method.runs)) for method in methods)])
    return table(["", *(method.label for method in methods)], rows, len(methods) + 1)


def significance(methods: Sequence[Method], found: Sequence[dict]) -> list[str]:
    """The differences with their p-values, and what these are."""
    rows = [[row["method"], row["bits"], row["direction"].upper(), FIGURES[row["figure"]],
             f"{row['difference']:+.2f}", *("–" if row[kind] is None else f"{row[kind]:.4f}"
                                            for kind in ("queries", "seeds"))] for row in found]
    lines = [*table(["", "bits", "", "", "difference", "p, queries", "p, seeds"], rows, 4), "",
             "Points gained; p-values are two-sided, by randomisation, of a difference at least as large if both methods "
             f"were equally good. *Queries*: the sign of each query's difference is random, in {RESAMPLES:,} draws; it "
             "says whether other queries would show the same of these trainings. *Seeds*: which training is which "
             "method's is random; it says whether other trainings would show the same on these queries, and can't be "
             "small with few seeds. A claim about the methods needs both."]
    if len(methods) > 2:
        lines[-1] += " Corrected by Holm's method for the methods that were tested against the first in the same row."
    if without := [method.label for method in methods if not all(run.precision for run in method.runs)]:
        lines += ["", f"No p-values of {'; '.join(without)}: no {FILE} lies beside the results of each run; run them "
                  f"again."]
    return lines


if __name__ == "__main__":
    main()
