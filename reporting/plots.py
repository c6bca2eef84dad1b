"""The figures of the scripts and of the report: how they look, how they are drawn and how they are saved.

A *series* is ``{label: {"x": [...], "y": [[...], ...]}}``: x (points,) and y (runs, points), where a run is a seed.
A line is the mean over the runs; from two runs on, a band or error bars show their standard deviation (n - 1). Beside
x and y it may have a ``style`` (reporting/styles.py), in place of that of its label.
*Panels* are ``{title: series}``, drawn side by side on one y axis. Colour, dash and marker follow from the labels of a
series (reporting/styles.py), so all panels should have the same labels in the same order. Several panels are lettered,
and an axis says so if it is logarithmic or does not start at 0.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.atomic_files import write_atomically
from common.columns import columns_of
from common.errors import InputError
from reporting.language import font_families, tr
from reporting.styles import COLOURS, INK, line_styles

COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches, of one column of a paper and of both
DPI = 200  # of the PNG files
MAX_MARKERS = 10  # on a line
DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
FORMATS = {"png": {"dpi": DPI, "metadata": {"Software": None}},
           "svg": {"metadata": {"Date": None, "Creator": None}},
           "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}}

STYLE = {
    "font.family": font_families, "font.size": 7.5, "axes.titlesize": 8,
    "axes.labelsize": 7.5, "legend.fontsize": 7, "legend.title_fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#888888",
    "grid.alpha": 0.25, "grid.linewidth": 0.5, "lines.linewidth": 1.3, "lines.markersize": 3.2,
    "legend.frameon": False, "legend.columnspacing": 1.2, "legend.handlelength": 3.2,
    "figure.constrained_layout.use": True, "savefig.facecolor": "white", "svg.hashsalt": "plots",
    "svg.fonttype": "path", "pdf.fonttype": 42,
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
    styles = line_styles(series)
    for number, (label, line) in enumerate(series.items()):
        runs = np.array(line["y"], dtype=float)
        x = np.asarray(line["x"], dtype=float)
        if runs.ndim != 2 or runs.size == 0 or x.shape != runs.shape[1:]:
            raise InputError(f"{label}: found x of shape {x.shape} and y of shape {runs.shape}; "
                             f"expected x (points,) and y (runs, points)")
        mean = runs.mean(axis=0)
        # One run has no deviation. A band of width 0 would claim that runs agree.
        deviation = runs.std(axis=0, ddof=1) if len(runs) > 1 else None
        style = line.get("style", styles[label])
        look = dict(color=style.colour, linestyle=style.dash, label=label, zorder=4 - number * 0.01)  # the first on top
        if markers or len(series) > 1 or len(x) == 1:
            step = -(-len(x) // MAX_MARKERS)  # staggered, so that lines close together show all of their markers
            look |= {"marker": style.marker, "markevery": (number * step // len(series) if step > 1 else 0, step)}
        if bars:
            axes.errorbar(x, mean, deviation, capsize=2, elinewidth=0.8, **look)
            continue
        axes.plot(x, mean, **look)
        if deviation is not None:
            axes.fill_between(x, mean - deviation, mean + deviation, color=style.colour, alpha=0.18, linewidth=0)


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
    for label, style in line_styles(histograms).items():
        axes.stairs(100 * np.asarray(histograms[label]["share"]), histograms[label]["edges"], label=label,
                    linewidth=1.2, color=style.colour, linestyle=style.dash)
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
    lines = max(map(len, panels.values()))
    figure, axes = new_figure(1, len(panels), PAGE_WIDTH if len(panels) > 1 else COLUMN_WIDTH,
                              2.3 if lines <= 4 else 3.0, sharey=True)  # inches; the legend takes a part of it
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
    entry_width = 0.6 + 0.052 * max(map(columns_of, labels))  # inches: the handle with its margins, and the characters
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


@styled
def finish(figure: Figure) -> Figure:
    """Letter the panels of a figure, if there are several, and state on its axes what they do to the numbers.

    To be called when all is drawn and all limits are set. A y axis of positive numbers starts at 0, unless more than
    a third of it would be empty: then it says where it starts. Logarithmic axes say that they are. Returns ``figure``.
    """
    panels = [axes for axes in figure.axes if axes.axison and axes.get_visible()]
    for number, axes in enumerate(panels):
        if len(panels) > 1:
            title = axes.get_title()
            axes.set_title("")
            axes.set_title(f"({chr(ord('a') + number)}) {title}".rstrip(), loc="left")
        low, high = axes.get_ylim()
        positive = axes.get_yscale() == "linear" and axes.dataLim.ymin >= 0
        if positive and low < high / 3:
            axes.set_ylim(0, high)
        elif positive:
            step = 10.0 ** np.floor(np.log10(high - low)) / 10
            axes.set_ylim(np.floor(low / step) * step, high)
        statement = _statement(axes.yaxis)
        if axes.get_ylabel() and statement:
            axes.set_ylabel(f"{axes.get_ylabel()}\n{statement}")
        if axes.get_xlabel() and axes.get_xscale() != "linear":
            axes.set_xlabel(tr("{}, {}").format(axes.get_xlabel(), _statement(axes.xaxis)))
    return figure


def _statement(axis: Axis) -> str:
    """What the reader of an axis has to know of its scale; empty if it is an ordinary one."""
    low, _ = axis.get_view_interval()
    if axis.get_scale() == "symlog":
        return tr("linear to {:g}, log above").format(axis.get_transform().linthresh)
    if axis.get_scale() == "log":
        return tr("logarithmic")
    return tr("axis from {:g}, not 0").format(round(low, 10)) if low > 0 else ""


# --- the figures that several scripts draw ------------------------------------------------------------------------


@styled
def map_against_bits(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP, or the measure that ``ylabel`` names, against the code length: panels with x in bits."""
    figure = draw_panels(panels, tr("code length (bits)"), tr(ylabel), markers=True, bars=True)
    bits = sorted({int(b) for series in panels.values() for line in series.values() for b in line["x"]})
    for axes in figure.axes:
        set_bits(axes, bits)
    return finish(figure)


