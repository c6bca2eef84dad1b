"""The results of a run: what metrics.json holds, and what is printed and written at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import evaluation
from common.atomic_files import write_atomically
from common.console import say
from load_data import SPLITS, Dataset
from model import FusionModel, HashModel
from reporting.curves import model_curves
from reporting.gallery import sample_retrievals
from reporting.terminal import table, terminal_lines
from training.run_state import RunState


def collect(data: Dataset, run: RunState, models: Sequence[tuple[HashModel | FusionModel, float]], **about) -> dict:
    """What metrics.json holds.

    Args:
        run: the log and the evaluations, of which the last is ``final``.
        models: the models of the run, each with the scale of its codes; one, or one a code length.
        about: further entries, such as the settings and the environment.
    """
    final = {key: value for key, value in run.history[-1].items() if key != "epoch"}
    return {"dataset": data.name, **about, "fingerprint": data.fingerprint,
            "sizes": {name: len(getattr(data, name)) for name in SPLITS}, "seconds": {"training": run.seconds},
            "epochs": run.log, "history": run.history, "final": final, **details(data, models)}


def details(data: Dataset, models: Sequence[tuple[HashModel | FusionModel, float]]) -> dict:
    """For the report: the ``curves`` of each code length, and a ``gallery`` of retrievals with the longest codes."""
    curves: dict[str, dict] = {}
    longest, sides, hashing = 0, [], False
    for model, scale in models:
        hashing = isinstance(model, HashModel)
        if not hashing:
            sides = [side for split in (data.query, data.retrieval) for side in evaluation.embeddings(model, split)]
            continue
        found, codes = model_curves(model, data, scale)
        curves |= found
        if max(model.hash_lens) > longest:
            longest, sides = max(model.hash_lens), codes
    return {"curves": curves, "gallery": sample_retrievals(data, *sides, hashing=hashing)}


def publish(results: dict, folder: Path) -> None:
    """Print the table of the last evaluation; write ``metrics.json``, whose path is the last line printed, and
    ``report.html`` beside it. Raises :class:`InputError` if the folder refuses them.
    """
    from reporting.page import write_report  # here: matplotlib takes a second to load

    path = folder / "metrics.json"
    write_atomically(path, lambda file: json.dump(results, file, indent=1), "w")
    write_report(folder / "report.html", results)
    for line in table(results):
        say(line, final=True)
    for line in terminal_lines(results["gallery"]):
        say(line)
    say("Written, with the figures and sample retrievals as report.html beside it:")
    say(str(path), final=True)
