"""The blocks of the documents: tables and sentences that say what the records show.

Each function of :data:`GENERATORS` turns an :class:`~benchmarks.evidence.Evidence` into the lines of the block of that
name. ``zh`` asks for Chinese. Where nothing is recorded a block is one sentence that says so.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

import ICMR
from benchmarks import promises
from benchmarks.evidence import OFF, ON, Data, Evidence, Row
from benchmarks.promises import in_points, interval, standard_error
from benchmarks.tables import spread, table
from common.errors import InputError

RESULTS = "RESULTS.md"
HEADLINE_BITS = 64
OTHER_CODE = "† Trained by other code than the present, which may give other figures."
NOTHING = "No training for this table is recorded yet."
NOTHING_ZH = "目前还没有此项的实验记录。"


# --- cells ------------------------------------------------------------------------------------------------------------


def gain(values: Sequence[float], zh: bool = False, usual: int | None = None) -> str:
    """Mean ± standard error, in points, with the number of seeds where it is 1 or not the ``usual`` one."""
    error = f" ± {standard_error(np.array(values)):.1f}" if len(values) > 1 else ""
    if len(values) == 1 or usual not in (None, len(values)):
        error += f"（{len(values)} 个种子）" if zh else f" ({of('seed', len(values))})"
    return f"{np.mean(values):+z.1f}{error}"


def seeds_of(row: Row, lengths: Sequence[str]) -> str:
    """The number of seeds, of each length where they differ."""
    counts = {bits: len(row.figures(bits)) for bits in lengths if row.figures(bits)}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{bits} bits: {count}" for bits, count in counts.items())


def label(row: Row) -> str:
    """What a row is called."""
    if not row.ours:
        return alone(row.method)
    if row.settings in (ON, OFF):
        return "ours, without the scale" if row.settings == OFF else "**ours**"
    return "ours, " + ", ".join(f"`--{name} {written(value)}`" for name, value in row.settings.items())


def alone(method: str, zh: bool = False) -> str:
    """What a method is called where it sees one modality of an item."""
    missing = "（缺另一模态）" if zh else ", other modality missing"
    return method + missing * (method == "UCMFH")  # it was made for items with both


def written(value: object) -> str:
    """A setting as it is given on the command line."""
    if isinstance(value, list):
        return " ".join(map(written, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def anchor(title: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def of_seeds(counts: Iterable[int]) -> str:
    """``5 seeds``, or ``2 to 5 seeds``."""
    spanned = span(counts)
    return of("seed", 1) if spanned == "1" else f"{spanned} seeds"


def span(numbers: Iterable[int], zh: bool = False) -> str:
    """``5``, or ``2 to 5``."""
    low, high = min(numbers := list(numbers)), max(numbers)
    return f"{high}" if low == high else f"{low} {'至' if zh else 'to'} {high}"


def of(thing: str, number: int) -> str:
    """``1 seed`` or ``2 seeds``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


# --- the blocks of the README -----------------------------------------------------------------------------------------


def _headline_rows(evidence: Evidence) -> list[dict]:
    """For each data set the rows compared at one code length, with their means."""
    found = []
    for data in evidence.datasets:
        if not data.lengths:  # all of its trainings were skipped
            continue
        fitting = [int(bits) for bits in data.lengths if int(bits) <= HEADLINE_BITS] or [int(data.lengths[0])]
        bits = str(max(fitting))
        score = lambda row: float(np.mean([in_points(each, "unpaired", "map") for each in row.figures(bits)]))
        others = [row for row in data.others if row.figures(bits)]
        rows = {"other": max(others, key=score, default=None), "off": data.row(OFF), "on": data.row(ON)}
        found.append({"data": data, "bits": bits, "rows": rows, "others": len({row.method for row in others}),
                      "scores": {name: score(row) for name, row in rows.items() if row and row.figures(bits)}})
    return [each for each in found if each["scores"]]


