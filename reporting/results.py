"""The results of a run: what metrics.json holds, and what is printed and written at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import evaluation
from common import json_text
from common.atomic_files import write_atomically
from common.console import say
from load_data import SPLITS, Dataset
from model import FusionModel, HashModel
from reporting import last_figures
from reporting.curves import model_curves
from reporting.gallery import sample_retrievals
from reporting.terminal import table, terminal_lines
from training.run_state import RunState


def collect(data: Dataset, run: RunState, models: Sequence[tuple[HashModel | FusionModel, float]], **about) -> dict:
    """What metrics.json holds, and under ``average_precision`` what goes into the file of that name beside it.

    Args:
        run: the log and the evaluations, of which the last is ``final``, with the figures of reporting/last_figures.py.
        models: the models of the run, each with the scale of its codes; one, or one a code length.
        about: further entries, such as the settings and the environment.
    """
    final = {key: value for key, value in run.history[-1].items() if key != "epoch"}
    more = details(data, models)
    last = more.pop("figures")
    final = {kind: last_figures.merge(figures, last[kind]) for kind, figures in final.items()}
    sizes = {name: len(getattr(data, name)) for name in SPLITS}
    if data.query.texts is not None:  # images have several
        sizes |= {f"{name}_texts": len(getattr(data, name).text) for name in ("query", "retrieval")}
    return {"dataset": data.name, **about, "fingerprint": data.fingerprint, "sizes": sizes,
            "seconds": {"training": run.seconds}, "epochs": run.log, "history": run.history, "final": final, **more}


def details(data: Dataset, models: Sequence[tuple[HashModel | FusionModel, float]]) -> dict:
    """The ``curves`` of each code length, a ``gallery`` of retrievals with the longest codes, the ``average_precision``
    of each query, and the last ``figures`` by code length or, of real-valued outputs, under ``real``.
    """
    curves: dict[str, dict] = {}
    last: dict[str, dict] = {}
    precision: dict[str, np.ndarray] = {}
    longest, sides, hashing = 0, [], False
    for model, scale in models:
        hashing = isinstance(model, HashModel)
        if not hashing:
            sides = [side for split in (data.query, data.retrieval) for side in evaluation.embeddings(model, split)]
            last["real"], precision = last_figures.of_embeddings(data, sides[:2], sides[2:])
            continue
        found, codes = model_curves(model, data, scale)
        curves |= found
        for by_length in zip(*(model.split(side).items() for side in codes)):
            bits, each = by_length[0][0], [code.numpy() for _, code in by_length]
            last[str(bits)], more = last_figures.of_codes(data, each[:2], each[2:], bits)
            precision |= more
            if bits > longest:
                longest, sides = bits, each
    return {"curves": curves, "gallery": sample_retrievals(data, *sides, hashing=hashing),
            "average_precision": precision, "figures": last}


def publish(data: Dataset, results: dict, folder: Path) -> dict:
    """Print the table of the last evaluation; write ``metrics.json``, whose path is the last line printed, and
    ``average_precision.npz`` and ``report.html`` beside it. Returns what metrics.json holds.

    Raises:
        InputError: the folder refuses them.
    """
    from reporting.page import write_report  # here: matplotlib takes a second to load

    path = folder / "metrics.json"
    results = dict(results)
    last_figures.write(folder / last_figures.FILE, data, results.pop("average_precision"))
    write_atomically(path, lambda file: json.dump(json_text.sealed(results), file, indent=1), "w")
    write_report(folder / "report.html", results)
    for line in table(results):
        say(line, final=True)
    for line in terminal_lines(results["gallery"]):
        say(line)
    say("Written, with the figures and sample retrievals as report.html beside it:")
    say(str(path), final=True)
    return results
