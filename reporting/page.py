"""report.html: what a run did, on one page that needs no network, made from ``metrics.json`` alone.

ICMR.py writes it at the end of every run, and report.py again, in Chinese too (reporting/language.py). Where the data
set has pictures, small copies of them are in the page, if they are still at the paths that ICMR.py found them at. The
page itself is templates/report.html.
"""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from common.atomic_files import write_atomically
from common.errors import InputError
from extraction.encoders import open_image, upright
from reporting import plots
from reporting.language import page_language, page_text, tr
from reporting.plots import DIRECTIONS
from reporting.styles import COLOURS, DARK_GROUND
from reporting.terminal import has_map

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.i18n"])
TEMPLATES.policies["ext.i18n.trimmed"] = True
TEMPLATES.install_gettext_callables(page_text, lambda one, many, n: page_text(one if n == 1 else many), newstyle=True)
MEDIA_TYPES = {"svg": "image/svg+xml", "png": "image/png"}  # of the figures to download
THUMBNAIL_SIZE = 160  # pixels, the longer side
STATISTICS = {"loss": "training loss", "scale": "scale", "mean_abs": "mean |scale · x|",
              "saturation": "share with |code| > 0.9", "quantization_error": "mean of (|code| - 1)²",
              "bit_balance": "mean |mean of a bit|"}  # of the training batches, in the log of an epoch


def write_report(path: str | os.PathLike, results: dict) -> Path:
    """Write the page of a run, whole or not at all.

    Args:
        path: the file; its folder gives the run its name.
        results: what the run's ``metrics.json`` holds.

    Returns:
        ``path``.

    Raises:
        InputError: the folder refuses the file.
        LookupError, TypeError, ValueError, AttributeError, jinja2.TemplateError: ``results`` are not those of a run.
    """
    html = TEMPLATES.get_template("report.html").render(
        run=results, run_name=Path(path).absolute().parent.name, trained=training_of(results),
        settings=settings(results), directions=DIRECTIONS, has_map=has_map(results["final"]), thumbnail=thumbnail,
        language=page_language(), ground=DARK_GROUND, dark_lines=list(COLOURS.values()),
        figures=[shown_figure(*each) for each in figures(results).items()])
    return write_atomically(path, lambda file: file.write(html), "w")


def training_of(results: dict) -> dict:
    """How the model was trained: in a test, that of the longest code as its checkpoint says, otherwise this run."""
    by_length = {int(bits) if bits.isdigit() else 0: about for bits, about in results["trained"].items()}
    return by_length[max(by_length)] if by_length else results