def headline(evidence: Evidence, zh: bool = False) -> list[str]:
    """mAP@all of the best of the other methods that are recorded, of ours without the scale and of ours, a row a data
    set.
    """
    found = _headline_rows(evidence)
    if not found:
        return [NOTHING_ZH if zh else NOTHING]
    rows = []
    for each in found:
        best = max(each["scores"].values())
        cells = {name: (f"**{score:.1f}**" if score == best else f"{score:.1f}") + evidence.mark([each["rows"][name]])
                 for name, score in each["scores"].items()}
        if "other" in cells:
            number = f"，共 {each['others']} 种" if zh else f", of {each['others']}"
            cells["other"] += f" ({each['rows']['other'].method}{number})"
        title = each["data"].title + ("" if each["bits"] == str(HEADLINE_BITS) else f", {each['bits']} bits")
        rows.append([f"[{title}]({RESULTS}#{anchor(each['data'].title)})",
                     *(cells.get(name, "–") for name in ("other", "off", "on"))])
    kinds = {"ours": ("off", "on"), "the other method": ("other",)}
    counts = {kind: [len(each["rows"][name].figures(each["bits"])) for each in found for name in names
                     if name in each["scores"]] for kind, names in kinds.items()}
    bits = found[0]["bits"] if len({each["bits"] for each in found}) == 1 else str(HEADLINE_BITS)
    note = footnote(rows, zh)
    if zh:
        return [f"mAP@all（百分点，{bits} 位，单模态查询，双向平均；{_seeds_zh(counts)}）；其他方法取已有记录中最好的：", "",
                *table(["数据集", "其他方法", "关闭渐进式", "开启渐进式"], rows), *note]
    seeds = of_seeds(itertools.chain(*counts.values())) if _alike(counts) else \
        listed([f"{of_seeds(each)} of {kind}" for kind, each in counts.items() if each])
    return [f"mAP@all in points at {bits} bits, the mean of both directions and of {seeds}; the highest in bold. "
            "Of the other methods the best of those recorded is named, with their number:", "",
            *table(["", "other methods", "ours, without the scale", "ours"], rows),
            *note]


def _alike(counts: dict[str, list[int]]) -> bool:
    """Whether there is one number of seeds for all that is compared."""
    return len(set(itertools.chain(*counts.values()))) == 1


def _seeds_zh(counts: dict[str, list[int]]) -> str:
    if _alike(counts):
        return f"{max(itertools.chain(*counts.values()))} 个种子"
    words = {"ours": "本方法", "the other method": "其他方法"}
    return "，".join(f"{words[kind]} {span(found, zh=True)} 个种子" for kind, found in counts.items() if found)


def footnote(rows: Iterable[Sequence[str]], zh: bool = False) -> list[str]:
    """The footnote of a table, if a cell refers to it."""
    if not any("†" in cell for row in rows for cell in row):
        return []
    return ["", "† 由与当前不同版本的代码训练。" if zh else OTHER_CODE]


def _mark(evidence: Evidence, data: Data) -> str:
    return evidence.mark(data.compared[:2])


# --- the blocks of the documentation ----------------------------------------------------------------------------------

PROMISED = {  # measure: what the guide promised, in English and Chinese, and its figure
    "map": ("+2 to 5 points", "提升 2~5 个百分点", "mAP@all"),
    "map@50": ("", "", "mAP@50"),
    "loss_roughness": ("smoother", "曲线更平滑", "roughness of the loss"),
    "map_roughness": ("", "", "roughness of mAP@all"),
    "epochs_to_95": ("5 to 10 % fewer", "少 5-10%", "epochs to 95 % of the last mAP@all without it"),
    "quantization_error": ("at least halved", "减少 50% 以上", "quantization error"),
}
FIGURES_ZH = {"map": "mAP@all", "map@50": "mAP@50", "loss_roughness": "loss 的波动", "map_roughness": "mAP@all 的波动",
              "epochs_to_95": "达到关闭时最终 mAP@all 的 95% 所需轮数", "quantization_error": "量化误差"}
