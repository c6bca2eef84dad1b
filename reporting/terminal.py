"""What a run prints of its evaluations and sample retrievals."""

from __future__ import annotations

import numpy as np

from common.columns import MAX_COLUMNS, clip, columns_of, printable

SHOWN_STATISTICS = (("loss", "loss"), ("mean |scale*x|", "mean_abs"), ("saturation", "saturation"),
                    ("bit balance", "bit_balance"))  # of an epoch: label, key in its log


def epoch_line(entry: dict) -> str:
    """The line of an epoch: the statistics in its log ``entry`` that a run shows."""
    return " | ".join(f"{label} {entry[key]:.4f}" for label, key in SHOWN_STATISTICS if key in entry)


def summary(evaluation: dict) -> list[str]:
    """The lines of one evaluation, an entry of ``history`` in metrics.json.

    For each code length mAP@all / mAP@50 in both directions and protocols; without labels, R@1 / R@10 of the own
    partner.
    """
    lines = []
    for bits, result in evaluation.items():
        if bits != "epoch":
            rows = [(protocol, protocol, ("map", "map@50")) for protocol in ("unpaired", "paired")]
            if "unpaired" not in result:
                rows = [("partners", "R@1 / R@10 of the partner", ("recall@1", "recall@10"))]
            for protocol, title, measures in rows:
                cells = [f"{direction.upper()} " + " / ".join(f"{result[protocol][direction][measure]:.4f}"
                                                              for measure in measures) for direction in ("i2t", "t2i")]
                lines.append(f"{bits + ':' if protocol != 'paired' else '':5} {title} {', '.join(cells)}")
    return lines


def table(results: dict) -> list[str]:
    """The last evaluation of a run as aligned tables, from what its metrics.json holds."""
    sizes, final = results["sizes"], results["final"]
    lines = ["", f"{results['dataset']}, after epoch {results['history'][-1]['epoch']} (the last)"]
    if has_map(final):
        lines[1] += f": tie-aware mAP, {_counted(sizes, 'query')} queries x {_counted(sizes, 'retrieval')} items"
        lines += ["", "       unpaired (one modality a side)   paired (UCMFH's: each side saw both)",
                  "           I2T             T2I              I2T             T2I         quant.",
                  "bits    @all    @50     @all    @50      @all    @50     @all    @50    error"]
        for bits, result in final.items():
            cells = ["  ".join(f"{result[protocol][direction][measure]:.4f}" for measure in ("map", "map@50"))
                     for protocol in ("unpaired", "paired") for direction in ("i2t", "t2i")]
            error = result.get("quantization_error")
            lines.append(f"{bits:>4}  {cells[0]}  {cells[1]}   {cells[2]}  {cells[3]}"
                         + ("" if error is None else f"   {error:.3f}"))
    return lines + partners(results) + best(results["history"]) + [""]


def _counted(sizes: dict[str, int], split: str) -> str:
    """How many images and texts a split has: one number where each image has one text."""
    texts = f" image and {sizes[f'{split}_texts']:,} text" if f"{split}_texts" in sizes else ""
    return f"{sizes[split]:,}{texts}"


def has_map(evaluation: dict) -> bool:
    """Whether an evaluation holds mAP, which needs labels."""
    return all("unpaired" in result for name, result in evaluation.items() if name != "epoch")


def partners(results: dict) -> list[str]:
    """The recall of a query's own partner in the last evaluation, as a table; nothing if it was not measured."""
    error_shown = has_map(results["final"])  # in the table before this one
    queries = _counted(results["sizes"], "query")
    lines = ["", f"The own partner among the {queries} queries of the other modality, recall at K",
             "             I2T                       T2I" + "             quant." * (not error_shown),
             "bits    R@1     R@5    R@10       R@1     R@5    R@10" + "    error" * (not error_shown)]
    for bits, result in results["final"].items():
        if "partners" in result:
            cells = ["  ".join(f"{value:.4f}" for value in result["partners"][direction].values())
                     for direction in ("i2t", "t2i")]
            lines.append(f"{bits:>4}  {cells[0]}    {cells[1]}"
                         + ("" if error_shown else f"   {result['quantization_error']:.3f}"))
    return lines if len(lines) > 4 else []


def best(history: list[dict]) -> list[str]:
    """The last evaluation beside the best one, by code length; nothing if there was only one."""
    if len(history) < 2:
        return []
    protocol, measure, chosen_with, meaning = (
        ("unpaired", "map", "labels", "unpaired mAP@all") if has_map(history[-1]) else
        ("partners", "recall@10", "partners", "R@10"))
    lines = ["", f"Report the last epoch. The best was chosen with the queries' {chosen_with}:",
             f"      {meaning}, mean of I2T and T2I", "bits    last    best  at epoch"]
    for bits in history[-1]:
        if bits != "epoch":
            scores = [sum(entry[bits][protocol][direction][measure] for direction in ("i2t", "t2i")) / 2
                      for entry in history]
            epoch = history[int(np.argmax(scores))]["epoch"]
            lines.append(f"{bits:>4}  {scores[-1]:.4f}  {max(scores):.4f}  {epoch:8}")
    return lines


def terminal_lines(gallery: dict | None, queries: int = 3) -> list[str]:
    """Sample retrievals (reporting/gallery.py) in emoji, one a line; nothing if the data set has no emoji.

    ``queries`` is the largest number of them in each direction.
    """
    if not gallery or "emoji" not in gallery["i2t"][0]["query"]:
        return []
    code = f"{gallery['bits']} bits" if gallery["bits"] else "real-valued"
    marks = "- has no common glyph" if gallery["i2t"][0]["items"][0]["relevant"] is None else (
        "* shares a label, - has no common glyph")
    lines = [f"Sample retrievals, {code}, unpaired ({marks}):"]
    for direction, name in (("i2t", "image"), ("t2i", "text")):
        samples = [sample for sample in gallery[direction] if sample["query"]["emoji"]]
        for sample in samples[::-(-len(samples) // queries) or 1]:
            query = sample["query"]["emoji"] if direction == "i2t" else sample["query"]["text"]
            line = f"  {name:5} {clip(query, 24)} ->"
            for item in sample["items"]:
                more = " " + (item.get("emoji") or "-") + ("*" if item["relevant"] else " ")
                if columns_of(line + more) > MAX_COLUMNS:  # joined emoji take several places on most terminals
                    break
                line += more
            lines.append(printable(line.rstrip()))
    return lines + [""]
