"""The blocks about the whole bench: ours against every other method, with the scale and without, and with other settings.

A label set is a data set with its labels, or with its finer ones: the same trainings tested twice. Every figure is a
mean over label sets, code lengths, seeds and both directions, unpaired, after the last epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import ICMR
from benchmarks.methods import METHODS
from benchmarks.blocks import NOTHING, NOTHING_ZH, RESULTS, alone, command, footnote, label, listed, of_seeds, span
from benchmarks.datasets import BROAD_CLASSES, RECIPES, SELECTION, UNSEEN
from benchmarks.evidence import OFF, ON, Data, Evidence, Pair, Row
from benchmarks.promises import in_points
from benchmarks.studies import STUDIES
from benchmarks.tables import table

CUTS = {"map": "@all", "map@50": "@50"}
SEPARATE = {"nested": False}
NEAR_CHANCE = 1.5  # times the R@10 of a random order


def score(row: Row | None, bits: str, cut: str, protocol: str = "unpaired") -> float | None:
    """In points, the mean over seeds and both directions; None where it isn't recorded."""
    found = [in_points(each, protocol, cut) for each in (row.figures(bits) if row else []) if protocol in each]
    return float(np.mean(found)) if found else None


def differences(sets: list[Data], other: Callable[[Data, str, str], float | None], cut: str) -> dict[str, list[float]]:
    """Ours minus the other, in points, by the title of the label set: one value a code length that both have."""
    found: dict[str, list[float]] = {}
    for data in sets:
        for bits in data.lengths:
            ours, theirs = score(data.row(ON), bits, cut), other(data, bits, cut)
            if ours is not None and theirs is not None:
                found.setdefault(data.title, []).append(ours - theirs)
    return found


def at_chance(evidence: Evidence) -> dict[str, list[Data]]:
    """By method the data sets on which it learned next to nothing: its queries find their own partner hardly more often
    than in a random order, the mean of all lengths, seeds and both directions.
    """
    found: dict[str, list[Data]] = {}
    for data in evidence.datasets:
        for row in data.others:
            recalls = [in_points(each, "partners", "recall@10") for bits in data.lengths for each in row.figures(bits)
                       if "partners" in each]
            if recalls and np.mean(recalls) < NEAR_CHANCE * 100 * 10 / data.records[0]["sizes"]["query"]:
                found.setdefault(row.method, []).append(data)
    return found


def of_method(method: str, left_out: Sequence[Data] = (), protocol: str = "unpaired",
              ) -> Callable[[Data, str, str], float | None]:
    """The score of another method; None on the data sets, or the finer labels of those, that are ``left_out``."""
    names = {data.name for data in left_out}
    return lambda data, bits, cut: None if data.name in names else score(
        next((row for row in data.others if row.method == method), None), bits, cut, protocol)


def best_row(data: Data, bits: str, cut: str) -> Row | None:
    """The row of the best of all other methods in this case."""
    scores = [(value, row) for row in data.others if (value := score(row, bits, cut)) is not None]
    return max(scores, key=lambda scored: scored[0], default=(None, None))[1]


def best(data: Data, bits: str, cut: str) -> float | None:
    """The score of the best of all other methods in this case."""
    return score(best_row(data, bits, cut), bits, cut)


def of_settings(settings: dict) -> Callable[[Data, str, str], float | None]:
    """The score of ours with these settings."""
    return lambda data, bits, cut: score(data.row(settings), bits, cut)


def mean_and_least(points: dict[str, float]) -> list[str]:
    """The cells of differences by label set: the mean, and the least with its label set."""
    least = min(points, key=points.get)
    return [f"{np.mean(list(points.values())):+z.1f}", f"{points[least]:+z.1f} ({least})"]


