"""Does the progressive scale help? Trains with and without it, with the same seeds, and compares the retrieval.

    python demo_progressive_vs_original.py
    python demo_progressive_vs_original.py --dataset mirflickr --hash_lens 16 64 --seeds 0 1 2 3 4 --epoch 50

"Original" is the same method with --use_progressive_hash false: its codes are tanh(x) throughout. The comparison is
printed as a table of what the quick-start guide promised beside what was measured (benchmarks/promises.py), and drawn:
mAP against code length and epoch, precision-recall curves, and the distribution of the code values. Trainings that are
finished are used again if settings, data and code are the same. Every setting of ICMR.py can be given too. Figures, as
PNG, SVG and PDF, and comparison.json lie in <results_dir>/<dataset>/demo_progressive_vs_original/.
"""

from __future__ import annotations

import ICMR  # first: it sets how threads wait, before torch loads

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import promises, records, trainings
from common.atomic_files import check_writable, write_atomically
from common.errors import InputError, Parser, exit_on_bad_input
from load_data import load_dataset
from reporting import language, plots
from reporting.language import tr
from reporting.plots import DIRECTIONS
from training.device import choose_device

NAME = "demo_progressive_vs_original"
DEFAULTS = {"dataset": "openmoji", "hash_lens": [16, 32, 64, 128], "epoch": 100, "eval_every": 2}
KINDS = {"progressive": True, "original": False}  # use_progressive_hash
OURS = ("seed", "use_progressive_hash", "task", "run_name", "checkpoint_dir", "resume")  # settings this script chooses


# --- training -----------------------------------------------------------------------------------------------------


def train_all(settings: list[str], seeds: list[int]) -> dict[str, list[dict]]:
    """The metrics of each kind for each seed, trained now or found finished."""
    base = ICMR.parse(settings, **DEFAULTS)
    for name in OURS:
        if getattr(base, name) != getattr(ICMR.Config(), name):
            raise InputError(f"--{name}: this script chooses it; leave it out (seeds are given with --seeds)")
    for seed in seeds:
        ICMR.Config(**{**vars(base), "seed": seed}).check()
    choose_device(base.device, mps=True)  # a wrong one is found before anything is written
    dataset = load_dataset(base.dataset, base.data_dir)
    dataset.require_labels("this comparison is of mAP")
    runs: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for seed in seeds:
        for kind, progressive in KINDS.items():  # in turn, so that a busy machine slows both alike
            run_name = f"{NAME}/{kind}-seed{seed}"
            folder = Path(base.results_dir) / dataset.name / run_name
            config = ICMR.Config(**{**vars(base), "seed": seed, "use_progressive_hash": progressive,
                                    "run_name": run_name, "checkpoint_dir": str(folder / "checkpoints")})
            found, _ = trainings.finished(folder / "metrics.json", vars(config), dataset.fingerprint,
                                          records.code_digest("ICMR"))
            runs[kind].append(found or train(folder, config))
            print(f"{kind}, seed {seed}: {'found' if found else 'trained'}, {folder}", flush=True)
    return runs


def train(folder: Path, config: ICMR.Config) -> dict:
    """Train without printing what ICMR.py prints, which is in ``log.txt`` in the folder of the run."""
    check_writable(folder, "results_dir")
    stamp = trainings.stamp(records.OURS, vars(config))
    with contextlib.redirect_stdout(io.StringIO()):
        results = ICMR.Solver(config).train()
    return trainings.keep(folder / "metrics.json", results, stamp)


# --- measuring ----------------------------------------------------------------------------------------------------


def verdicts(rows: list[dict], dataset: str) -> list[str]:
    """What the comparison says of the ranking, in words that claim no more than it shows."""
    lines = []
    for row in rows[:2]:
        name, change, (low, high) = row["label"].split(",")[0], row["change"], row["interval"]
        measured = f"{change:+.1f}" + ("" if row["standard_error"] is None else f" ± {row['standard_error']:.1f}")
        if low is None:
            found = f"no improvement of {name} shown, one seed can't tell ({measured} points)"
        elif low > 0:
            found = f"progressive hashing improved {name} by {measured.removeprefix('+')} points"
            found += {promises.KEPT: "", promises.BELOW: ", less than was promised"}.get(
                row["verdict"], ", and may or may not have reached the 2 that were promised")
        elif high < 0:
            found = f"no improvement, progressive hashing lowered {name} by {measured.removeprefix('-')} points"
        elif not any(row["change_by_seed"]):
            found = f"no improvement, progressive hashing left {name} as it was"
        else:
            found = f"no improvement of {name} beyond the spread of the seeds ({measured} points)"
        seeds = "with the one seed tried" if low is None else f"with {len(row['change_by_seed'])} seeds"
        lines.append(f"Verdict: {found} on {dataset}, {seeds}.")
    return lines


