"""One page about one run: ``report.html``, a single file that needs no network, made from ``metrics.json``.

ICMR.py writes it at the end of every run. ``python report.py results/openmoji/RUN`` writes it again, with pictures, where
the data set has some, if they are still at the paths that ICMR.py found them at.
"""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path

from jinja2 import Environment, TemplateError
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from reporting import plots
from common.errors import InputError, Parser, exit_on_bad_input
from common.atomic_files import write_atomically
from reporting.plots import DIRECTIONS
from reporting.terminal import has_map

THUMBNAIL = 160  # pixels, the longer side
STATISTICS = (("loss", "training loss"), ("scale", "scale"), ("mean_abs", "mean |scale · x|"),
              ("saturation", "share with |code| > 0.9"), ("quantization_error", "mean of (|code| - 1)²"),
              ("bit_balance", "mean |mean of a bit|"))  # of the training batches, in an epoch's log


def write_report(path: str | os.PathLike, results: dict) -> Path:
    """Write the page of a run, whole or not at all, from what its ``metrics.json`` holds and the pictures it names.

    Raises:
        InputError: the folder refuses the file.
    """
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE).render(
        run=results, trained=trained(results), name=Path(path).parent.name, ways=DIRECTIONS, thumbnail=thumbnail,
        facts=facts(results), has_map=has_map(results["final"]),
        figures=[(title, Markup(plots.svg(figure))) for title, figure in figures(results).items()])
    return write_atomically(path, lambda file: file.write(page), "w")


def trained(results: dict) -> dict:
    """How the model was trained: in a test, that of the longest code as its checkpoint says, otherwise this run."""
    by_length = {int(bits) if bits.isdigit() else 0: about for bits, about in results["trained"].items()}
    return by_length[max(by_length)] if by_length else results


def facts(results: dict) -> list[dict[str, str]]:
    """The settings; and what the training chose by itself, the environment and the data, ready to print."""
    def text(value) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key}: {text(part)}" for key, part in value.items())
        if isinstance(value, list):
            return " ".join(map(text, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    chosen = {f"{name}, chosen": value for name, value in trained(results)["chosen"].items()}
    others = {**chosen, **results["environment"], "fingerprint": results["fingerprint"]}
    return [{name: text(value) for name, value in part.items()} for part in (trained(results)["config"], others)]


def figures(results: dict) -> dict[str, Figure]:
    """The figures of the page by their captions, each one column wide. The unpaired protocol, unless said."""
    final, history, log, curves = (results[key] for key in ("final", "history", "epochs", "curves"))
    label = {name: f"{name} bits" if name.isdigit() else name for name in final}
    mean_precision = has_map(final)
    cuts = ([("unpaired", "map", "mAP@all"), ("unpaired", "map@50", "mAP@50")] if mean_precision else
            [("partners", "recall@10", "R@10")])
    drawn = {}

    if len(final) > 1:
        bits = [int(name) for name in final]
        for kind, cut, title in cuts:
            series = {DIRECTIONS[way]: {"x": bits, "y": [[final[name][kind][way][cut] for name in final]]}
                      for way in DIRECTIONS}
            if mean_precision:
                both = {way: [[final[name]["paired"][way][cut] for name in final]] for way in DIRECTIONS}
                if both["i2t"] == both["t2i"]:  # one code for both sides of a pair
                    both = {"paired, both ways": both["i2t"]}
                series |= {DIRECTIONS[way] + " (paired)" if way in DIRECTIONS else way: {"x": bits, "y": y}
                           for way, y in both.items()}
            drawn[f"{title} against code length, last epoch"] = plots.map_against_bits({title: series}, title)
    if len(history) > 1:
        epochs = [entry["epoch"] for entry in history]
        kind, cut, title = cuts[0]
        for way, direction in DIRECTIONS.items():
            series = {label[name]: {"x": epochs, "y": [[entry[name][kind][way][cut] for entry in history]]}
                      for name in final}
            drawn[f"{title} against the epoch, {direction}"] = plots.map_against_epoch({direction: series}, title)
    for x, y, draw, title in (("recall", "precision", plots.precision_recall, "Precision at each recall"),
                              ("n", "precision_at_n", plots.precision_at_n, "Precision of the first N")):
        for way, direction in DIRECTIONS.items():
            if curves and mean_precision:
                series = {label[name]: {"x": curve["unpaired"][way][x], "y": [curve["unpaired"][way][y]]}
                          for name, curve in curves.items()}
                drawn[f"{title}, {direction}"] = draw({direction: series})
    if curves:
        drawn["Values of the database's codes before the sign"] = code_values(
            {label[name]: curve["code_histogram"] for name, curve in curves.items()})
    for key, meaning in STATISTICS:
        if len(log) > 1 and key in log[0]:
            series = {meaning: {"x": [entry["epoch"] for entry in log], "y": [[entry[key] for entry in log]]}}
            drawn[f"{key.replace('_', ' ').capitalize()} in training"] = one_line(series, meaning)
    return drawn


@plots.styled
def one_line(series: dict, ylabel: str) -> Figure:
    figure, axes = plots.new_figure(width=plots.COLUMN_WIDTH, height=2.1)
    plots.draw_series(axes[0, 0], series)
    plots.set_epochs(axes[0, 0])
    axes[0, 0].set_ylabel(ylabel)
    return figure


@plots.styled
def code_values(histograms: dict[str, dict]) -> Figure:
    figure, axes = plots.new_figure(width=plots.COLUMN_WIDTH)
    plots.draw_histograms(axes[0, 0], histograms)
    plots.add_legend(figure, axes[0, 0])
    return figure


def thumbnail(path: str) -> str | None:
    """A picture as a small JPEG in a data URI; None if it isn't there any more or can't be read."""
    try:
        with Image.open(path) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            content = io.BytesIO()
            picture.convert("RGB").save(content, "JPEG", quality=80)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ run.dataset }}: {{ name }}</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5c5c5c; --ground: #fff; --card: #f5f5f3; --line: #d9d9d5;
        --hit: #007a5a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --soft: #a8a8a4; --ground: #16181a; --card: #212427; --line: #3b4045; --hit: #35c99b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--ground); color: var(--ink);
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft, figcaption, th { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .6rem; text-align: right; font-weight: normal; border-bottom: 1px solid var(--line); }
.wide th { white-space: nowrap; }
th[colspan] { text-align: center; }
.pairs { table-layout: fixed; width: 100%; }
.pairs th { width: 45%; }
.pairs th, .pairs td { text-align: left; overflow-wrap: anywhere; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; }
figure svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; }
.items { display: grid; gap: .4rem; grid-template-columns: repeat(auto-fill, minmax(6.3rem, 1fr)); list-style: none;
         padding: 0; margin: 0 0 1.2rem; }