def against(half: str, evidence: Evidence, zh: bool = False) -> list[str]:
    """Ours minus each other method on a half of the bench: the mean, and the label set where it is least."""
    sets = [data for data in evidence.label_sets(half) if data.row(ON)]
    if not sets:
        return [NOTHING_ZH if zh else NOTHING]
    the_best = "每种情形下最好的其他方法" if zh else "the best other method in each case"
    others = {the_best: (best, lambda row: not row.ours)}
    left_out = at_chance(evidence)
    others |= {alone(name, zh): (of_method(name, left_out.get(name, ())), lambda row, name=name: row.method == name)
               for name in METHODS}
    others["UCMFH 用两种模态（本方法只用一种）" if zh else "UCMFH with both modalities, ours with one"] = (
        of_method("UCMFH", left_out.get("UCMFH", ()), "paired"), lambda row: row.method == "UCMFH")
    others["关闭渐进式" if zh else "ours, without the scale"] = of_settings(OFF), lambda row: row.settings == OFF
    rows = []
    for name, (other, belongs) in others.items():
        found = {cut: differences(sets, other, cut) for cut in CUTS}
        if not found["map"]:
            continue
        used = [row for data in sets for row in data.rows if row == data.row(ON) or belongs(row)]
        cells = [f"{len(found['map'])}"]
        for cut in CUTS:
            cells += mean_and_least({title: float(np.mean(values)) for title, values in found[cut].items()})
        rows.append([name + evidence.mark(used), *cells])
    ours = {cut: np.mean([value for data in sets for bits in data.lengths
                          if (value := score(data.row(ON), bits, cut)) is not None]) for cut in CUTS}
    seeds = [len(data.row(ON).by_seed) for data in sets]
    compared = [len({row.method for row in data.others}) for data in sets]
    theirs = [len(row.by_seed) for data in sets for row in data.others]
    missing = [name for name, recipe in RECIPES.items() if recipe.half == half
               and name not in {data.name for data in sets}]
    if zh:
        lines = [f"本方法 mAP@all 平均 {ours['map']:.1f}，mAP@50 平均 {ours['map@50']:.1f}（{len(sets)} 组标签，各码长与双向，"
                 f"{span(seeds, zh)} 个种子）。下表为本方法减去其他方法，百分点" + (
                     f"；每组标签有 {span(compared, zh)} 种其他方法的记录，各 {span(theirs, zh)} 个种子；"
                     f"某方法[几乎什么也没学到]({RESULTS}#the-other-methods)的数据集不计入它的一行" if theirs else "") + "：", "",
                 *table(["减去", "标签组", "@all", "其中最差", "@50", "其中最差"], rows)]
        lines += ["", f"尚无记录：{'，'.join(missing)}。"] if missing else []
        return [*lines, *footnote(rows, zh)]
    lines = [f"Ours reaches {ours['map']:.1f} mAP@all and {ours['map@50']:.1f} mAP@50, the means over {len(sets)} "
             f"label sets, all code lengths, both directions and {of_seeds(seeds)}. Ours minus the other method, in "
             "points, on average and on the label set where that is least" + (
                 f"; the best other method is that of the {span(compared)} recorded there, with {of_seeds(theirs)} "
                 f"each, and the row of a method leaves out where it [learned next to nothing]({RESULTS}#the-other-methods)"
                 if theirs else "") + ":", "",
             *table(["ours minus", "label sets", "@all", "at worst", "@50", "at worst"], rows)]
    lines += ["", f"Not recorded: {', '.join(missing)}."] if missing else []
    return [*lines, *footnote(rows)]


def by_label_set(half: str, evidence: Evidence) -> list[str]:
    """Ours minus the best other method on each label set of a half of the bench, and which methods those are."""
    cells = []
    for data in evidence.label_sets(half):
        found = {cut: differences([data], best, cut).get(data.title) for cut in CUTS}
        if not all(found.values()):
            continue
        mark = evidence.mark(row for row in data.rows if row == data.row(ON) or not row.ours)
        cells.append([data.title + mark, f"{data.classes}", f"{data.records[0]['sizes']['train']:,}"])
        for cut, values in found.items():
            methods = dict.fromkeys(alone(row.method) for bits in data.lengths if (row := best_row(data, bits, cut)))
            cells[-1] += [f"{np.mean(values):+z.1f}", ", ".join(methods)]
    if not cells:
        return [NOTHING]
    return ["Ours minus the best other method of each code length, in points, the mean over code lengths; every method "
            "that is the best at some length is named.", "",
            *table(["label set", "classes", "training pairs", "@all", "best others", "@50", "best others"], cells),
            *footnote(cells)]


