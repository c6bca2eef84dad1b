"""RESULTS.md: every recorded figure, and how to make each again."""

from __future__ import annotations

import shlex

import numpy as np

from benchmarks import studies
from benchmarks.blocks import (alone, anchor, command, footnote, gain, label, listed, of, of_seeds, search_speed,
                               seeds_of, speed)
from benchmarks.datasets import RECIPES, SELECTION, UNSEEN
from benchmarks.evidence import OFF, ON, Data, Evidence, Row
from benchmarks.exports import mark_best
from benchmarks.methods import METHODS
from benchmarks.overall import NEAR_CHANCE, against, at_chance, by_label_set, scale_on_all
from benchmarks.promises import in_points
from benchmarks.tables import spread, table


def results(evidence: Evidence) -> list[str]:
    """The whole of RESULTS.md."""
    halves = [(f"The bench: {half}", [*against(half, evidence), "", *by_label_set(half, evidence)])
              for half in (UNSEEN, SELECTION)]
    sections = halves + [("The bench: the scale on against off", scale_on_all(evidence))]
    sections += [(data.title, of_dataset(data, evidence)) for data in evidence.datasets]
    sections += [("The other methods", other_methods(evidence))]
    sections += [("Speed of training and evaluation", speed(evidence)), ("Speed of search", search_speed(evidence))]
    lines = ["# Results", "",
             "Made by `python benchmark.py tables` from the records in [docs/results](docs/results), one training a "
             "line, and never edited by hand. `python benchmark.py check` trains some of them again and "
             "compares, and each command below trains what is in its table again, with as many seeds of every method "
             "as the one with the most has.", "",
             "mAP is in points, over all queries and all items, after the last epoch; an item is relevant if it shares "
             "a label with the query, and ties are averaged exactly. Each figure is the mean of image-to-text and "
             "text-to-image retrieval, given as mean ± standard deviation over seeds; the best in each column is in "
             "bold, the second best underlined. *Unpaired*: a query is one "
             "modality and an item the other, each encoded alone. *Paired*: each side has seen both modalities of its "
             "pair, as in UCMFH.", "",
             *(f"- [{title}](#{anchor(title)})" for title, _ in sections)]
    if not evidence.datasets:
        lines += ["", "No training is recorded yet; `python benchmark.py --record` makes records."]
    for title, section in sections:
        lines += ["", f"## {title}", "", *section]
    return lines


def other_methods(evidence: Evidence) -> list[str]:
    """What each of the other methods is, from which paper, how long it trains, and where it learned next to nothing."""
    cells = [[name, method.__doc__.split("\n\n")[0].partition(": ")[2].replace("\n", " ").strip().rstrip("."),
              method.reference, *(str(getattr(method, setting, None) or "") for setting in ("epochs", "batch_size"))]
             for name, method in METHODS.items()]
    scaled = listed([name for name, method in METHODS.items() if not method.unit])
    return ["Written from their papers and, where a paper leaves something open, from the facts in the authors' code, "
            "with the settings published for MIRFlickr-25K ([benchmarks/baselines](benchmarks/baselines)). All train "
            "on the same features without labels, one code length a training, and give the codes of their last epoch. "
            "UCMFH was made for items with both modalities; unpaired, it is given one, and the other is missing. "
            f"{scaled} see each modality's features multiplied by one number, which brings their mean length to the "
            "root of the smaller of both dimensions; all others see every item's features at length 1.", "",
            *table(["", "", "paper", "epochs", "pairs a batch"], cells, 3), *learned_nothing(evidence)]


def learned_nothing(evidence: Evidence) -> list[str]:
    """The sentence that says which methods learned next to nothing, and where."""
    found = at_chance(evidence)
    if not found:
        return []
    return ["", "Queries find the own partner hardly more often than in a random order (mean R@10 below "
                f"{NEAR_CHANCE:g} times that), so that a method has learned next to nothing: "
                + "; ".join(f"{alone(method)}: {listed([data.title for data in found[method]])}" for method in found)
                + "."]


