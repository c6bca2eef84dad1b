"""Figures that the scripts and the report share: one look, one way to draw, one way to save.

A *series* is ``{label: {"x": [...], "y": [[...], ...]}}``: one list of y for each run (a seed). Drawn is the mean over
the runs, with their standard deviation (n - 1) as a band or as error bars where there are two or more. *Panels* are
``{title: series}``, drawn side by side on one y axis; a label keeps its colour, dash and marker in all of them.
Colours are those of Okabe & Ito ("Color Universal Design", 2008), which people with colour vision deficiencies can
tell apart.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.errors import InputError
from common.atomic_files import write_atomically

COLUMN, PAGE = 3.4, 7.0  # inches: the width of one column of a paper, and of both
DPI = 200
WAYS = {"i2t": "image to text", "t2i": "text to image"}
INK = "#1b1b1b"  # of all that is neither data nor background
BLUE, RED, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE = {
    "font.family": ["DejaVu Sans"], "font.size": 7.5, "axes.titlesize": 8,
    "axes.labelsize": 7.5, "legend.fontsize": 7, "legend.title_fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#888888",
    "grid.alpha": 0.25, "grid.linewidth": 0.5, "lines.linewidth": 1.3, "lines.markersize": 3.2,
    "legend.frameon": False, "legend.columnspacing": 1.2,
    "figure.constrained_layout.use": True, "savefig.facecolor": "white", "svg.hashsalt": "plots",
    "svg.fonttype": "path",
}
styled = matplotlib.rc_context(STYLE)  # a decorator: whatever the function draws looks like this


# --- language -----------------------------------------------------------------------------------------------------

CHINESE = {
    "epoch": "训练轮次", "training loss": "训练损失", "scale": "缩放系数 scale", "code length (bits)": "码长（比特）",
    "recall": "召回率", "precision": "查准率", "N (items retrieved)": "N（返回的条目数）", "precision@N": "查准率@N",
    "image to text": "以图搜文", "text to image": "以文搜图", "quantization error": "量化误差",
    "share of code values (%)": "码值占比（%）", "code value tanh(scale · x)": "码值 tanh(scale · x)",
    "progressive": "渐进式", "original": "原始方法", "progr.": "渐进式", "measured": "实测", "expected": "预期",
    "expected of normal x": "x 为正态分布时的理论值", "mean ± s.d., {} seeds": "均值 ± 标准差，{} 个随机种子",
    "{} bits": "{} 比特", "codes of {} bits": "{} 比特的码", "epoch {}, scale {:.2f}": "第 {} 轮，scale {:.2f}",
    "share with |code| > 0.9": "|码值| > 0.9 的占比", "mean of (|code| - 1)²": "(|码值| - 1)² 的均值",
    "mean |mean of a bit|": "每位均值的绝对值", "quantization error in training": "训练中的量化误差",
    "effect": "指标", "change": "变化", "verdict": "结论", "mAP@all, points": "mAP@all（百分点）",
    "mAP@50, points": "mAP@50（百分点）", "loss jitter, %": "损失抖动（%）", "mAP jitter, %": "mAP 抖动（%）",
    "epochs to 95 % mAP": "达到 95 % mAP 的轮次", "time an epoch, s": "每轮用时（秒）", "+2 to +5": "+2 至 +5",
    "smoother": "更平滑", "-5 to -10 %": "-5 至 -10 %", "-50 % or more": "-50 % 以上", "under +1 %": "低于 +1 %",
    "as expected": "符合预期", "below expected": "低于预期", "worse": "变差", "unclear": "不明确", "more": "更多",
    "not measurable": "无法测量", "no change": "无变化", "scale {:g}": "缩放 {:g}",
}
CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "Microsoft YaHei",
             "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
             "Noto Sans CJK JP", "Droid Sans Fallback", "Arial Unicode MS")
_words: dict[str, str] = {}


def set_language(language: str) -> str | None:
    """Label the figures in ``en`` or ``zh`` from now on. Returns a note where no Chinese font is there."""
    _words.clear()
    STYLE["font.family"] = ["DejaVu Sans"]
    if language == "en":
        return None
    needed = set("".join(CHINESE.values())) - set(map(chr, range(0x2000)))
    for name in CJK_FONTS:
        for entry in font_manager.fontManager.ttflist:
            if entry.name == name and needed <= set(map(chr, font_manager.get_font(entry.fname).get_charmap())):
                STYLE["font.family"] = ["DejaVu Sans", name]
                _words.update(CHINESE)
                return None
    return ("note: no font with Chinese characters was found, so the figures are labelled in English; "
            "install one, such as Noto Sans CJK SC, for --lang zh")


def tr(text: str) -> str:
    """A label in the language of the figures."""
    return _words.get(text, text)


# --- drawing ------------------------------------------------------------------------------------------------------


@styled
def new_figure(rows: int = 1, columns: int = 1, width: float = PAGE, height: float = 2.3,
               **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` axes, sizes in inches, and the array (rows, columns) of its axes."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@styled
def draw_series(axes: Axes, series: dict[str, dict], markers: bool = False, bars: bool = False) -> None:
    """Draw a series into ``axes``: means as lines, standard deviations as bands, or as error bars with ``bars``.

    Raises:
        InputError: there is nothing to draw, or x and y don't fit each other.
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
        # A mean over one run is the run: no band says that there is nothing to compare it with.
        spread = runs.std(axis=0, ddof=1) if len(runs) > 1 else None
        dash = DASHES[(number + number // len(COLOURS)) % len(DASHES)]  # no two lines look the same
        look = dict(color=COLOURS[number % len(COLOURS)], linestyle=dash, label=label,
                    zorder=3 + number * 0.01, marker=MARKERS[number % len(MARKERS)] if markers or len(x) == 1 else None)
        if bars:
            axes.errorbar(x, mean, spread, capsize=2, elinewidth=0.8, **look)
            continue
        axes.plot(x, mean, **look)
        if spread is not None:
            axes.fill_between(x, mean - spread, mean + spread, color=look["color"], alpha=0.18, linewidth=0)


@styled
def draw_histograms(axes: Axes, histograms: dict[str, dict]) -> None:
    """Draw ``{label: {"edges": (bins + 1), "share": (bins)}}`` (curves.code_histogram) as outlines, in percent."""
    if not histograms:
        raise InputError("nothing to draw: found no histograms")
    for number, (label, histogram) in enumerate(histograms.items()):
        axes.stairs(100 * np.asarray(histogram["share"]), histogram["edges"], label=label, linewidth=1.2,
                    color=COLOURS[number % len(COLOURS)], linestyle=DASHES[number % len(DASHES)])
    axes.set(xlabel=tr("code value tanh(scale · x)"), ylabel=tr("share of code values (%)"), xlim=(-1, 1),
             xticks=(-1, -0.5, 0, 0.5, 1))


@styled
def draw_panels(panels: dict[str, dict], xlabel: str, ylabel: str, height: float = 2.3, **look) -> Figure:
    """Panels side by side, with one legend below them."""
    if not panels:
        raise InputError("nothing to draw: found no panels")
    figure, axes = new_figure(1, len(panels), PAGE if len(panels) > 1 else COLUMN, height, sharey=True)
    for ax, (title, series) in zip(axes[0], panels.items()):
        draw_series(ax, series, **look)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
    axes[0, 0].set_ylabel(ylabel)
    add_legend(figure, axes[0, 0], runs_note(panels))
    return figure


@styled
def add_legend(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """A legend below the whole figure, of what is drawn in ``axes``."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = max(1, int(figure.get_size_inches()[0] / (0.42 + 0.052 * max(map(len, labels)))))
    rows = -(-len(labels) // fitting)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), title=title)


def runs_note(panels: dict[str, dict]) -> str | None:
    """What the bands are, with the number of seeds; None where there are none, or the labels differ in their number."""
    counts = {len(line["y"]) for series in panels.values() for line in series.values()}
    return tr("mean ± s.d., {} seeds").format(*counts) if len(counts) == 1 and counts != {1} else None


@styled
def set_bits(axes: Axes, bits: Sequence[int]) -> None:
    """An x axis of code lengths: evenly spaced for doubling lengths, and labelled with them."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(bits), [str(b) for b in sorted(bits)])
    axes.minorticks_off()
    axes.margins(x=0.08)


@styled
def set_epochs(axes: Axes) -> None:
    """An x axis of whole epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel(tr("epoch"))


def same_limits(axes: Sequence[Axes]) -> None:
    """Give axes, drawn already, one range of y."""
    low, high = zip(*(ax.get_ylim() for ax in axes))
    for ax in axes:
        ax.set_ylim(min(low), max(high))


# --- the figures that several scripts draw ------------------------------------------------------------------------


@styled
def map_against_bits(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP against code length; panels as in the module's description, x in bits."""
    figure = draw_panels(panels, tr("code length (bits)"), tr(ylabel), markers=True, bars=True)
    bits = sorted({int(b) for series in panels.values() for line in series.values() for b in line["x"]})
    for axes in figure.axes:
        set_bits(axes, bits)
    return figure


@styled
def map_against_epoch(panels: dict[str, dict], ylabel: str = "mAP@all") -> Figure:
    """mAP against the epoch, one panel a direction."""
    figure = draw_panels(panels, tr("epoch"), tr(ylabel))
    for axes in figure.axes:
        set_epochs(axes)
    return figure


@styled
def precision_recall(panels: dict[str, dict]) -> Figure:
    """Precision (y) at recall levels (x), from reporting/curves.py."""
    figure = draw_panels(panels, tr("recall"), tr("precision"))
    figure.axes[0].set_xlim(0, 1)
    figure.axes[0].set_ylim(0, None)
    return figure


@styled
def precision_at_n(panels: dict[str, dict]) -> Figure:
    """Precision of the first N (y) against N (x), from reporting/curves.py."""
    figure = draw_panels(panels, tr("N (items retrieved)"), tr("precision@N"), markers=True)
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
    return figure


# --- saving and showing -------------------------------------------------------------------------------------------


@styled
def save(figure: Figure, path: str | os.PathLike) -> list[Path]:
    """Write ``path``.png (200 dpi) and ``path``.svg, each whole or not at all; the same figure gives the same bytes.

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
    """The figure as an <svg> element on a transparent ground, its text and axes in the text colour around it."""
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
    """Open a window a figure, and wait until they are closed."""
    import matplotlib.pyplot as pyplot

    for figure in figures:
        pyplot.figure(figure)
    pyplot.show()
