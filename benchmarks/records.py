"""Records: what finished trainings and measurements gave, kept with the code as the evidence for its documents.

A training is a line of JSON in ``docs/results/<data set>/<method>.jsonl``, sorted by settings, code length and seed; a
measurement of speed is ``docs/results/speed.json``, one of search ``docs/results/search.json``. Each says which commit,
versions and machine it is from, and is sealed (common/json_text.py). :func:`make` makes a record of a training,
:func:`write` adds it to its file, and :func:`read` and :func:`read_all` read them back and refuse what is not a whole
record.

``code`` is a digest of the code that decides a training's outcome. Comments, docstrings and formatting don't change it.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.methods import METHODS
from common import input_files, json_text
from common.atomic_files import write_atomically
from common.code_files import ROOT, digest, follow, in_project
from common.errors import InputError
from training.device import processor

RESULTS = "docs/results"
OURS = "ours"
WRITTEN = "records in UTF-8, as benchmark.py --record writes them"

_COMMIT, _SHA256, _DATE = (re.compile(text) for text in ("[0-9a-f]{40}", "[0-9a-f]{64}", r"\d{4}-\d\d-\d\d"))
_BITS = re.compile("[1-9][0-9]*")
_BOTH = lambda figures: {"i2t": figures, "t2i": figures}
_MAPS = _BOTH({"map": float, "map@50": float})
_IN_FULL = {"map": float, "map@50": float, "map@radius2?": float, "ndcg@50?": float, "ndcg@1000?": float}
_FIGURES = {"unpaired": {**_BOTH(_IN_FULL), "i2i?": _IN_FULL, "t2t?": _IN_FULL}, "paired?": _MAPS,
            "partners": _BOTH({"recall@1": float, "recall@5": float, "recall@10": float}),
            "quantization_error?": float, "bit_balance?": float}
_ORIGIN = {  # where a record or a measurement is from
    "commit": _COMMIT, "code": _SHA256, "date": _DATE, "versions": {"python": str, "torch": str, "numpy": str},
    "machine": {"platform": str, "cpu": str, "device": str, "gpu": (None, str), "threads": int, "processes": int}}
_ABOUT = {  # what was trained
    "format": (1,), "dataset": str, "fingerprint": _SHA256, "sizes": {"train": int, "query": int, "retrieval": int},
    "method": str, "bits": (None, int), "settings": {str: (bool, int, float, str)}, "hash_lens": [int], "seed": int,
    **_ORIGIN}
TRAINED = {**_ABOUT, "precision": str, "seconds": float, "final": {_BITS: _FIGURES},
           "finer?": {_BITS: {"unpaired": _MAPS}},
           "history": {"epoch": [int], "map": {_BITS: [float]}}, "loss?": [float]}
SKIPPED = {**_ABOUT, "skipped": str}
MEASURED = {"format": (1,), **_ORIGIN}  # and the figures


# --- making and writing -------------------------------------------------------------------------------------------


def make(result: dict, *, dataset: str, method: str, bits: int | None, settings: dict, hash_lens: list[int],
         seed: int) -> dict:
    """The record of a training.

    Args:
        result: of the training, as benchmarks/trainings.py keeps it.
        settings: those that decide the outcome and differ from the default.

    Raises:
        InputError: the training began with code that was not committed.
    """
    if result["commit"] is None:
        raise InputError(f"{dataset}, {method}, seed {seed}: trained with code that was not committed; commit it and "
                         f"train again")
    record = {"format": 1, "dataset": dataset, "fingerprint": result["fingerprint"], "sizes": result["sizes"],
              "method": method, "bits": bits, "settings": dict(sorted(settings.items())), "hash_lens": hash_lens,
              "seed": seed, **origin(result)}
    if "skipped" in result:
        return record | {"skipped": result["skipped"]}
    record |= {"precision": result["environment"]["precision"], "seconds": round(result["seconds"]["training"], 2),
               "final": _rounded(result["final"], 6),
               "history": {"epoch": [test["epoch"] for test in result["history"]],
                           "map": {length: [round(sum(test[length]["unpaired"][direction]["map"]
                                                      for direction in ("i2t", "t2i")) / 2, 5)
                                            for test in result["history"]] for length in result["final"]}}}
    if "finer" in result:
        record["finer"] = _rounded(result["finer"], 6)
    if "epochs" in result:
        record["loss"] = [float(f"{epoch['loss']:.6g}") for epoch in result["epochs"]]
    return record


def origin(result: dict) -> dict:
    """Which code and machine a result is from, with the keys that every record has."""
    environment = {"processes": 1, **result["environment"]}
    return {**{key: result[key] for key in ("commit", "code", "date")},
            "versions": {key: environment[key] for key in ("python", "torch", "numpy")},
            "machine": {key: environment[key] for key in _ORIGIN["machine"]}}


def _rounded(value, places: int):
    if isinstance(value, dict):
        return {key: _rounded(each, places) for key, each in value.items()}
    return round(value, places)


def identity(record: dict) -> tuple:
    """What two trainings can't have in common, in the order in which a file holds them."""
    settings = json.dumps(record["settings"], sort_keys=True)
    return (record["dataset"], record["method"], record["fingerprint"], settings, record["bits"] or 0,
            record["hash_lens"], record["seed"])