def of_dataset(data: Data, evidence: Evidence) -> list[str]:
    """The section of one data set."""
    sizes, fingerprint = data.records[0]["sizes"], data.records[0]["fingerprint"]
    recipe = RECIPES.get(data.name)
    source = "It doesn't come with the code." if recipe is None else (
        f"{recipe.about[0].upper()}{recipe.about[1:]}. Of the half *{recipe.half}*; " +
        ("it comes with the code." if recipe.make is None else f"`python benchmark.py data {data.name}` makes it."))
    lines = [f"{source} It has {sizes['train']:,} training pairs, {sizes['query']:,} queries and "
             f"{sizes['retrieval']:,} items; its fingerprint, which `python load_data.py {data.name}` prints, begins "
             f"with `{fingerprint[:8]}`."]
    main = [row for row in data.rows if not row.ours or row.settings in (ON, OFF)]
    other = [row for row in data.rows if row not in main]
    if main:
        names = [row.method if not row.ours else studies.OFF if row.settings == OFF else studies.DEFAULT for row in main]
        made = command("methods", [data], [seed for row in main for seed in row.by_seed])
        if set(names) != {*METHODS, *studies.STUDIES["methods"]}:
            made = f"{made} --methods {shlex.join(names)}"
        made = [f"`{made}`:", ""]
        lines += ["", "### Unpaired", "", *made, *by_length(main, data, evidence, "unpaired", "map", "map@50")]
        if data.finer:
            finer = [row for row in data.finer.rows if not row.ours or row.settings in (ON, OFF)]
            lines += ["", f"### Unpaired, by {data.finer.column}", "", "The same trainings, tested with the finer "
                      "labels.", "", *by_length(finer, data.finer, evidence, "unpaired", "map", "map@50")]
        if any("paired" in each for row in main for each in row.figures(data.lengths[0])):
            lines += ["", "### Paired", "", *made, *by_length(main, data, evidence, "paired", "map", "map@50")]
        lines += ["", "### Recall of the own partner", "",
                  "How often a query finds the other half of its own pair among the first one or ten of all queries' "
                  "halves, in percent; unpaired, no labels needed.", "",
                  *by_length(main, data, evidence, "partners", "recall@1", "recall@10")]
        lines += ["", "### Quantization error and training seconds", "", *costs(main, data, evidence)]
    if data.compared:
        lines += ["", "### What the scale changes", "", *changes(data, evidence)]
    if other:
        lines += ["", "### Other settings of ours, unpaired", "",
                  "From the studies `scale`, `epochs`, `constants` and `ablation` of benchmark.py. Each row names the "
                  "settings that differ from the default.", "", *by_length(other, data, evidence, "unpaired", "map", "map@50")]
    if left_out := sum("final" in record for record in data.records) - sum(len(row.records) for row in data.rows):
        lines += ["", f"Not in these tables: {left_out} trainings of ours with other code lengths."]
    skipped = {f"{record['method']}{', {} bits'.format(record['bits']) if record['bits'] else ''}": record["skipped"]
               for record in data.records if "skipped" in record}
    if skipped:
        lines += ["", "### Not trained", "", *(f"- {what}: {why}" for what, why in skipped.items())]
    return [*lines, "", "### Where the records are from", "", *origins(data, evidence)]


def by_length(rows: list[Row], data: Data, evidence: Evidence, protocol: str, *cuts: str) -> list[str]:
    """A row a method: figures at each code length, the best in bold and the second best underlined."""
    names = {"map": "@all", "map@50": "@50", "recall@1": "R@1", "recall@10": "R@10"}
    header = ["", "seeds", *(f"{names[cut]} {bits}" if bits == data.lengths[0] else bits
                             for cut in cuts for bits in data.lengths)]
    cells = []
    for row in rows:
        found = [[in_points(each, protocol, cut) for each in row.figures(bits) if protocol in each]
                 for cut in cuts for bits in data.lengths]
        if any(found):
            name = row.method if protocol == "paired" and not row.ours else label(row)
            cells.append([name + evidence.mark([row]), seeds_of(row, data.lengths), *map(spread, found)])
    return [*table(header, mark_best(cells, words=2)), *footnote(cells)]