def settings(results: dict) -> list[dict[str, str]]:
    """Two tables of names and printed values: the settings; what the training chose, the environment and the data."""
    def text(value) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key}: {text(part)}" for key, part in value.items())
        if isinstance(value, list):
            return " ".join(map(text, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    training = training_of(results)
    chosen = {f"{name}, chosen": value for name, value in training["chosen"].items()}
    others = {**chosen, **results["environment"], "fingerprint": results["fingerprint"]}
    return [{name: text(value) for name, value in table.items()} for table in (training["config"], others)]


# --- the figures --------------------------------------------------------------------------------------------------


def shown_figure(caption: str, figure: Figure) -> dict:
    """What the page has of a figure: its ``caption``, the ``svg`` element, and its files as ``downloads``: their kind,
    name and data URI.
    """
    files = plots.render(figure, "svg", "png")
    name = re.sub(r"[^\w@]+", "_", caption.lower()).strip("_")
    return {"caption": caption, "svg": Markup(plots.for_page(files["svg"].decode())),
            "downloads": [(suffix.upper(), f"{name}.{suffix}", data_uri(content, MEDIA_TYPES[suffix]))
                          for suffix, content in files.items()]}


def figures(results: dict) -> dict[str, Figure]:
    """The figures of the page by their captions, each one column wide; of the unpaired protocol, unless they say so."""
    return {**code_length_figures(results["final"]), **epoch_figures(results["history"]),
            **ranking_figures(results["curves"]), **code_value_figures(results["curves"]),
            **training_figures(results["epochs"])}


def code_length_figures(final: dict) -> dict[str, Figure]:
    """The last evaluation against the code length, if there are several."""
    if len(final) < 2:
        return {}

    def values(protocol: str, measure: str, suffix: str = "") -> dict[str, list[float]]:
        return {tr(name) + suffix: [result[protocol][direction][measure] for result in final.values()]
                for direction, name in DIRECTIONS.items()}

    drawn = {}
    caption = page_text("{} against code length, last epoch")
    for protocol, measure, title in measures(final):
        lines = values(protocol, measure)
        if has_map(final):
            i2t, t2i = values("paired", measure).values()  # equal where a pair has one code for both of its sides
            lines |= {tr("paired, both ways"): i2t} if i2t == t2i else values("paired", measure, tr(" (paired)"))
        bits = [int(name) for name in final]
        series = {name: {"x": bits, "y": [line]} for name, line in lines.items()}
        drawn[caption.format(title)] = plots.map_against_bits({title: series}, title)
    return drawn


def epoch_figures(history: list[dict]) -> dict[str, Figure]:
    """The evaluations against the epoch, if there were several, a line for each code length."""
    if len(history) < 2:
        return {}
    epochs = [evaluation["epoch"] for evaluation in history]
    protocol, measure, title = measures(history[-1])[0]
    drawn = {}
    for direction, name in DIRECTIONS.items():
        series = {code_name(bits): {"x": epochs, "y": [[evaluation[bits][protocol][direction][measure]
                                                        for evaluation in history]]}
                  for bits in history[-1] if bits != "epoch"}
        drawn[page_text("{} against the epoch, {}").format(title, page_text(name))] = plots.map_against_epoch(
            {tr(name): series}, title)
    return drawn


def ranking_figures(curves: dict) -> dict[str, Figure]:
    """Precision along the rankings, where there are labels, a line for each code length."""
    drawn = {}
    for x, y, draw, title in (("recall", "precision", plots.precision_recall, "Precision at each recall"),
                              ("n", "precision_at_n", plots.precision_at_n, "Precision of the first N")):
        for direction, name in DIRECTIONS.items():
            series = {code_name(bits): {"x": curve["unpaired"][direction][x], "y": [curve["unpaired"][direction][y]]}
                      for bits, curve in curves.items() if "unpaired" in curve}
            if series:
                drawn[page_text("{}, {}").format(page_text(title), page_text(name))] = draw({tr(name): series})
    return drawn


@plots.styled
def code_value_figures(curves: dict) -> dict[str, Figure]:
    """The distribution of the database's code values, for each code length."""
    if not curves:
        return {}
    figure, axes = plots.new_figure(width=plots.COLUMN_WIDTH)
    plots.draw_histograms(axes[0, 0], {code_name(bits): curve["code_histogram"] for bits, curve in curves.items()})
    plots.add_legend(figure, axes[0, 0])
    return {page_text("Values of the database's codes before the sign"): plots.finish(figure)}


@plots.styled
def training_figures(log: list[dict]) -> dict[str, Figure]:
    """Each of the :data:`STATISTICS` against the epoch, if there were several."""
    drawn = {}
    for key, meaning in STATISTICS.items():
        if len(log) > 1 and key in log[0]:
            figure, axes = plots.new_figure(width=plots.COLUMN_WIDTH, height=2.1)
            plots.draw_series(axes[0, 0], {meaning: {"x": [entry["epoch"] for entry in log],
                                                     "y": [[entry[key] for entry in log]]}})
            plots.set_epochs(axes[0, 0])
            axes[0, 0].set_ylabel(tr(meaning))
            name = page_text(key.replace("_", " ").capitalize())
            drawn[page_text("{} in training").format(name)] = plots.finish(figure)
    return drawn


def measures(evaluation: dict) -> list[tuple[str, str, str]]:
    """The measures to draw, as (protocol, key, title): mAP, or the recall of the own partner without labels."""
    if has_map(evaluation):
        return [("unpaired", "map", "mAP@all"), ("unpaired", "map@50", "mAP@50")]
    return [("partners", "recall@10", "R@10")]


def code_name(bits: str) -> str:
    """How a legend calls the codes of a length, or the real-valued embeddings."""
    return tr("{} bits").format(bits) if bits.isdigit() else tr(bits)


# --- the pictures -------------------------------------------------------------------------------------------------


def thumbnail(path: str) -> str | None:
    """A small JPEG of a picture as a data URI; None if the picture is gone or can't be read."""
    try:
        with open_image(Path(path)) as opened:
            opened.draft("RGB", (2 * THUMBNAIL_SIZE, 2 * THUMBNAIL_SIZE))  # a JPEG is decoded no larger than it needs
            picture = upright(opened)
    except InputError:
        return None
    picture.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return data_uri(content.getvalue(), "image/jpeg")


def data_uri(content: bytes, media_type: str) -> str:
    """Content as a part of the page."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