def scale_on_all(evidence: Evidence, zh: bool = False) -> list[str]:
    """What the scale changes on broad and on narrow labels: mean, least and most over the label sets of the bench."""
    rows = []
    measures = {"mAP@all": ("unpaired", "map"), "mAP@50": ("unpaired", "map@50"), "R@10": ("partners", "recall@10")}
    compared = [data for data in evidence.label_sets(SELECTION, UNSEEN) if data.compared]
    for broad in (True, False):
        sets = [data for data in compared if data.broad == broad]
        for name, (protocol, cut) in measures.items():
            found = {data.title: float(np.mean(data.compared.gains(protocol, cut))) for data in sets
                     if all(protocol in each for row in data.compared[:2] for each in row.figures(data.lengths[0]))}
            if found:
                least, most = (pick(found, key=found.get) for pick in (min, max))
                kind = (("宽" if broad else "窄") if zh else "broad" if broad else "narrow")
                rows.append([kind, name, f"{len(found)}", f"{np.mean(list(found.values())):+z.1f}",
                             f"{found[least]:+z.1f} ({least})", f"{found[most]:+z.1f} ({most})"])
    if not rows:
        return [NOTHING_ZH if zh else NOTHING]
    mark = evidence.mark(row for data in compared for row in data.compared[:2])
    if zh:
        return [f"开启减关闭，百分点，各码长、双向与种子的均值；标签不超过 {BROAD_CLASSES} 类为“宽”，否则为“窄”。R@10 是查询在前十项"
                f"中找到自己配对项的比例，与标签无关，因此每个数据集只计一次{mark}：", "",
                *table(["标签", "指标", "标签组", "均值", "最小", "最大"], rows, 2), *footnote([[mark]], zh)]
    return [f"The scale on against off, in points: means over code lengths, directions and seeds. Labels of at most "
            f"{BROAD_CLASSES} classes are called broad, of more narrow. R@10 is how often a query finds its own partner "
            f"among the first ten; it needs no labels, so that each data set counts once{mark}.", "",
            *table(["labels", "", "label sets", "mean", "least", "most"], rows, 2), *footnote([[mark]])]


def constants(evidence: Evidence) -> list[str]:
    """Ours with each constant at half and at double its default, minus the default, all seeds of both: the mean over the
    label sets of the half that the method was chosen on, and the label set where it is least.
    """
    cells, compared, changed = [], [], []
    for changes in STUDIES["constants"].values():
        sets = trained_with(changes, evidence.label_sets(SELECTION)) if changes != ON else []
        if not sets:
            continue
        rows = [data.row(changes) for data in sets]
        cells.append([label(rows[0]) + evidence.mark([*rows, *(data.row(ON) for data in sets)])])
        for cut in CUTS:
            found = differences(sets, of_settings(changes), cut)
            cells[-1] += mean_and_least({title: -float(np.mean(values)) for title, values in found.items()})
        compared += sets
        changed += rows
    if not cells:
        return [NOTHING]
    return [*what_is_compared(evidence, "constants", compared, changed, "the code lengths and both directions"),
            *table(["minus the default, points", "@all", "at worst", "@50", "at worst"], cells), *footnote(cells)]


def nested(evidence: Evidence) -> list[str]:
    """Nested codes minus codes with bits of their own for every length, all seeds of both: the mean over all label sets,
    and the label set where it is least, a row a code length.
    """
    sets, cells = trained_with(SEPARATE, evidence.label_sets(SELECTION, UNSEEN)), []
    rows = [data.row(SEPARATE) for data in sets]
    for bits in sorted({bits for data in sets for bits in data.lengths}, key=int):
        cells.append([bits])
        for cut in CUTS:
            cells[-1] += mean_and_least({
                data.title: score(data.row(ON), bits, cut) - score(data.row(SEPARATE), bits, cut)
                for data in sets if bits in data.lengths})
    if not cells:
        return [NOTHING]
    mark = evidence.mark([*rows, *(data.row(ON) for data in sets)])
    only = f" --methods '{next(name for name, settings in STUDIES['ablation'].items() if settings == SEPARATE)}'"
    return [*what_is_compared(evidence, "ablation", sets, rows, "both directions", only),
            *table([f"bits, nested minus separate, points{mark}", "@all", "at worst", "@50", "at worst"], cells),
            *footnote([[mark]])]