CELLS = ("effect", "promised", "original", "progr.", "change", "verdict")


def cells(row: dict) -> tuple[str, ...]:
    """A row of the table as text."""
    if row["change"] is None:
        return row["label"], row["promised"], "-", "-", "-", row["verdict"]
    digits = {"quantization_error": 4, "loss_roughness": 2, "map_roughness": 2, "seconds": 3}.get(row["measure"], 1)
    places = 0 if row["unit"] == "%" and abs(row["change"]) >= 10 else 1
    error = row["standard_error"]
    change = f"{row['change']:+.{places}f}" + ("" if error is None else f" ± {error:.{places}f}")
    return (row["label"], row["promised"], f"{row['original']:.{digits}f}", f"{row['progressive']:.{digits}f}",
            change + " %" * (row["unit"] == "%"), row["verdict"])


def table(rows: list[dict]) -> list[str]:
    """The guide's table for the terminal, at most 80 columns wide."""
    def line(row: tuple[str, ...]) -> str:
        return f"{row[0]:18} {row[1]:11} {row[2]:>8} {row[3]:>7} {row[4]:>13}  {row[5]}".rstrip()

    return ["", line(CELLS), *(line(cells(row)) for row in rows), "",
            "Means over seeds, code lengths and both directions, unpaired, last epoch;",
            "change ± its standard error over seeds. A verdict is given where the 95 %",
            "confidence interval of the change allows one. Roughness: mean absolute second",
            "difference in the second half of the training, of the loss in % of its level",
            "there. 95 % is of the original's last mAP@all, reached in a tested epoch. A",
            "larger scale lowers the quantization error by itself and changes no code.", ""]


# --- drawing ------------------------------------------------------------------------------------------------------


def by_kind(runs: dict[str, list[dict]], x, y) -> dict[str, dict]:
    """A series of reporting/plots.py: ``x`` of a run (the same for all), ``y`` of each run."""
    return {tr(kind): {"x": x(found[0]), "y": [y(run) for run in found]} for kind, found in runs.items()}


def series(runs: dict[str, list[dict]], bits: str) -> dict[str, dict]:
    """Everything that is drawn as lines, by the name of its panel."""
    drawn = {
        "loss": by_kind(runs, lambda run: [entry["epoch"] for entry in run["epochs"]],
                        lambda run: [entry["loss"] for entry in run["epochs"]]),
        "quantization error": by_kind(runs, lambda run: [entry["epoch"] for entry in run["epochs"]],
                                      lambda run: [entry["quantization_error"] for entry in run["epochs"]])}
    for direction in DIRECTIONS:
        drawn[f"epochs {direction}"] = by_kind(
            runs, lambda run: [entry["epoch"] for entry in run["history"]],
            lambda run: [entry[bits]["unpaired"][direction]["map"] for entry in run["history"]])
        drawn[f"bits {direction}"] = by_kind(
            runs, lambda run: [int(name) for name in run["final"]],
            lambda run: [figures["unpaired"][direction]["map"] for figures in run["final"].values()])
        drawn[f"recall {direction}"] = by_kind(
            runs, lambda run: run["curves"][bits]["unpaired"][direction]["recall"],
            lambda run: run["curves"][bits]["unpaired"][direction]["precision"])
    return drawn


def draw_bits(ax, lines: dict, direction: str) -> None:
    plots.draw_series(ax, lines[f"bits {direction}"], markers=True, bars=True)
    plots.set_bits(ax, lines[f"bits {direction}"][tr("original")]["x"])
    ax.set(title=tr(DIRECTIONS[direction]), xlabel=tr("code length (bits)"), ylabel=tr("mAP@all"))


def draw_codes(ax, runs: dict[str, list[dict]], bits: str) -> None:
    plots.draw_histograms(ax, {tr(kind): {**found[0]["curves"][bits]["code_histogram"], "share": np.mean(
        [run["curves"][bits]["code_histogram"]["share"] for run in found], axis=0)} for kind, found in runs.items()})
    ax.set_title(tr("codes of {} bits").format(bits))


@plots.styled
def draw_overview(runs: dict[str, list[dict]], bits: str) -> Figure:
    """The gain in mAP and the codes behind it, in one row."""
    figure, (axes,) = plots.new_figure(1, 3, height=2.4)
    lines = series(runs, bits)
    for ax, direction in zip(axes, DIRECTIONS):
        draw_bits(ax, lines, direction)
    plots.same_limits(axes[:2])
    draw_codes(axes[2], runs, bits)
    plots.add_legend(figure, axes[0], plots.runs_note({"": lines["loss"]}))
    return plots.finish(figure)