def write(records: Iterable[dict], folder: str | Path = RESULTS) -> list[Path]:
    """Add records to the files of their methods in ``folder``, each in the place of one of the same training that is
    there already; returns the files. Raises InputError if a file can't be read or written.
    """
    files: dict[Path, dict[str, dict]] = {}
    for record in records:
        path = Path(folder) / record["dataset"] / f"{record['method']}.jsonl"
        if path not in files:
            files[path] = {repr(identity(old)): old for old in (read(path) if path.exists() else [])}
        files[path][repr(identity(record))] = record
    for path, known in files.items():
        lines = [json.dumps(json_text.sealed(_in_order(record)), ensure_ascii=False, allow_nan=False) + "\n"
                 for record in sorted(known.values(), key=identity)]
        write_atomically(path, lambda file: file.writelines(lines), "w")
    return list(files)


def _in_order(record: dict) -> dict:
    shape = SKIPPED if "skipped" in record else TRAINED
    return {key: record[key] for name in shape if (key := name.rstrip("?")) in record}


def measurement_origin(module: str) -> dict:
    """What a measurement by ``module`` is to be recorded with, made before it begins. Raises InputError if the code is
    not committed.
    """
    return {"commit": require_committed(module), "code": code_digest(module),
            "date": datetime.date.today().isoformat()}


def write_measurement(path: Path, begun: dict, measured: dict) -> Path:
    """Write the figures ``measured`` with their origin: ``begun`` is of :func:`measurement_origin`; the machine is that
    of ``measured["environment"]``, or this one.
    """
    here = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
            "platform": platform.platform(), "cpu": processor(), "device": "cpu", "gpu": None,
            "threads": torch.get_num_threads()}
    environment = {**here, **measured.get("environment", {})}
    return rewrite_measurement(path, {"format": 1, **origin(begun | {"environment": environment}), **measured})


def rewrite_measurement(path: Path, content: dict) -> Path:
    """Write what :func:`read_measurement` gives, sealed anew."""
    text = json.dumps(json_text.sealed(content), indent=1, allow_nan=False)
    return write_atomically(path, lambda file: file.write(text + "\n"), "w")


# --- reading ------------------------------------------------------------------------------------------------------


def read_all(folder: str | Path = RESULTS) -> list[dict]:
    """The records of all trainings in ``folder``, by data set and method. Raises InputError as :func:`read` does."""
    return [record for path in sorted(Path(folder).glob("*/*.jsonl")) for record in read(path)]


def read(path: str | Path) -> list[dict]:
    """The records of a file.

    Raises:
        InputError: with the file and the line, if one is not a whole record, belongs to another file, or is a second
            one of the same training.
    """
    path = Path(path)
    records, seen = [], {}
    for number, line in enumerate(read_text(path, WRITTEN).splitlines(), 1):
        where = f"{path}, line {number}"
        record = _parsed(where, line)
        _check(where, record, SKIPPED if isinstance(record, dict) and "skipped" in record else TRAINED)
        if (record["dataset"], record["method"]) != (path.parent.name, path.stem):
            raise InputError(f"{where}: a record of {record['dataset']}, {record['method']}; expected it in "
                             f"{path.parents[1] / record['dataset'] / record['method']}.jsonl")
        lengths = [str(bits) for bits in record["hash_lens"]]
        if "final" in record and not lengths == list(record["final"]) == list(record["history"]["map"]):
            raise InputError(f"{where}: final and history: expected those of hash_lens, {', '.join(lengths)}")
        for bits, values in record.get("history", {}).get("map", {}).items():
            if len(values) != len(record["history"]["epoch"]):
                raise InputError(f"{where}: history: {len(values)} values at {bits} bits, and "
                                 f"{len(record['history']['epoch'])} epochs; expected as many of both")
        if (first := seen.setdefault(repr(identity(record)), number)) != number:
            raise InputError(f"{where}: the same training as in line {first}; expected one record of each")
        records.append(record)
    return records


