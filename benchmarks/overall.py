"""The blocks about the whole bench: ours against every other method, and the scale on against off, over all label sets.

A label set is a data set with its labels, or with its finer ones: the same trainings tested twice. Every figure is a
mean over label sets, code lengths, seeds and both directions, unpaired, after the last epoch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import numpy as np

from benchmarks.baselines import METHODS
from benchmarks.blocks import NOTHING, NOTHING_ZH, footnote, label, listed, of_seeds, table
from benchmarks.datasets import BROAD_CLASSES, RECIPES, SELECTION, UNSEEN
from benchmarks.evidence import OFF, ON, Data, Evidence, Row
from benchmarks.promises import in_points
from benchmarks.studies import STUDIES

CUTS = {"map": "@all", "map@50": "@50"}


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


def of_method(method: str) -> Callable[[Data, str, str], float | None]:
    """The score of another method."""
    return lambda data, bits, cut: score(next((row for row in data.others if row.method == method), None), bits, cut)


def best(data: Data, bits: str, cut: str) -> float | None:
    """The score of the best of all other methods in this case."""
    return max((value for row in data.others if (value := score(row, bits, cut)) is not None), default=None)


def of_settings(settings: dict) -> Callable[[Data, str, str], float | None]:
    """The score of ours with these settings."""
    return lambda data, bits, cut: score(data.row(settings), bits, cut)


def mean_and_least(points: dict[str, float]) -> list[str]:
    """The cells of differences by label set: the mean, and the least with its label set."""
    least = min(points, key=points.get)
    return [f"{np.mean(list(points.values())):+.1f}", f"{points[least]:+.1f} ({least})"]


def against(half: str, evidence: Evidence, zh: bool = False) -> list[str]:
    """Ours minus each other method on a half of the bench: the mean, and the label set where it is least."""
    sets = evidence.label_sets(half)
    if not any(data.row(ON) for data in sets):
        return [NOTHING_ZH if zh else NOTHING]
    others = {name: of_method(name) for name in METHODS}
    others = {"每种情形下最好的其他方法" if zh else "the best other method in each case": best} | others
    others["关闭渐进式" if zh else "ours, without the scale"] = of_settings(OFF)
    rows = []
    for name, other in others.items():
        found = {cut: differences(sets, other, cut) for cut in CUTS}
        if not found["map"]:
            continue
        cells = [f"{len(found['map'])}"]
        for cut in CUTS:
            cells += mean_and_least({title: float(np.mean(values)) for title, values in found[cut].items()})
        rows.append([name + evidence.mark(_rows(sets, name)), *cells])
    ours = {cut: np.mean([value for data in sets for bits in data.lengths
                          if (value := score(data.row(ON), bits, cut)) is not None]) for cut in CUTS}
    seeds = sorted({len(data.row(ON).by_seed) for data in sets if data.row(ON)})
    missing = [name for name, recipe in RECIPES.items() if recipe.half == half
               and name not in {data.name for data in sets if data.row(ON)}]
    if zh:
        lines = [f"本方法 mAP@all 平均 {ours['map']:.1f}，mAP@50 平均 {ours['map@50']:.1f}（{len(sets)} 组标签，各码长与双向，"
                 f"{'至'.join(map(str, sorted({seeds[0], seeds[-1]})))} 个种子）。下表为本方法减去其他方法，百分点：", "",
                 *table(["减去", "标签组", "@all", "其中最差", "@50", "其中最差"], rows)]
        lines += ["", f"尚无记录：{'，'.join(missing)}。"] if missing else []
        return [*lines, *footnote(rows, zh)]
    lines = [f"Ours reaches {ours['map']:.1f} mAP@all and {ours['map@50']:.1f} mAP@50, the means over {len(sets)} "
             f"label sets, all code lengths, both directions and {of_seeds(seeds)}. Ours minus the other method, in "
             "points, on average and on the label set where that is least:", "",
             *table(["ours minus", "label sets", "@all", "at worst", "@50", "at worst"], rows)]
    lines += ["", f"Not recorded: {', '.join(missing)}."] if missing else []
    return [*lines, *footnote(rows)]


def _rows(sets: list[Data], name: str) -> Iterable[Row]:
    """What a row of the table is made of."""
    for data in sets:
        yield from (row for row in data.rows if row.ours and row.settings in (ON, OFF) or row.method == name
                    or name not in METHODS and not row.ours)


def scale_on_all(evidence: Evidence, zh: bool = False) -> list[str]:
    """What the scale changes on broad and on narrow labels: mean, least and most over the label sets of the bench."""
    rows = []
    measures = {"mAP@all": ("unpaired", "map"), "mAP@50": ("unpaired", "map@50"), "R@10": ("partners", "recall@10")}
    compared = [data for half in (SELECTION, UNSEEN) for data in evidence.label_sets(half) if data.compared]
    for broad in (True, False):
        sets = [data for data in compared if data.broad == broad]
        for name, (protocol, cut) in measures.items():
            found = {data.title: float(np.mean(data.compared.gains(protocol, cut))) for data in sets
                     if all(protocol in each for row in data.compared[:2] for each in row.figures(data.lengths[0]))}
            if found:
                least, most = (pick(found, key=found.get) for pick in (min, max))
                kind = (("宽" if broad else "窄") if zh else "broad" if broad else "narrow")
                rows.append([kind, name, f"{len(found)}", f"{np.mean(list(found.values())):+.1f}",
                             f"{found[least]:+.1f} ({least})", f"{found[most]:+.1f} ({most})"])
    if not rows:
        return [NOTHING_ZH if zh else NOTHING]
    mark = evidence.mark(row for data in compared for row in data.compared[:2])
    if zh:
        return [f"开启减关闭，百分点，各码长、双向与种子的均值；标签不超过 {BROAD_CLASSES} 类为“宽”，否则为“窄”{mark}：", "",
                *table(["标签", "指标", "标签组", "均值", "最小", "最大"], rows, 2), *footnote([[mark]], zh)]
    return [f"The scale on against off, in points: means over code lengths, directions and seeds. Labels of at most "
            f"{BROAD_CLASSES} classes are called broad, of more narrow{mark}.", "",
            *table(["labels", "", "label sets", "mean", "least", "most"], rows, 2), *footnote([[mark]])]


def constants(evidence: Evidence) -> list[str]:
    """Ours with each constant at half and at double its default, minus the default, all seeds of both: the mean over the
    label sets of the half that the method was chosen on, and the label set where it is least.
    """
    sets, cells, titles, seeds = evidence.label_sets(SELECTION), [], set(), {"changed": set(), "default": set()}
    for changes in STUDIES["constants"].values():
        trained = [data for data in sets if changes != ON and data.row(changes) and data.row(ON)]
        if not trained:
            continue
        titles |= {data.title for data in trained}
        seeds["changed"] |= {len(data.row(changes).by_seed) for data in trained}
        seeds["default"] |= {len(data.row(ON).by_seed) for data in trained}
        mark = evidence.mark(data.row(settings) for data in trained for settings in (changes, ON))
        cells.append([label(trained[0].row(changes)) + mark])
        for cut in CUTS:
            found = differences(trained, of_settings(changes), cut)
            cells[-1] += mean_and_least({title: -float(np.mean(values)) for title, values in found.items()})
    if not cells:
        return [NOTHING]
    trained = [data for data in evidence.datasets if data.title in titles]
    return [f"On the labels of {listed([data.title for data in trained])}, mean of the code lengths and both directions, unpaired, "
            f"{of_seeds(sorted(seeds['changed']))} against {of_seeds(sorted(seeds['default']))} of the default; "
            f"`python benchmark.py constants --datasets {' '.join(data.name for data in trained)} --seeds "
            f"{max(seeds['changed'])} --record`:", "",
            *table(["minus the default, points", "@all", "at worst", "@50", "at worst"], cells), *footnote(cells)]


GENERATORS: dict[str, Callable[[Evidence], list[str]]] = {
    "unseen": functools.partial(against, UNSEEN), "unseen.zh": functools.partial(against, UNSEEN, zh=True),
    "selection": functools.partial(against, SELECTION),
    "constants": constants, "scale": scale_on_all, "scale.zh": functools.partial(scale_on_all, zh=True)}