@styled
def map_against_epoch(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP, or the measure that ``ylabel`` names, against the epoch: panels with x in epochs."""
    figure = draw_panels(panels, tr("epoch"), tr(ylabel))
    for axes in figure.axes:
        set_epochs(axes)
    return finish(figure)


@styled
def precision_recall(panels: dict[str, dict]) -> Figure:
    """Precision against recall: panels as in ``metrics.json`` (reporting/curves.py), x the recall, y the precision."""
    figure = draw_panels(panels, tr("recall"), tr("precision"))
    for axes in figure.axes:
        axes.set(xlim=(0, 1), ylim=(0, None))
    return finish(figure)


@styled
def precision_at_n(panels: dict[str, dict]) -> Figure:
    """Precision of the first N items against N: panels as in ``metrics.json`` (reporting/curves.py)."""
    figure = draw_panels(panels, tr("N (items retrieved)"), tr("precision@N"), markers=True)
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    return finish(figure)


# --- saving and showing -------------------------------------------------------------------------------------------


@styled
def render(figure: Figure, *suffixes: str) -> dict[str, bytes]:
    """The figure in each of some :data:`FORMATS`; the same figure gives the same bytes. Fonts are part of a PDF, as
    TrueType outlines (Type 42), which publishers ask for.
    """
    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what was laid out is good for all formats, and takes as long as to draw one
    try:
        files = {}
        for suffix in suffixes:
            content = io.BytesIO()
            figure.savefig(content, format=suffix, **FORMATS[suffix])
            files[suffix] = content.getvalue()
    finally:
        figure.set_layout_engine(engine)
    return files


def save(figure: Figure, path: str | os.PathLike) -> list[Path]:
    """Write ``path``.png (200 dpi), ``path``.svg and ``path``.pdf, each whole or not at all.

    Returns:
        The paths of the three files.

    Raises:
        InputError: the folder refuses them.
    """
    return [write_atomically(f"{os.fspath(path)}.{suffix}", lambda file: file.write(content))
            for suffix, content in render(figure, *FORMATS).items()]


def for_page(svg: str) -> str:
    """The <svg> element of a figure for a page: on its ground, text and axes in its text colour, and lines in the
    values of its style's variables ``--line-0``, ``--line-1``, ..., where it has them, in place of the ``COLOURS``.
    """
    element = svg[svg.index("<svg"):].replace("fill: #ffffff", "fill: none").replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        element = element.replace(colour, f"var(--line-{number}, {colour})")
    return element


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
