"""The records of trainings sorted for the documents: by data set, method and settings, seed and code length."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks import promises
from benchmarks.datasets import BROAD_CLASSES, RECIPES
from benchmarks.methods import METHODS
from benchmarks.promises import in_points
from common.errors import InputError

TITLES = {name: name.capitalize() for name in RECIPES} | {
    "openmoji": "OpenMoji", "wiki": "Wikipedia", "mdi": "Material Design Icons", "phosphor": "Phosphor icons",
    "icons": "Font Awesome icons", "remix": "Remix icons", "mfeat": "Digits in two views", "clipart": "Clip art"}
ON, OFF = {}, {"use_progressive_hash": False}  # settings of a record of ours with the scale and without


@dataclass(frozen=True)
class Row:
    """The trainings of one method with the same settings: a row of a table, by seed and code length."""

    method: str
    settings: dict
    records: list[dict]

    @property
    def ours(self) -> bool:
        return self.method == "ours"

    @functools.cached_property
    def by_seed(self) -> dict[int, dict[str, dict]]:
        """``by_seed[seed][bits]``: the figures after the last epoch."""
        found: dict[int, dict[str, dict]] = {}
        for record in sorted(self.records, key=lambda record: record["seed"]):
            found.setdefault(record["seed"], {}).update(record["final"])
        return found

    def figures(self, bits: str) -> list[dict]:
        """Of one code length, one a seed."""
        return [lengths[bits] for lengths in self.by_seed.values() if bits in lengths]

    def mean(self, seed: int, protocol: str, cut: str) -> float:
        """In points, of one seed: the mean of the code lengths and both directions."""
        return float(np.mean([in_points(each, protocol, cut) for each in self.by_seed[seed].values()]))

    def trainings(self, seeds: Iterable[int]) -> list[promises.Training]:
        by_seed = {record["seed"]: record for record in self.records}
        return [promises.of_record(by_seed[seed]) for seed in seeds]


class Pair(NamedTuple):
    """Two rows of ours to be compared seed by seed, and the seeds that both have."""

    on: Row
    off: Row
    seeds: list[int]

    def gains(self, protocol: str, cut: str) -> list[float]:
        """In points, of each seed: the mean of the code lengths and both directions."""
        return [self.on.mean(seed, protocol, cut) - self.off.mean(seed, protocol, cut) for seed in self.seeds]


@dataclass(frozen=True)
class Data:
    """One data set with its records, the rows of its tables, and the code lengths of ours: none if all were skipped.

    Args:
        finer: the same trainings tested with the finer labels of the data, if it has any.
        column: the name of these labels, of such a ``finer`` one.
    """

    name: str
    records: list[dict]
    rows: list[Row]
    lengths: list[str]
    finer: Data | None = None
    column: str = ""

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self.name) + (f", by {self.column}" if self.column else "")

    @property
    def half(self) -> str | None:
        """Of the bench: selection or unseen."""
        return RECIPES[self.name].half if self.name in RECIPES else None

    @property
    def classes(self) -> int:
        """The number of classes of a data set of the bench."""
        recipe = RECIPES[self.name]
        return recipe.finer.classes if self.column else recipe.classes

    @property
    def broad(self) -> bool:
        """Whether the labels are broad rather than narrow; of a data set of the bench."""
        return self.classes <= BROAD_CLASSES

    def row(self, settings: dict) -> Row | None:
        """Ours with these settings."""
        return next((row for row in self.rows if row.ours and row.settings == settings), None)

    @property
    def others(self) -> list[Row]:
        """Other methods than ours."""
        return [row for row in self.rows if not row.ours]

    def pair(self, settings: dict) -> Pair | None:
        """Ours with these settings, with and without the scale; None without seeds of both."""
        on, off = self.row(settings), self.row({**settings, **OFF})
        seeds = [seed for seed in on.by_seed if seed in off.by_seed] if on and off else []
        return Pair(on, off, seeds) if seeds else None

    @property
    def compared(self) -> Pair | None:
        """Ours with and without the scale, all else at its default."""
        return self.pair(ON)


@dataclass(frozen=True)
class Evidence:
    """All that the documents are made from.

    Args:
        datasets: with records, OpenMoji first.
        current: the digest of the present code that decides a training of a method, to be compared with a record's.
        speed, search: the measurements ``docs/results/speed.json`` and ``search.json``, or None.
    """

    datasets: list[Data]
    current: Callable[[str], str]
    speed: dict | None
    search: dict | None

    def label_sets(self, *halves: str) -> list[Data]:
        """The data sets of these halves of the bench that have records, each with its labels and then with its finer ones.
        """
        return [each for half in halves for data in self.datasets if data.half == half
                for each in (data, data.finer) if each]

    def mark(self, rows: Iterable[Row]) -> str:
        """A † if a record of these rows is of other code than the present."""
        other = any(record["code"] != self.current(record["method"]) for row in rows for record in row.records)
        return " †" if other else ""


def gather(records: list[dict], current: Callable[[str], str], speed: dict | None, search: dict | None) -> Evidence:
    """Sort records (benchmarks/records.py) into data sets and rows.

    Raises:
        InputError: the records of a data set are of different data.
    """
    datasets = []
    names = dict.fromkeys(record["dataset"] for record in records)
    for name in sorted(names, key=lambda name: ([*TITLES, name].index(name), name)):
        own = [record for record in records if record["dataset"] == name]
        if len(prints := sorted({record["fingerprint"] for record in own})) > 1:
            raise InputError(f"docs/results/{name}: records of different data, with the fingerprints "
                             f"{', '.join(each[:8] for each in prints)}; expected one: remove the others' records")
        trained = [record for record in own if "final" in record]
        sets = [tuple(record["hash_lens"]) for record in trained if record["method"] == "ours"]
        lengths = max(sorted(set(sets), key=len, reverse=True), key=sets.count) if sets else \
            sorted({bits for record in trained for bits in record["hash_lens"]})
        found: dict[tuple[str, str], list[dict]] = {}
        for record in trained:
            if record["method"] != "ours" or tuple(record["hash_lens"]) == tuple(lengths):
                found.setdefault((record["method"], json.dumps(record["settings"], sort_keys=True)), []).append(record)
        rows = [Row(method, json.loads(settings), each) for (method, settings), each in found.items()]
        rows.sort(key=_order)
        data = Data(name, own, rows, [str(bits) for bits in lengths])
        datasets.append(dataclasses.replace(data, finer=_finer(data)))
    return Evidence(datasets, functools.cache(current), speed, search)


def _finer(data: Data) -> Data | None:
    """The trainings of a data set as they are with its finer labels."""
    rows = [Row(row.method, row.settings, [{**record, "final": record["finer"]} for record in row.records
                                           if "finer" in record]) for row in data.rows]
    rows = [row for row in rows if row.records]
    return Data(data.name, data.records, rows, data.lengths, column=RECIPES[data.name].finer.column) if rows else None


def _order(row: Row) -> tuple:
    """Other methods first, in the order of METHODS; then ours, off, on, and with other settings."""
    return (row.ours, [*METHODS, row.method].index(row.method), [OFF, ON, row.settings].index(row.settings),
            json.dumps(row.settings, sort_keys=True))