VERDICTS_ZH = {promises.KEPT: "达到", promises.BELOW: "低于预期", promises.NOT_KEPT: "未达到", promises.UNCLEAR: "不明确",
               promises.UNMEASURABLE: "无法测量"}


def promises_table(evidence: Evidence, zh: bool = False) -> list[str]:
    """The guide's promises, a column each, beside what was measured on each data set, with a verdict."""
    compared = [data for data in evidence.datasets if data.compared]
    if not compared:
        return [NOTHING_ZH if zh else NOTHING]
    places = 1 if zh else 0
    header = ["数据集" if zh else "data set"]
    for promise in promises.PROMISES:
        if promise.measure not in PROMISED:
            continue
        figure = FIGURES_ZH[promise.measure] if zh else PROMISED[promise.measure][2]
        promised = PROMISED[promise.measure][places]
        header.append(figure + ((f"（{promised}）" if zh else f" ({promised})") if promised else ""))
    header += ["mAP@all, `--positive_weight 0.6`" + ("（配合平衡损失更好）" if zh else " (better with the balanced loss)"),
               "mAP@50"]
    rows = []
    for data in compared:
        on, off, seeds = data.compared
        title = f"{data.title}（{len(seeds)} 个种子）" if zh else f"{data.title} ({of_seeds([len(seeds)])})"
        rows.append([title + _mark(evidence, data),
                     *(_promise_cell(row, zh) for row in promises.compare(on.trainings(seeds), off.trainings(seeds))
                       if row["measure"] in PROMISED),
                     *(_balanced_cell(data, cut, evidence, zh) for cut in ("map", "map@50"))])
    if all(row[-1] == row[-2] == "–" for row in rows):  # nothing is recorded of the balanced loss
        header, rows = header[:-2], [row[:-2] for row in rows]
    if zh:
        return [*table(header, rows, len(header)), "",
                "开启减关闭，均值 ± 标准误（相同种子，各码长与双向平均，单模态查询，最后一轮）；结论依据 95% 置信区间。"
                f"波动为训练后半段二阶差分绝对值的均值。逐项数据见 [{RESULTS}]({RESULTS})。", *footnote(rows, zh),
                *_added_time(evidence, zh)]
    return [*table(header, rows, len(header)), "",
            "The scale on against off, mean ± standard error over seeds, the same seed on and off; mean of the code "
            "lengths and both directions, unpaired, last epoch. A verdict is given where the 95 % confidence interval "
            "allows one; it is wider by nine epochs where trainings were tested every ten. Roughness is the mean "
            "absolute second difference in the second half of the training, of the loss in % of its level there. The "
            f"figures of each code length are in [{RESULTS}]({RESULTS}).",
            *footnote(rows), *_added_time(evidence, zh)]


def _added_time(evidence: Evidence, zh: bool) -> list[str]:
    """The promise of the time, which is measured apart, in turns: between two trainings other things differ more."""
    if evidence.speed is None or "scale" not in evidence.speed:
        return []
    promise = next(promise for promise in promises.PROMISES if promise.measure == "seconds")
    found = []
    for name, seconds in evidence.speed["scale"].items():
        more = promises.added_percent(seconds)
        low, high = interval(more)
        word = promises.verdict(-high, -low, promise.least)
        name, word = (name.replace("MIRFlickr-sized", "MIRFlickr 规模的数据"), VERDICTS_ZH[word]) if zh else (name, word)
        found.append(f"{name} **{word}**{'：' if zh else ': '}{more.mean():+z.1f} ± {standard_error(more):.1f} %")
    if zh:
        return ["", f"每轮时间（增加 <1%），开启与关闭交替测量的各轮之比：{'；'.join(found)}。"]
    return ["", f"Time of an epoch (under 1 % more), of epochs with and without the scale in turns: {'; '.join(found)}."]


