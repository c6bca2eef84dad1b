"""The figures of the scripts and of the report: how they look, how they are drawn and how they are saved.

A *series* is ``{label: {"x": [...], "y": [[...], ...]}}``: x (points,) and y (runs, points), where a run is a seed.
A line is the mean over the runs; from two runs on, a band or error bars show their standard deviation (n - 1).
*Panels* are ``{title: series}``, drawn side by side on one y axis. Colour, dash and marker follow from a label's place
in its series, so all panels should have the same labels in the same order. The colours are those of Okabe & Ito
("Color Universal Design", 2008), which people with colour vision deficiencies can tell apart.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.atomic_files import write_atomically
from common.errors import InputError
from reporting.language import font_families, tr

COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches, of one column of a paper and of both
DPI = 200  # of the PNG files
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
INK = "#1b1b1b"  # the colour of text and axes
BLUE, RED, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE = {
    "font.family": font_families, "font.size": 7.5, "axes.titlesize": 8,
    "axes.labelsize": 7.5, "legend.fontsize": 7, "legend.title_fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#888888",
    "grid.alpha": 0.25, "grid.linewidth": 0.5, "lines.linewidth": 1.3, "lines.markersize": 3.2,
    "legend.frameon": False, "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True, "savefig.facecolor": "white", "svg.hashsalt": "plots",
    "svg.fonttype": "path",
}
styled = matplotlib.rc_context(STYLE)  # a decorator for functions that draw or save


# --- drawing ------------------------------------------------------------------------------------------------------


@styled
def new_figure(rows: int = 1, columns: int = 1, width: float = PAGE_WIDTH, height: float = 2.3,
               **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches, and the array (rows, columns) of its axes.

    ``options`` are those of :meth:`matplotlib.figure.Figure.subplots`, such as ``sharey``.
    """
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def draw_series(axes: Axes, series: dict[str, dict], markers: bool = False, bars: bool = False) -> None:
    """Draw a series: its means as lines, its standard deviations as bands, or as error bars with ``bars``.

    Raises:
        InputError: there is nothing to draw, or the shapes of x and y don't match.
    """
    if not series:
        raise InputError("nothing to draw: found no series")
    for number, (label, line) in enumerate(series.items()):
        runs = np.array(line["y"], dtype=float)
        x = np.asarray(line["x"], dtype=float)
        if runs.ndim != 2 or runs.size == 0 or x.shape != runs.shape[1:]:
            raise InputError(f"{label}: found x of shape {x.shape} and y of shape {runs.shape}; "
                             f"expected x (points,) and y (runs, points)")
        mean = runs.mean(axis=0)
        # One run has no deviation. A band of width 0 would claim that runs agree.
        deviation = runs.std(axis=0, ddof=1) if len(runs) > 1 else None
        # The dashes shift against the colours, so that more than six lines still look different.
        dash = DASHES[(number + number // len(COLOURS)) % len(DASHES)]
        look = dict(color=COLOURS[number % len(COLOURS)], linestyle=dash, label=label,
                    zorder=3 + number * 0.01, marker=MARKERS[number % len(MARKERS)] if markers or len(x) == 1 else None)
        if bars:
            axes.errorbar(x, mean, deviation, capsize=2, elinewidth=0.8, **look)
            continue
        axes.plot(x, mean, **look)
        if deviation is not None:
            axes.fill_between(x, mean - deviation, mean + deviation, color=look["color"], alpha=0.18, linewidth=0)


@styled
def draw_histograms(axes: Axes, histograms: dict[str, dict]) -> None:
    """Draw the outlines of histograms of code values, in percent.

    Args:
        histograms: ``{label: {"edges": (bins + 1,), "share": (bins,)}}``, as reporting/curves.py makes them.

    Raises:
        InputError: there is no histogram.
    """
    if not histograms:
        raise InputError("nothing to draw: found no histograms")
    for number, (label, histogram) in enumerate(histograms.items()):
        axes.stairs(100 * np.asarray(histogram["share"]), histogram["edges"], label=label, linewidth=1.2,
                    color=COLOURS[number % len(COLOURS)], linestyle=DASHES[number % len(DASHES)])
    axes.set(xlabel=tr("code value tanh(scale · x)"), ylabel=tr("share of code values (%)"), xlim=(-1, 1),
             xticks=(-1, -0.5, 0, 0.5, 1))


@styled
def draw_panels(panels: dict[str, dict], xlabel: str, ylabel: str, **options) -> Figure:
    """Draw panels side by side, with one legend below them.

    ``options`` are those of :func:`draw_series`.

    Raises:
        InputError: there is nothing to draw, or the shapes of x and y don't match.
    """
    if not panels:
        raise InputError("nothing to draw: found no panels")
    figure, axes = new_figure(1, len(panels), PAGE_WIDTH if len(panels) > 1 else COLUMN_WIDTH, sharey=True)
    for ax, (title, series) in zip(axes[0], panels.items()):
        draw_series(ax, series, **options)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
    axes[0, 0].set_ylabel(ylabel)
    add_legend(figure, axes[0, 0], runs_note(panels))
    return figure


@styled
def add_legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Put a legend of what is drawn in ``axes`` below the whole figure, its entries spread evenly over its rows."""
    handles, labels = axes.get_legend_handles_labels()
    entry_width = 0.42 + 0.052 * max(map(len, labels))  # inches: the handle with its margins, and the characters
    columns = max(1, int(figure.get_size_inches()[0] / entry_width))
    rows = -(-len(labels) // columns)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), title=title)


def runs_note(panels: dict[str, dict]) -> str | None:
    """What the bands or error bars show, and of how many seeds; None without any, or if the lines differ in seeds."""
    counts = {len(line["y"]) for series in panels.values() for line in series.values()}
    return tr("mean ± s.d., {} seeds").format(*counts) if len(counts) == 1 and counts != {1} else None


@styled
def set_bits(axes: Axes, bits: Sequence[int]) -> None:
    """Make the x axis one of code lengths: logarithmic, with a tick at each of ``bits``."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(bits), [str(b) for b in sorted(bits)])
    axes.minorticks_off()
    axes.margins(x=0.08)


@styled
def set_epochs(axes: Axes) -> None:
    """Make the x axis one of epochs, with ticks at whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel(tr("epoch"))


def same_limits(axes: Sequence[Axes]) -> None:
    """Give axes one range of y, wide enough for what is already drawn in each."""
    low, high = zip(*(ax.get_ylim() for ax in axes))
    for ax in axes:
        ax.set_ylim(min(low), max(high))


# --- the figures that several scripts draw ------------------------------------------------------------------------


@styled
def map_against_bits(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP, or the measure that ``ylabel`` names, against the code length: panels with x in bits."""
    figure = draw_panels(panels, tr("code length (bits)"), tr(ylabel), markers=True, bars=True)
    bits = sorted({int(b) for series in panels.values() for line in series.values() for b in line["x"]})
    for axes in figure.axes:
        set_bits(axes, bits)
    return figure


@styled
def map_against_epoch(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP, or the measure that ``ylabel`` names, against the epoch: panels with x in epochs."""
    figure = draw_panels(panels, tr("epoch"), tr(ylabel))
    for axes in figure.axes:
        set_epochs(axes)
    return figure


@styled
def precision_recall(panels: dict[str, dict]) -> Figure:
    """Precision against recall: panels as in ``metrics.json`` (reporting/curves.py), x the recall, y the precision."""
    figure = draw_panels(panels, tr("recall"), tr("precision"))
    figure.axes[0].set_xlim(0, 1)
    figure.axes[0].set_ylim(0, None)
    return figure


@styled
def precision_at_n(panels: dict[str, dict]) -> Figure:
    """Precision of the first N items against N: panels as in ``metrics.json`` (reporting/curves.py)."""
    figure = draw_panels(panels, tr("N (items retrieved)"), tr("precision@N"), markers=True)
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    return figure


# --- saving and showing -------------------------------------------------------------------------------------------


@styled
def save(figure: Figure, path: str | os.PathLike) -> list[Path]:
    """Write ``path``.png (200 dpi) and ``path``.svg, each whole or not at all; the same figure gives the same bytes.

    Returns:
        The paths of the two files.

    Raises:
        InputError: the folder refuses them.
    """
    written = []
    for suffix, options in ((".png", {"dpi": DPI, "metadata": {"Software": None}, "pil_kwargs": {"optimize": True}}),
                            (".svg", {"metadata": {"Date": None, "Creator": None}})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], **options)
        written.append(write_atomically(f"{os.fspath(path)}{suffix}", lambda file: file.write(content.getvalue())))
    return written


@styled
def svg(figure: Figure) -> str:
    """The figure as an <svg> element on a transparent ground, whose text and axes take the text colour of the page."""
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg"):].replace(INK, "currentColor")


def check_display() -> None:
    """Raise :class:`InputError` if no window can be opened."""
    backend = matplotlib.get_backend()  # looks for a display
    if backend.lower() not in map(str.lower, backend_registry.list_builtin(BackendFilter.INTERACTIVE)):
        raise InputError(f"--show: no display or window toolkit was found (matplotlib chose {backend}); "
                         f"leave --show out and open the saved files")


@styled
def show(figures: Sequence[Figure]) -> None:
    """Open a window for each figure, and wait until all are closed."""
    import matplotlib.pyplot as pyplot

    for figure in figures:
        canvas = pyplot.figure(figsize=figure.get_size_inches()).canvas  # before 3.11 pyplot takes only its own
        canvas.figure = figure
        figure.set_canvas(canvas)
    pyplot.show()
