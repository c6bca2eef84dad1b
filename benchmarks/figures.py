"""The figures of a study."""

from __future__ import annotations

from pathlib import Path

from benchmarks.studies import DEFAULT, OFF
from reporting import plots
from reporting.styles import line_styles


def draw(found: dict[str, dict[str, list[dict]]], folder: Path, study: str) -> list[Path]:
    """The figures of a study: mAP against bits and epochs, precision-recall and precision@N, unpaired; each
    method in the same style whatever is beside it.
    """
    found = {label: found[label] for label in sorted(found, key=lambda label: (label != DEFAULT, label != OFF))}
    trained = {int(bits) for lengths in found.values() for bits in lengths}
    shown = max((bits for bits in trained if bits <= 64), default=min(trained))
    at = {label: lengths.get(str(shown), []) for label, lengths in found.items()}
    at = {label: entries for label, entries in at.items() if entries}

    styles = line_styles(found)  # of all, so that a method of one's own looks the same where another one is missing

    def panels(x, y, entries=at) -> dict:
        return {title: {label: {"x": x(runs[0], direction), "y": [y(entry, direction) for entry in runs],
                                "style": styles[label]}
                        for label, runs in entries.items()} for direction, title in plots.DIRECTIONS.items()}

    written = []
    for cut in ("map", "map@50"):
        series = {title: {label: {
            "x": [int(bits) for bits in lengths],
            "y": [[runs[seed]["unpaired"][direction][cut] for runs in lengths.values()]
                  for seed in range(min(map(len, lengths.values())))],
            "style": styles[label]}
            for label, lengths in found.items()} for direction, title in plots.DIRECTIONS.items()}
        written += plots.save(plots.map_against_bits(series, "mAP@all" if cut == "map" else "mAP@50"),
                              folder / f"{study}_{cut.replace('@', '')}_bits")
    if at:
        curve = lambda name: lambda entry, direction: entry["curves"]["unpaired"][direction][name]
        written += plots.save(plots.precision_recall(panels(curve("recall"), curve("precision"))),
                              folder / f"{study}_precision_recall")
        written += plots.save(plots.precision_at_n(panels(curve("n"), curve("precision_at_n"))),
                              folder / f"{study}_precision_at_n")
        written += plots.save(plots.map_against_epoch(panels(
            lambda entry, direction: [each["epoch"] for each in entry["history"]],
            lambda entry, direction: [each["unpaired"][direction]["map"] for each in entry["history"]],
            {label: runs for label, runs in at.items() if len(runs[0]["history"]) > 1} or at)),
            folder / f"{study}_map_epoch")
    return written