@plots.styled
def draw_comparison(runs: dict[str, list[dict]], rows: list[dict], bits: str) -> Figure:
    """Nine panels and the guide's table; panels of one code length show ``bits``."""
    figure, axes = plots.new_figure(4, 3, height=9.4, gridspec_kw={"height_ratios": [1, 1, 1, 1]})
    lines, at = series(runs, bits), tr("{} bits").format(bits)
    panels = (("loss", "", "epoch", "training loss"),
              ("epochs i2t", f"{tr(DIRECTIONS['i2t'])}, {at}", "epoch", "mAP@all"),
              ("epochs t2i", f"{tr(DIRECTIONS['t2i'])}, {at}", "epoch", "mAP@all"), None, None,
              ("quantization error", "", "epoch", "quantization error in training"),
              ("recall i2t", f"{tr(DIRECTIONS['i2t'])}, {at}", "recall", "precision"),
              ("recall t2i", f"{tr(DIRECTIONS['t2i'])}, {at}", "recall", "precision"))
    for ax, panel in zip(axes.flat, panels):
        if panel:
            plots.draw_series(ax, lines[panel[0]])
            ax.set(title=panel[1], xlabel=tr(panel[2]), ylabel=tr(panel[3]))
    for ax, direction in zip(axes[1], DIRECTIONS):
        draw_bits(ax, lines, direction)
    draw_codes(axes[2, 2], runs, bits)
    for ax in (*axes[0], axes[1, 2]):
        plots.set_epochs(ax)
    for ax in (axes[1, 2], *axes[2, :2]):
        ax.set_ylim(0, None)
    for pair in (axes[0, 1:], axes[1, :2], axes[2, :2]):
        plots.same_limits(pair)

    grid = axes[3, 0].get_gridspec()
    for ax in axes[3]:
        ax.remove()
    below = figure.add_subplot(grid[3, :])
    below.set_axis_off()
    drawn = below.table([[tr(text) for text in cells(row)] for row in rows], colLabels=[tr(text) for text in CELLS],
                        loc="center", edges="horizontal", colWidths=[0.24, 0.15, 0.12, 0.12, 0.17, 0.2])
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.scale(1, 1.15)
    for (_, column), cell in drawn.get_celld().items():
        cell.set_linewidth(0.4)
        cell.set_edgecolor(plots.INK)
        cell.set_text_props(ha="left" if column in (0, 1, 5) else "right")
    plots.add_legend(figure, axes[0, 0], plots.runs_note({"": lines["loss"]}))
    return plots.finish(figure)


# --- the script ---------------------------------------------------------------------------------------------------


@exit_on_bad_input
def main(argv: list[str] | None = None) -> dict:
    parser = Parser(prog=f"{NAME}.py", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N",
                        help="seeds; each trains both kinds (default: 0 1 2)")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="language of the figures' labels")
    parser.add_argument("--show", action="store_true", help="also open a window with the figures")
    options, settings = parser.parse_known_args(argv)
    if len(set(options.seeds)) != len(options.seeds):
        raise InputError(f"--seeds {' '.join(map(str, options.seeds))}: expected different seeds")
    if options.show:
        plots.check_display()
    if note := language.set_language(options.lang):
        print(note, file=sys.stderr)
    try:
        runs = train_all(settings, options.seeds)
    except SystemExit:
        print("Stopped. The finished trainings are kept; the same command continues with the others.", file=sys.stderr)
        raise
    first = runs["original"][0]
    rows = promises.compare(*([promises.of_metrics(run) for run in runs[kind]] for kind in KINDS))
    folder = Path(first["config"]["results_dir"]) / first["dataset"] / NAME
    bits = list(first["final"])[-1]
    figures = {"overview": draw_overview(runs, bits), "comparison": draw_comparison(runs, rows, bits)}
    written = [path for name, figure in figures.items() for path in plots.save(figure, folder / name)]
    comparison = {"dataset": first["dataset"], "seeds": options.seeds, "effects": rows}
    written.append(write_atomically(folder / "comparison.json",
                                    lambda file: json.dump(comparison, file, indent=1), "w"))
    for line in [*table(rows), *verdicts(rows, first["dataset"]), "", *map(str, written)]:
        print(line)
    if options.show:
        plots.show(list(figures.values()))
    return comparison


if __name__ == "__main__":
    main()