def _promise_cell(row: dict, zh: bool) -> str:
    """A verdict and the change that it judges."""
    word = VERDICTS_ZH[row["verdict"]] if zh else row["verdict"]
    if row["change"] is None:
        return f"**{word}**"
    change = f"{row['change']:+z.1f}"
    change += f" ± {row['standard_error']:.1f}" if row["standard_error"] is not None else ""
    return f"**{word}**{'：' if zh else ': '}{change}{' %' * (row['unit'] == '%')}"


def _balanced_cell(data: Data, cut: str, evidence: Evidence, zh: bool) -> str:
    """What the balanced loss gains at the weight that the guide suggests, with the scale on, and its verdict."""
    plain, balanced = data.row(ON), data.row({"loss": "balanced", "positive_weight": 0.6})
    seeds = [seed for seed in balanced.by_seed if seed in plain.by_seed] if balanced else []
    if not seeds:
        return "–"
    values = [balanced.mean(seed, "unpaired", cut) - plain.mean(seed, "unpaired", cut) for seed in seeds]
    word = promises.verdict(*interval(np.array(values)), 0.0)
    value = gain(values, zh, usual=len(data.compared.seeds)) + evidence.mark([plain, balanced])
    return f"**{VERDICTS_ZH[word] if zh else word}**{'：' if zh else ': '}{value}"


def scale_sweep(evidence: Evidence) -> list[str]:
    """Ours with other scales and schedules, a table a data set."""
    config = ICMR.Config()
    names = {(1.0, 8.0): " (conservative)", (2.0, 12.0): " (aggressive)"}

    def name(settings: dict) -> str:
        if settings == OFF:
            return "off"
        ends = settings.get("scale_min", config.scale_min), settings.get("scale_max", config.scale_max)
        schedule = settings.get("scale_schedule", "")
        return (f"{ends[0]:g} to {ends[1]:g}" + (f", {schedule}" if schedule else names.get(ends, ""))
                + " (default)" * (not settings))

    def order(row: Row) -> tuple:
        settings = row.settings
        return (settings != OFF, settings.get("scale_schedule", ""), settings.get("scale_max", config.scale_max),
                settings.get("scale_min", config.scale_min))

    keys = {"scale_min", "scale_max", "scale_schedule"}
    return sweep(evidence, "scale", "scale", name,
                 lambda settings: settings == OFF or settings.keys() <= keys, order)


def balanced_loss(evidence: Evidence) -> list[str]:
    """Ours with the balanced loss, by its weight, a table a data set; 0.5 is the plain loss."""
    def weight(row: Row) -> float:
        return row.settings.get("positive_weight", 0.5)

    return sweep(evidence, "ablation", "`--positive_weight`",
                 lambda settings: f"{settings['positive_weight']:g}" if settings else "0.5 (default)",
                 lambda settings: settings == ON or settings.keys() == {"loss", "positive_weight"}, weight)


def sweep(evidence: Evidence, study: str, what: str, name: Callable[[dict], str], belongs: Callable[[dict], bool],
          order: Callable[[Row], object]) -> list[str]:
    """Ours with some settings changed, on the seeds that all of these rows have.

    Args:
        study: of benchmark.py, which trains them.
        what: the head of the first column, which holds the ``name`` of a row's settings.
        belongs: whether settings are of this table; those of the default are.
        order: by which the rows are sorted.
    """
    lines = []
    for data in evidence.datasets:
        rows = sorted((row for row in data.rows if row.ours and belongs(row.settings)), key=order)
        if not any(row.settings not in (ON, OFF) for row in rows):
            continue
        if not (seeds := sorted(set.intersection(*(set(row.by_seed) for row in rows)))):
            continue
        cells = [[name(row.settings) + evidence.mark([row]),
                  *(spread([row.mean(seed, protocol, cut) for seed in seeds]) for protocol, cut in
                    (("unpaired", "map"), ("unpaired", "map@50"), ("partners", "recall@10"))),
                  f"{np.mean([each['quantization_error'] for s in seeds for each in row.by_seed[s].values()]):.3f}"]
                 for row in rows]
        over = "mean ± standard deviation over " if len(seeds) > 1 else ""
        lines += [*([""] if lines else []),
                  f"{data.title}, mean of the code lengths and both directions, unpaired, {over}{of_seeds([len(seeds)])}"
                  f"; `{command(study, [data], seeds)}`:", "",
                  *table([what, "mAP@all", "mAP@50", "R@10 of the own partner", "quantization error"], cells),
                  *footnote(cells)]
    return lines or [NOTHING]