.items li { background: var(--card); border: 2px solid transparent; border-radius: .4rem; padding: .35rem;
            font-size: .78rem; line-height: 1.3; overflow-wrap: anywhere; }
.items li.hit { border-color: var(--hit); }
.items li.query { background: none; border-color: var(--line); }
.items b { display: block; font: 1.9rem/1.3 "Noto Color Emoji", "Apple Color Emoji", "Segoe UI Emoji", sans-serif; }
.items img { display: block; max-width: 100%; height: 5rem; object-fit: contain; }
.mark { color: var(--hit); }
</style>
</head>
<body>
<h1>{{ run.dataset }} <span class="soft">{{ name }}</span></h1>
{% set real = run.final.real is defined %}
<p>{{ "Real-valued fusion" if real else "Hash codes" }},
{% if run.epochs %}
trained {{ run.epochs | length }} epochs in {{ "%.0f" | format(run.seconds.training) }} s,
{% else %}
tested from a checkpoint of epoch {{ run.history[-1].epoch }},
{% endif %}
seed {{ trained.config.seed }}. {{ "{:,}".format(run.sizes.query) }} queries, {{ "{:,}".format(run.sizes.retrieval) }}
database items, {{ "{:,}".format(run.sizes.train) }} training pairs.</p>

{% if has_map %}
<h2>Mean average precision</h2>
<p>After the last epoch, which is what to report. Relevant means sharing a label; ties in the ranking are averaged
exactly. Unpaired: each side is one modality alone. Paired: each side has seen both modalities of its pair, for
comparison with UCMFH only.</p>
<div class="wide"><table>
<tr><th></th><th colspan="4">unpaired</th><th colspan="4">paired</th><th></th><th></th></tr>
<tr><th scope="row">{{ "" if real else "bits" }}</th>
{% for way in ("I2T", "T2I", "I2T", "T2I") %}<th>{{ way }} @all</th><th>@50</th>{% endfor %}
{% if not real %}<th>quantization error</th><th>bit balance</th>{% endif %}</tr>
{% for bits, result in run.final.items() %}
<tr><th scope="row">{{ bits }}</th>
{% for protocol in ("unpaired", "paired") %}{% for way in ways %}{% for cut in ("map", "map@50") %}
<td>{{ "%.4f" | format(result[protocol][way][cut]) }}</td>{% endfor %}{% endfor %}{% endfor %}
{% if not real %}
<td>{{ "%.4f" | format(result.quantization_error) }}</td><td>{{ "%.3f" | format(result.bit_balance) }}</td>
{% endif %}</tr>
{% endfor %}
</table></div>
{% endif %}