def read_measurement(path: str | Path) -> dict:
    """A measurement of speed or search. Raises InputError if the file is not one."""
    content = _parsed(str(path), read_text(Path(path), WRITTEN))
    _check(str(path), {key: content[key] for key in MEASURED if key in content} if isinstance(content, dict)
           else content, MEASURED)
    return content


def read_text(path: Path, expected: str) -> str:
    """The text of a file in UTF-8. Raises InputError, which says what was ``expected``, if it can't be read."""
    try:
        return input_files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error}); expected {expected}") \
            from None


def _parsed(where: str, text: str) -> object:
    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise InputError(f"{where}: the number {text}; expected finite numbers")
        return value

    def unique(pairs: list[tuple[str, object]]) -> dict:
        keys = [key for key, _ in pairs]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise InputError(f"{where}: {twice} stands there twice; expected each key once")
        return dict(pairs)

    try:
        found = json_text.parse(text, parse_float=number, parse_constant=number, object_pairs_hook=unique)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}); expected what benchmark.py --record writes") from None
    try:
        return json_text.unsealed(found)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _check(where: str, value: object, shape: object) -> None:
    """Raise InputError unless ``value`` has the ``shape``: a type, a pattern, a constant, a tuple of these of which one
    holds, a list of one shape, or a dict. A dict's keys are names, an optional one with a ``?`` at its end, or all
    are strings (``str``) or match a pattern.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        if not isinstance(key := next(iter(shape)), str):  # a type or a pattern
            for name, each in value.items():
                if isinstance(key, re.Pattern):
                    _check(f"{where}: the key {name}", name, key)
                _check(f"{where}: {name}", each, shape[key])
            return
        needed = {name for name in shape if not name.endswith("?")}
        for missing in sorted(needed - value.keys()):
            raise InputError(f"{where}: {missing} is missing")
        known = {name.rstrip("?"): each for name, each in shape.items()}
        for name, each in value.items():
            if name not in known:
                raise InputError(f"{where}: unknown key {name!r}; the keys are {', '.join(known)}")
            _check(f"{where}: {name}", each, known[name])
    elif isinstance(shape, list) and isinstance(value, list):
        for each in value:
            _check(where, each, shape[0])
    elif not any(_is(value, each) for each in (shape if isinstance(shape, tuple) else (shape,))):
        raise InputError(f"{where}: found {_shortened(value)}; expected {_described(shape)}")


def _is(value: object, shape: object) -> bool:
    if isinstance(shape, re.Pattern):
        return isinstance(value, str) and shape.fullmatch(value) is not None
    if shape is float:  # 1 is a number too, true is not
        return type(value) in (int, float)
    if isinstance(shape, type):
        return type(value) is shape
    return type(value) is type(shape) and value == shape


def _described(shape: object) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_described, shape))
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", _COMMIT: "40 hex digits",
             _SHA256: "64 hex digits", _DATE: "a date, such as 2026-11-27", _BITS: "a number of bits", None: "null"}
    if isinstance(shape, (dict, list)):
        return "an object" if isinstance(shape, dict) else "a list"
    return names.get(shape, str(shape))


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- code and machine ---------------------------------------------------------------------------------------------


def root_module(method: str) -> str:
    """The module whose imports decide what a training of ``method`` gives."""
    if method == OURS:
        return "ICMR"
    return METHODS[method].__module__ if method in METHODS else "benchmarks.baselines"


@functools.cache
def code_digest(module: str) -> str:
    """Changes with the code of ``module`` and of all that it imports from this project (:func:`code_files`)."""
    return digest(code_files(module))


@functools.cache
def code_files(module: str) -> dict[str, Path]:
    """The files of ``module`` and of all that it imports, directly or not, from the project, sorted by module name.

    What decides no figure of a record does not count (common/code_files.py).
    """
    return follow(module, in_project(module, ROOT), lambda name: in_project(name, ROOT))


@functools.cache  # as the digest is: a commit made while a study runs doesn't hold the code that runs
def committed(module: str) -> tuple[str | None, str]:
    """The commit that holds the code of ``module`` when it is first asked for, and ""; or None and why there is none.
    """
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = git("status", "--porcelain", "--ignored", "--", *map(str, code_files(module).values())).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None, "the code is not in a git repository with a commit, or git is not installed"
    if changed:
        return None, f"uncommitted changes in {', '.join(line[3:] for line in changed)}"
    return commit, ""


def require_committed(module: str) -> str:
    """The commit of :func:`committed`; raises InputError if there is none."""
    commit, reason = committed(module)
    if commit is None:
        raise InputError(f"--record: {reason}; a record names the commit of its code: commit first, then start anew")
    return commit
