"""The Markdown of a benchmark: means and standard deviations over seeds, and what progressive hashing changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks import promises
from benchmarks.exports import mark_best
from benchmarks.promises import DIRECTIONS, in_points, standard_error

Found = dict[str, dict[str, list[dict]]]  # results by method and code length, one a seed (trainings.gather)


def markdown(study: str, dataset: str, command: str, sizes: dict[str, int], found: Found, skipped: dict[str, str],
             default: str, off: str) -> str:
    """The whole report of a study on one data set; ``default`` and ``off`` are the labels that are compared."""
    lengths = list(dict.fromkeys(bits for results in found.values() for bits in results))
    seeds = sorted({len(entries) for results in found.values() for entries in results.values()})
    lines = [f"# {dataset}: {study}", "", f"`{command}`", "",
             f"{sizes['train']:,} training pairs, {sizes['query']:,} queries, {sizes['retrieval']:,} items; "
             f"{' or '.join(map(str, seeds))} seeds. mAP in points, tie-aware, last epoch; mean ± s.d. The best is in "
             "bold, the second best underlined.", "",
             "## Unpaired, mean of I2T and T2I", "", *overview(found, lengths, "unpaired"), "",
             "## Paired (UCMFH's protocol: each side has seen both modalities)", "",
             *overview(found, lengths, "paired"), "",
             "## Within Hamming radius 2, and NDCG, unpaired, mean of I2T and T2I", "", *beside(found, lengths), "",
             "## Within a modality, unpaired", "", *of_one_modality(found, lengths), ""]
    if default in found and off in found:
        lines += ["## Progressive on against off", "", *effects(found[default], found[off]), ""]
    if any("partners" in entry for results in found.values() for entries in results.values() for entry in entries):
        lines += ["## The own partner among the queries, unpaired, mean of I2T and T2I", "",
                  *recalls(found, lengths), ""]
    lines += ["## In full", "", *details(found, lengths), ""]
    if skipped:
        lines += ["Not trained:", "", *(f"- {what}: {why}" for what, why in skipped.items()), ""]
    return "\n".join(lines)


def overview(found: Found, lengths: list[str], protocol: str) -> list[str]:
    """A row a method: mAP@all and mAP@50 at each code length, mean of both directions."""
    cells = []
    for label, results in found.items():
        if any(protocol in entry for entries in results.values() for entry in entries):
            cells.append([label, *(spread([in_points(entry, protocol, cut) for entry in results.get(bits, [])])
                                   for cut in ("map", "map@50") for bits in lengths)])
    return compared(("@all", "@50"), lengths, cells)


def beside(found: Found, lengths: list[str]) -> list[str]:
    """A row a method: mAP within Hamming radius 2 and NDCG, mean of I2T and T2I."""
    cuts = {"map@radius2": "mAP, radius 2", "ndcg@50": "NDCG@50", "ndcg@1000": "NDCG@1000"}
    cells = [[label, *(spread([in_points(entry, "unpaired", cut) for entry in results.get(bits, [])])
                       for cut in cuts for bits in lengths)] for label, results in found.items()]
    return compared(tuple(cuts.values()), lengths, cells)


def of_one_modality(found: Found, lengths: list[str]) -> list[str]:
    """A row a method: mAP@all where queries and items are both images, or both texts."""
    cells = [[label, *(spread([100 * entry["unpaired"][direction]["map"] for entry in results.get(bits, [])])
                       for direction in ("i2i", "t2t") for bits in lengths)] for label, results in found.items()]
    return compared(("I2I @all", "T2T @all"), lengths, cells)


def compared(figures: Sequence[str], lengths: list[str], cells: list[list[str]]) -> list[str]:
    """A table with each figure at each code length, the best and the second best marked."""
    names = [f"{figure} {bits}" if bits == lengths[0] else bits for figure in figures for bits in lengths]
    return table(["", *names], mark_best(cells))


def recalls(found: Found, lengths: list[str]) -> list[str]:
    """A row a method: R@1 and R@10 of the own partner at each code length, mean of both directions, in percent."""
    cells = []
    for label, results in found.items():
        entries = [results.get(bits, []) for bits in lengths]
        cells.append([label, *(spread([in_points(entry, "partners", cut) for entry in each]
                                      if all("partners" in entry for entry in each) else [])
                               for cut in ("recall@1", "recall@10") for each in entries)])
    return compared(("R@1", "R@10"), lengths, cells)


def details(found: Found, lengths: list[str]) -> list[str]:
    """A row a method and code length: every figure."""
    header = ["", "bits", "I2T @all", "T2I @all", "I2T @50", "T2I @50", "paired I2T @all", "T2I @all", "I2T @50",
              "T2I @50", "quantization error", "training s"]
    rows = []
    for label, results in found.items():
        for bits in lengths:
            entries = results.get(bits, [])
            if not entries:
                continue
            cells = [spread([100 * entry[protocol][direction][cut] for entry in entries if protocol in entry])
                     for protocol in ("unpaired", "paired") for cut in ("map", "map@50") for direction in DIRECTIONS]
            errors = [entry["quantization_error"] for entry in entries if "quantization_error" in entry]
            rows.append([label, bits, *cells, spread(errors, 4), spread([entry["seconds"] for entry in entries])])
    return [*table(header, rows), "",
            "Our training seconds are those of all code lengths together, which are trained in one run."]


def effects(on: dict[str, list[dict]], off: dict[str, list[dict]]) -> list[str]:
    """What the progressive scale changes, seed by seed: gains with standard errors, and the training itself."""
    lengths = [bits for bits in on if bits in off]
    seeds = set.intersection(*({entry["seed"] for entry in side[bits]} for side in (on, off) for bits in lengths))
    if not seeds:
        return ["No seed was trained both with the scale and without it."]
    on, off = ({bits: sorted((entry for entry in side[bits] if entry["seed"] in seeds), key=lambda entry: entry["seed"])
                for bits in lengths} for side in (on, off))
    rows = []
    measured = [(protocol, cut, f"mAP@{cut.removeprefix('map@').replace('map', 'all')}, {protocol}")
                for protocol in ("unpaired", "paired") for cut in ("map", "map@50")]
    if all("partners" in entry for bits in lengths for entry in on[bits] + off[bits]):
        measured += [("partners", cut, f"{cut.replace('recall', 'R')} of the partner")
                     for cut in ("recall@1", "recall@10")]
    for protocol, cut, name in measured:
        gains = np.array([[in_points(a, protocol, cut) - in_points(b, protocol, cut)
                           for a, b in zip(on[bits], off[bits])] for bits in lengths])
        rows.append([name, *map(gain, gains), gain(gains.mean(axis=0))])
    errors = [np.mean([entry["quantization_error"] for entry in on[bits]]) /
              np.mean([entry["quantization_error"] for entry in off[bits]]) for bits in lengths]
    rows.append(["quantization error, ratio", *(f"{error:.3f}" for error in [*errors, np.mean(errors)])])
    return [*table(["", *(f"{bits} bits" for bits in lengths), "mean"], rows), "",
            "Points gained, mean ± standard error over seeds (the same seed on and off).", "",
            *promised([trainings(side, lengths) for side in (on, off)])]


def promised(sides: list[list[promises.Training]]) -> list[str]:
    """The guide's promises beside what was measured, all code lengths together; ``sides`` are on and off, seed by seed.
    """
    rows = []
    for row in promises.compare(*sides):
        figures = "–" if row["change"] is None else f"{row['change']:+.1f}"
        if row["standard_error"] is not None:
            figures += f" ± {row['standard_error']:.1f}"
        before, after = ("–" if row[side] is None else f"{row[side]:.4g}" for side in ("original", "progressive"))
        rows.append([row["label"], row["promised"], row["verdict"], before, after, f"{figures} {row['unit']}"])
    return [*table(["all code lengths", "promised", "verdict", "off", "on", "change"], rows, words=3), "",
            "Change ± standard error over seeds, judged by its 95 % confidence interval. Roughness: the mean absolute "
            "second difference in the second half of the training, of the loss in % of its level there."]


def trainings(results: dict[str, list[dict]], lengths: list[str]) -> list[promises.Training]:
    """One training a seed, as the promises are measured."""
    found = []
    for entries in zip(*(results[bits] for bits in lengths)):
        by_length = dict(zip(lengths, entries))
        history = [{"epoch": tests[0]["epoch"], **dict(zip(lengths, tests))}
                   for tests in zip(*(entry["history"] for entry in entries))]
        found.append(promises.of_metrics({"final": by_length, "history": history, "epochs": entries[0]["epochs"]}))
    return found


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A Markdown table whose first ``words`` columns hold words, the others numbers."""
    align = ["---" if column < words else "---:" for column in range(len(header))]
    return [f"| {' | '.join(cells)} |" for cells in (header, align, *rows)]


def spread(values: list[float], places: int = 1) -> str:
    """Mean ± standard deviation (n - 1)."""
    if not values:
        return ""
    return f"{np.mean(values):.{places}f}" + (f" ± {np.std(values, ddof=1):.{places}f}" if len(values) > 1 else "")


def gain(values: np.ndarray) -> str:
    """Mean ± standard error."""
    error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.2f}{error}"