def costs(rows: list[Row], data: Data, evidence: Evidence) -> list[str]:
    """The quantization error at each code length, and the seconds of the trainings of all lengths: of the fastest seed,
    as other programs on the machine may have slowed the others.
    """
    cells = []
    for row in rows:
        errors = [[each["quantization_error"] for each in row.figures(bits) if "quantization_error" in each]
                  for bits in data.lengths]
        seconds: dict[int, float] = {}
        for record in row.records:
            seconds[record["seed"]] = seconds.get(record["seed"], 0.0) + record["seconds"]
        whole = [seconds[seed] for seed, lengths in row.by_seed.items() if set(data.lengths) <= set(lengths)]
        cells.append([label(row) + evidence.mark([row]),
                      *(f"{np.mean(values):.3f}" if values else "" for values in errors),
                      f"{min(whole):,.{0 if min(whole) >= 10 else 1}f}" if whole else ""])
    return [*table(["", *(f"{bits} bits" for bits in data.lengths), "seconds, all lengths"], cells), "",
            "The quantization error is the mean of (abs(code) - 1)² over bits and items. Ours trains all lengths in "
            "one run; of the other methods the seconds are the sum of a run for each length. They are of the fastest "
            "seed: of ours by the wall clock, of the others, which train in one thread, by the processor's; other "
            "programs on the machine slow ours alone.", *footnote(cells)]


def changes(data: Data, evidence: Evidence) -> list[str]:
    """What the scale gains at each code length, seed by seed."""
    on, off, seeds = data.compared
    cells = []
    for protocol, cut, name in (("unpaired", "map", "mAP@all, unpaired"), ("unpaired", "map@50", "mAP@50, unpaired"),
                                ("paired", "map", "mAP@all, paired"), ("paired", "map@50", "mAP@50, paired"),
                                ("partners", "recall@1", "R@1 of the own partner"),
                                ("partners", "recall@10", "R@10 of the own partner")):
        if all(protocol in row.by_seed[seed][bits] for row in (on, off) for seed in seeds for bits in data.lengths):
            by_bits = np.array([[in_points(on.by_seed[seed][bits], protocol, cut)
                                 - in_points(off.by_seed[seed][bits], protocol, cut) for seed in seeds]
                                for bits in data.lengths])
            cells.append([name, *map(gain, by_bits), gain(by_bits.mean(axis=0))])
    mark = evidence.mark((on, off))
    return [f"Points gained with the scale against without it, mean ± standard error over {of_seeds([len(seeds)])}, "
            f"the same seed on and off{mark}.", "",
            *table(["on - off", *(f"{bits} bits" for bits in data.lengths), "mean"], cells), *footnote([[mark]])]


def origins(data: Data, evidence: Evidence) -> list[str]:
    """Commits, versions and machines of the records."""
    found: dict[tuple[str, ...], int] = {}
    for record in data.records:
        machine, versions = record["machine"], record["versions"]
        other = " †" if record["code"] != evidence.current(record["method"]) else ""
        key = (f"`{record['commit'][:7]}`{other}",
               ", ".join(f"{name} {version}" for name, version in versions.items()),
               f"{machine['gpu'] or machine['cpu']}, {of('thread', machine['threads'])}")
        found[key] = found.get(key, 0) + 1
    cells = [[f"{count}", *key] for key, count in found.items()]
    return [*table(["trainings", "commit", "versions", "machine"], cells, 4), *footnote(cells)]