def command(study: str, sets: Sequence[Data], seeds: Iterable[int]) -> str:
    """The command that makes the records of these seeds of data sets anew; benchmark.py takes seeds from 0 up."""
    study = "" if study == "methods" else f" {study}"
    first = {record["history"]["epoch"][0] for data in sets if data.compared for row in data.compared[:2]
             for record in row.records}  # each study has these trainings, and would replace them by some tested less often
    tested = f" --eval_every {min(first)}" if len(first) == 1 and first != {ICMR.Config().eval_every} else ""
    names = " ".join(dict.fromkeys(data.name for data in sets))
    return f"python benchmark.py{study} --datasets {names} --seeds {max(seeds) + 1}{tested} --record"


# --- speed and search -------------------------------------------------------------------------------------------------


def measured(make: Callable[[dict], list[str]], measurement: dict | None, file: str, study: str) -> list[str]:
    """What ``make`` writes of a measurement; a sentence where there is none.

    Raises:
        InputError: the measurement lacks what benchmark.py writes.
    """
    if measurement is None:
        return [f"No measurement is recorded yet; `python benchmark.py {study} --record` makes one."]
    try:
        machine, versions = measurement["machine"], measurement["versions"]
        where = (f"`python benchmark.py {study} --record`, commit {measurement['commit'][:7]}, {measurement['date']}, "
                 f"PyTorch {versions['torch']}, {machine['gpu'] or machine['cpu']}, "
                 f"{of('thread', machine['threads'])}:")
        return [where, "", *make(measurement)]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"docs/results/{file}: not a measurement as `python benchmark.py {study}` writes it "
                         f"({type(error).__name__}: {error}); make it again") from None


def speed(evidence: Evidence) -> list[str]:
    """Training and evaluation beside the plain reference."""
    def rows(measurement: dict) -> list[str]:
        found = []
        for name, part in measurement["training"].items():
            one, every = part["reference, 128 bits"], sum(value for what, value in part.items() if "reference" in what)
            for what, reference, ours in (
                    ("an epoch of 128 bits, UCMFH's networks in both", one, part["ours, UCMFH's networks, [128] bits"]),
                    ("an epoch of 128 bits, our networks", one, part["ours, 128 bits"]),
                    ("an epoch of four lengths, UCMFH's networks in both", every,
                     part["ours, UCMFH's networks, [16, 32, 64, 128] bits"]),
                    ("an epoch of four lengths, our networks", every, part["ours, four lengths"]),
                    ("an epoch of four lengths, our networks, `--precision bfloat16`", every,
                     part["ours, four lengths, bfloat16"])):
                found.append([name, what, f"{reference:.3g} s", f"{ours:.3g} s", f"{reference / ours:.0f}"])
            part = measurement["evaluation"][name]
            reference = part["reference, from the codes, two directions"]
            for what in ("from the codes, two directions", "from the features, both protocols"):
                ours = part[f"ours, {what}"]
                found.append([name, f"an evaluation {what}", f"{reference:.3g} s", f"{ours:.3g} s",
                              f"{reference / ours:.0f}"])
        for what, side in measurement["memory"].items():
            if what.startswith("ours"):
                found.append(["", f"peak memory above the data: {what.removeprefix('ours, ')}", "",
                              f"{side['above']:,.0f} MB", ""])
        return table(["arrays", "", "reference", "ours", "times as fast"], found, 2)

    return measured(rows, evidence.speed, "speed.json", "speed")


