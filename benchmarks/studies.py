"""Which trainings each study has."""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

from dataclasses import dataclass
from pathlib import Path

from benchmarks.baselines import ucmfh
from benchmarks.methods import METHODS
from common.errors import InputError

DEFAULT, OFF = "ours", "ours, progressive off"
PARTNERS = dict(structure_start=0.0, structure_end=0.0)  # targets that are partners only
STEADY = dict(structure_start=0.5, structure_end=0.5)  # half of each target to the neighbours, throughout
# UCMFH's heads, loss and settings, on the features alone
HEADS = dict(ucmfh.HEADS, use_progressive_hash=False, nested=False)
STUDIES: dict[str, dict[str, dict]] = {  # study: {label: settings that differ from the default}
    "methods": {OFF: {"use_progressive_hash": False}, DEFAULT: {}},
    "ablation": {
        "UCMFH's heads on the features": HEADS,
        "+ centred features": {**HEADS, "centre": True},
        "+ batch norm before the tanh": {**HEADS, "centre": True, "batch_norm": True},
        "+ hidden layer of 1024": {**HEADS, "centre": True, "batch_norm": True, "hidden": 1024},
        "+ progressive scale": {"temperature": 0.5, "noise": 0.0, **PARTNERS},
        "+ neighbours in the targets": {"temperature": 0.5, "noise": 0.0, **STEADY},
        "+ feature noise": {"temperature": 0.5, **STEADY},
        "+ temperatures from the pairs": STEADY,
        "+ mixing weight falling from 1 to 0: ours": {},
        "ours, progressive off": {"use_progressive_hash": False},
        "ours, no batch norm": {"batch_norm": False},
        "ours, no batch norm, progressive off": {"batch_norm": False, "use_progressive_hash": False},
        "ours, not centred": {"centre": False},
        "ours, partners only": PARTNERS,
        "ours, mixing weight 0.5 throughout, progressive off": {**STEADY, "use_progressive_hash": False},
        "ours, mixing weight from 0.8 to 0.2": {"structure_start": 0.8, "structure_end": 0.2},
        "ours, mixing weight from 0 to 1": {"structure_start": 0.0, "structure_end": 1.0},
        "ours, every length with bits of its own": {"nested": False},
        "ours, no noise": {"noise": 0.0},
        "ours, half the noise": {"noise": 0.5},
        "ours, temperature 0.3": {"temperature": 0.3},
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
    "constants": {  # each at half and at double its default
        DEFAULT: {},
        **{f"{name} {value:g}": {name: type(default)(value)}
           for name in ("noise", "hidden", "batch_size", "lr") for default in [getattr(ICMR.Config(), name)]
           for value in (default / 2, default * 2)},
        "mixing weight from 0.5 to 0": {"structure_start": 0.5},
    },
    "epochs": {f"{epochs} epochs{name}": {"epoch": epochs, **settings} for epochs in (30, 60, 100, 200)
               for name, settings in (("", {}), (", progressive off", {"use_progressive_hash": False}))},
}


@dataclass(frozen=True)
class Job:
    """One training: a method on a data set with a seed; ours for all code lengths at once, others for one."""

    dataset: str  # name or path
    label: str  # its row in the tables; of another method its name
    seed: int
    bits: int | None  # None for ours
    config: dict  # of ICMR, with this job's settings
    folder: str  # of its results
    own: str = ""  # the pinned name of the class (common/own_code.py) of a method of one's own


def jobs_of(study: str, path: str, settings: dict, seeds: int, folder: Path,
            wanted: list[str] | None = None, own: dict[str, str] | None = None) -> list[Job]:
    """The trainings of a study on a data set, those whose settings are the same in two studies only once.

    Args:
        path: the data set's name or path, as ICMR.py takes it.
        settings: of all trainings, ``hash_lens`` among them; what a label changes comes on top.
        seeds: how many, 0 the first.
        folder: holds a folder for each training.
        wanted: only these labels, and the methods of one's own.
        own: pinned names of classes by label: methods of one's own, of the study ``methods``.
    """
    jobs, own = [], own or {}
    for seed in range(seeds):
        chosen = dict(settings, seed=seed)
        if study == "methods":
            jobs += [Job(path, name, seed, bits, chosen, str(folder / f"{name}-{bits}-seed{seed}"), own.get(name, ""))
                     for name in (*METHODS, *own) for bits in settings["hash_lens"]]
        for label, changes in STUDIES[study].items():
            named = {key: (chosen | changes)[key] for key in {"epoch", "eval_every", *changes}}
            slug = "-".join(f"{key}={value}" for key, value in sorted(named.items())
                            if value != getattr(ICMR.Config(), key)) or "default"
            jobs.append(Job(path, label, seed, None, chosen | changes, str(folder / f"{slug}-seed{seed}")))
    labels = list(dict.fromkeys(job.label for job in jobs))
    if unknown := sorted(set(wanted or ()) - set(labels)):
        raise InputError(f"--methods {', '.join(unknown)}: expected some of {', '.join(labels)}")
    return [job for job in jobs if job.label in (wanted or labels) or job.own]