{% if run.final.values() | selectattr("partners", "defined") | list %}
<h2>Recall of the own partner</h2>
<p>How often a query's own text, or image, is among the first K of all {{ "{:,}".format(run.sizes.query) }} of the query
split{% if has_map %}, whatever their labels. Unpaired; {% else %}, after the last epoch, which is what to report. Each
side is one modality alone; {% endif %}ties are averaged exactly.</p>
<div class="wide"><table>
<tr><th></th>{% for direction in ways.values() %}<th colspan="3">{{ direction }}</th>{% endfor %}
{% if not has_map %}<th></th><th></th>{% endif %}</tr>
<tr><th scope="row">bits</th>{% for way in ways %}<th>R@1</th><th>R@5</th><th>R@10</th>{% endfor %}
{% if not has_map %}<th>quantization error</th><th>bit balance</th>{% endif %}</tr>
{% for bits, result in run.final.items() %}
<tr><th scope="row">{{ bits }}</th>
{% for way in ways %}{% for value in result.partners[way].values() %}
<td>{{ "%.4f" | format(value) }}</td>{% endfor %}{% endfor %}
{% if not has_map %}
<td>{{ "%.4f" | format(result.quantization_error) }}</td><td>{{ "%.3f" | format(result.bit_balance) }}</td>
{% endif %}</tr>
{% endfor %}
</table></div>
{% endif %}

{% if figures %}
<h2>Curves</h2>
<p>Unpaired and after the last epoch, unless said otherwise. The same numbers are in metrics.json.</p>
<div class="grid">
{% for title, svg in figures %}
<figure role="img" aria-label="{{ title }}">{{ svg }}<figcaption>{{ title }}</figcaption></figure>
{% endfor %}
</div>
{% endif %}

<h2>Sample retrievals</h2>
{% if run.gallery %}
<p>{{ run.gallery.i2t | length }} queries, spread evenly over the query split, and the nearest
{{ run.gallery.i2t[0]["items"] | length }} items by d,
{% if run.gallery.bits %}
the Hamming distance of their {{ run.gallery.bits }}-bit codes;
{% else %}
1 - the cosine of their embeddings;
{% endif %}
items at one distance in the order of their rows. {% if has_map %}<span class="mark">✓</span> marks a shared label.
{% endif %}Each side is encoded
from one modality alone; the other is shown for the reader.</p>
{% for way, direction in ways.items() %}
<h3>{{ direction | capitalize }}</h3>
{% for sample in run.gallery[way] %}
<ul class="items">
{% for item in [sample.query] + sample["items"] %}
<li class="{{ 'query' if loop.first else 'hit' if item.relevant else '' }}">
{% set picture = thumbnail(item.picture) if item.picture else None %}
{% if picture %}<img src="{{ picture }}" alt="">{% elif item.emoji %}<b>{{ item.emoji }}</b>{% endif %}
{% if loop.first %}
<span class="soft">query:</span> {{ item.text }}<br><span class="soft">{{ item.labels | join(", ") }}</span></li>
{% else %}
{% if item.relevant %}<span class="mark" title="shares a label">✓</span>{% endif %}
{{ item.text }}<br><span class="soft">d {{ "%g" | format(item.distance) }}</span></li>
{% endif %}
{% endfor %}
</ul>
{% endfor %}
{% endfor %}
{% else %}
<p>{{ run.dataset }} has no column named caption, so there is nothing to show of a pair. data/README.md says how to add
one.</p>
{% endif %}

<h2>Settings and environment</h2>
<div class="grid">
{% for part in facts %}
<div><table class="pairs">
{% for key, value in part.items() %}
<tr><th scope="row">{{ key }}</th>
<td>{{ value }}</td></tr>
{% endfor %}
</table></div>
{% endfor %}
</div>
</body>
</html>
"""


@exit_on_bad_input
def main(argv: list[str] | None = None) -> Path:
    parser = Parser(prog="report.py", description="Write report.html of a run again, from its metrics.json.")
    parser.add_argument("run", type=Path, help="folder of the run, such as results/openmoji/RUN")
    path = parser.parse_args(argv).run / "metrics.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        written = write_report(path.with_name("report.html"), results)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}; give the folder of a finished run") from None
    except (ValueError, LookupError, TypeError, AttributeError, TemplateError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not the metrics of a run of this version ({type(error).__name__}: {error}); "
                         f"run ICMR.py again") from None
    print(written)
    return written


if __name__ == "__main__":
    main()