def search_speed(evidence: Evidence) -> list[str]:
    """Build, memory, speed and recall of each kind of index."""
    def rows(measurement: dict) -> list[str]:
        found = []
        for row in measurement["figures"]:
            rates = list(row["queries_per_second"].values())
            above = row["memory_above_codes"]
            megabytes = row["codes"] * row["bits"] / 8e6
            index = row["index"]
            if index == "coarse":
                index += f" {row['parameters']['coarse']}, {row['parameters']['candidates']:,} candidates"
            found.append([f"{row['bits']}", f"{row['codes']:,}", index, f"{row['build_seconds']:.1f}",
                          f"{row['bytes_on_disk'] / 1e6:,.1f}", "" if above is None else f"{above * megabytes:,.1f}",
                          *("" if rate is None else f"{rate:,.0f}" for rate in rates), f"{row['recall@10']:.3f}",
                          f"{row['recall@100']:.3f}"])
        batches = [f"queries/s, {batch} at a time" for batch in measurement["figures"][0]["queries_per_second"]]
        return table(["bits", "codes", "index", "build, s", "on disk, MB", "memory above the codes, MB", *batches,
                      "recall@10", "recall@100"], found, 3)

    return measured(rows, evidence.search, "search.json", "search")


def rerank(evidence: Evidence) -> list[str]:
    """How the codes rank alone, reranked and rescored, what they need, and how fast they are."""
    columns = {"map@50": "mAP@50", "recall@10": "recall@10", "tied@10": "10 tied", "bytes_per_item": "bytes an item",
               "queries_per_second": "queries/s"}
    formats = {"tied@10": ".1%", "bytes_per_item": ",", "queries_per_second": ",.0f"}

    def rows(measurement: dict) -> list[str]:
        return table(["query", "bits", "ranking", *columns.values()],
                     [[row["query"], str(row["bits"]), row["ranking"],
                       *("" if row.get(key) is None else format(row[key], formats.get(key, ".3f")) for key in columns)]
                      for row in measurement["rerank"]], 3)

    if evidence.search is None or "rerank" not in evidence.search:
        return ["No measurement of reranking is recorded yet."]
    return measured(rows, evidence.search, "search.json", "search")


BILLION = 1_000_000_000
SECONDS = 0.1  # that an answer may take


def billion(evidence: Evidence) -> list[str]:
    """What a billion items would need, from what the largest number of codes that was measured needs.

    They lie in as many shards of that size as it takes; a process asks those that it holds one after the other.
    """
    def rows(measurement: dict) -> list[str]:
        size = max(row["codes"] for row in measurement["figures"])
        shards, threads, found = -(-BILLION // size), measurement["machine"]["threads"], []
        for row in measurement["figures"]:
            if row["codes"] == size and row["index"] not in ("numpy", "coarse"):
                single, batch = row["queries_per_second"].values()
                seconds = shards / single
                needed = math.ceil(seconds / SECONDS)
                found.append([str(row["bits"]), row["index"], f"{row['bytes_on_disk'] * shards / 1e9:,.0f}",
                              f"{row['bits'] * BILLION / 1e9:,.0f}", f"{seconds:.2f}", f"{needed}",
                              "" if batch is None else f"{needed * batch / shards:,.0f}", f"{row['recall@10']:.3f}"])
        batch = list(measurement["figures"][0]["queries_per_second"])[1]
        return [f"{shards:,} shards of {size:,} codes; a process is one of {of('thread', threads)}.", "",
                *table(["bits", "index", "codes and index, GB", "outputs, GB", "a query in one process, s",
                        f"processes for {SECONDS:g} s", f"queries/s of these, {batch} at a time", "recall@10"],
                       found, 2)]

    return measured(rows, evidence.search, "search.json", "search")


GENERATORS: dict[str, Callable[[Evidence], list[str]]] = {
    "headline": headline, "headline.zh": functools.partial(headline, zh=True),
    "promises": promises_table, "promises.zh": functools.partial(promises_table, zh=True),
    "scale_sweep": scale_sweep, "balanced_loss": balanced_loss,
    "speed": speed, "search_speed": search_speed, "rerank": rerank, "billion": billion}