def trained_with(changes: dict, sets: Iterable[Data]) -> list[Data]:
    """The label sets that ours was trained on with these settings, and with the default."""
    return [data for data in sets if data.row(changes) and data.row(ON)]


def what_is_compared(evidence: Evidence, study: str, sets: list[Data], changed: list[Row], means: str,
                     options: str = "") -> list[str]:
    """The sentence above a table of other settings against the default, with the command that trains them.

    Args:
        sets: the label sets of the table.
        changed: the rows of other settings.
        means: what its figures are the means of.
        options: more of the command.
    """
    sets = [data for data in evidence.datasets if data in sets]  # each once, without its finer labels
    seeds = [of_seeds(sorted({len(row.by_seed) for row in rows})) for rows in (changed, [data.row(ON) for data in sets])]
    made = command(study, sets, {seed for row in changed for seed in row.by_seed})
    return [f"On the labels of {listed([data.title for data in sets])}, mean of {means}, "
            f"unpaired, {seeds[0]} against {seeds[1]} of the default; `{made}{options}`:", ""]


def epochs(evidence: Evidence) -> list[str]:
    """Ours with the scale after trainings of different length, and what the scale gains there, on the seeds that all of
    a row have: a row a label set, a table of mAP@all and one of mAP@50.
    """
    found = {data.title: pairs for data in evidence.label_sets(SELECTION, UNSEEN) if len(pairs := by_epochs(data)) > 1}
    if not found:
        return [NOTHING]
    numbers = sorted({number for pairs in found.values() for number in pairs})
    sets = [data for data in evidence.datasets if data.title in found]
    pairs = [pair for each in found.values() for pair in each.values()]
    made = command("epochs", sets, {seed for pair in pairs for seed in pair.seeds})
    lines = [f"Means of the code lengths, both directions and {of_seeds(len(pair.seeds) for pair in pairs)}, unpaired; "
             f"the gain is that of the scale; `{made}`:"]
    marks = {title: evidence.mark(row for pair in each.values() for row in pair[:2]) for title, each in found.items()}
    for cut, name in CUTS.items():
        cells, below = [], {number: {} for number in numbers}
        for title, each in found.items():
            on = {number: float(np.mean([pair.on.mean(seed, "unpaired", cut) for seed in pair.seeds]))
                  for number, pair in each.items()}
            gains = {number: f"{np.mean(pair.gains('unpaired', cut)):+z.1f}" for number, pair in each.items()}
            cells.append([title + marks[title], *(f"{on[number]:.1f}" if number in on else "–" for number in numbers),
                          *(gains.get(number, "–") for number in numbers)])
            for number, value in on.items():
                below[number][title] = value - max(on.values())
        cells.append(["the most below the best of its row", *(mean_and_least(below[number])[1] for number in numbers),
                      *[""] * len(numbers)])
        heads = [f"{what}{number} epochs" for what in ("", "gain, ") for number in numbers]
        lines += ["", *table([f"mAP{name}", *heads], cells)]
    return [*lines, *footnote([marks.values()])]


def by_epochs(data: Data) -> dict[int, Pair]:
    """Ours with and without the scale, by the length of the training in epochs, all else at its default; of the seeds
    that all lengths have.
    """
    found = {}
    for row in data.rows:
        if row.ours and row.settings.keys() <= {"epoch"} and (pair := data.pair(row.settings)):
            found[row.settings.get("epoch", ICMR.Config().epoch)] = pair
    seeds = sorted(set.intersection(*(set(pair.seeds) for pair in found.values()))) if found else []
    return {number: pair._replace(seeds=seeds) for number, pair in sorted(found.items())} if seeds else {}


GENERATORS: dict[str, Callable[[Evidence], list[str]]] = {
    "unseen": functools.partial(against, UNSEEN), "unseen.zh": functools.partial(against, UNSEEN, zh=True),
    "selection": functools.partial(against, SELECTION),
    "label_sets": functools.partial(by_label_set, UNSEEN),
    "constants": constants, "nested": nested, "epochs": epochs,
    "scale": scale_on_all, "scale.zh": functools.partial(scale_on_all, zh=True)}
