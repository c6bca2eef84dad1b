"""Rows of earlier runs of a study: what a benchmark of fewer methods leaves as it is in the tables.

The JSON of a study says which rows were written. Their figures come from the trainings themselves, and only if these
are of the present settings, data and code. Of a method of one's own the code is read for that and not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import trainings
from benchmarks.studies import Job
from common import json_text, own_code
from common.errors import InputError


@dataclass(frozen=True)
class Rows:
    """Trainings with their results that stay in the tables, and why other rows can't, by label.

    ``order`` holds the folders of all trainings of the study, in its order.
    """

    kept: list[tuple[Job, dict]]
    left_out: dict[str, str]
    order: list[str]

    def among(self, trained: list[tuple[Job, dict]]) -> list[tuple[Job, dict]]:
        """The rows that stay and those just trained, in the order of the study."""
        return sorted([*trained, *self.kept], key=lambda pair: self.order.index(pair[0].folder))

    def notes(self) -> str:
        """What the tables say of these rows."""
        lines = []
        if self.kept:
            labels = dict.fromkeys(job.label for job, _ in self.kept)
            lines += ["", f"From earlier runs, of the same settings, data and code: {'; '.join(labels)}."]
        if self.left_out:
            reasons = "; ".join(f"{label} ({reason})" for label, reason in self.left_out.items())
            lines += ["", f"Left out, though an earlier run had them: {reasons}. Name them too, or leave out "
                      "--methods, to train them again."]
        return "\n".join([*lines, ""]) if lines else ""


def rows(path: Path, jobs_with: Callable[..., list[Job]], asked: list[Job], fingerprint: str) -> Rows:
    """The rows in the JSON file ``path`` of a study beside those of the trainings ``asked`` for.

    Args:
        jobs_with: gives all trainings of the study with the present settings, for ``seeds`` and ``own`` methods.
        fingerprint: of the data.
    """
    content, labels = _content(path), {job.label for job in asked}
    before = {label: seeds for label, seeds in _seeds(content).items() if label not in labels}
    own = _own(content) | {job.label: job.own for job in asked if job.own}
    last = max([job.seed for job in asked] + [seed for seeds in before.values() for seed in seeds])
    possible = jobs_with(seeds=last + 1, own=own)
    kept: list[tuple[Job, dict]] = []
    left_out: dict[str, str] = {}
    for label, seeds in before.items():
        jobs = [job for job in possible if job.label == label and job.seed in seeds]
        found = [trainings.finished_job(job, fingerprint) for job in jobs]
        reasons = [reason or "not trained with these settings" for result, reason in found if result is None]
        if reasons or not jobs:
            left_out[label] = reasons[0] if reasons else "its code is not there"
        else:
            kept += [(job, result) for job, (result, _) in zip(jobs, found)]
    return Rows(kept, left_out, [job.folder for job in possible])


def _content(path: Path) -> dict:
    """What the JSON of a study holds; {} if there is none or it is damaged."""
    try:
        content = json_text.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _seeds(content: dict) -> dict[str, set[int]]:
    """The labels of the rows in the JSON of a study, and their seeds: the first of those that could not be trained."""
    found: dict[str, set[int]] = {}
    try:
        for label, lengths in content.get("methods", {}).items():
            found[label] = {int(entry["seed"]) for entries in lengths.values() for entry in entries}
        for what in content.get("skipped", {}):
            found.setdefault(re.sub(r", \d+ bits$", "", what), {0})
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return found


def _own(content: dict) -> dict[str, str]:
    """The methods of one's own in the JSON of a study by label, pinned to their code as it is now; without those whose
    code is not there.
    """
    found = {}
    own = content.get("own")
    for label, name in own.items() if isinstance(own, dict) else ():
        try:
            found[label] = own_code.pinned(own_code.unpinned(name))
        except (InputError, TypeError):
            pass
    return found
