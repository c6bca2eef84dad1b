"""The look of the lines in figures: colour, dash and marker, which differ together from line to line.

Each method of :data:`METHODS` looks the same in every figure. The colours were searched for so that they have a
contrast of at least 3 (WCAG 2, relative luminance) to the ground of the figure and stay as far apart as possible in
OKLab, for normal sight and for the dichromacies that Machado, Oliveira & Fernandes ("A Physiologically-based Model for
Simulation of Color Vision Deficiency", 2009) simulate. No sixteen colours are easy to tell apart for all readers; that
is what dashes and markers are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from reporting.language import tr

INK = "#1b1b1b"  # of text and axes on white; on a page they take the colour of its text
DARK_GROUND = "#16181a"  # of the report in the dark
COLOURS = {  # on white: the same line's colour on the dark ground
    "#0072b2": "#19b8f6", "#d55e00": "#ea7d24", "#029940": "#73c169", "#8409d2": "#a650cd",
    "#6f0014": "#b45363", "#9283a1": "#c5dcfd", "#0600af": "#5161f3", "#f705ff": "#f981fb",
    "#006305": "#98fc5d", "#4f057b": "#b6acb9", "#273948": "#2b968f", "#b51b02": "#ed1534",
    "#5d89ff": "#6f6f8e", "#c6009d": "#fdb5d9", "#3a0ffd": "#818fd9", "#cc65d3": "#ce71b0"}
BLUE, RED, *_ = COLOURS
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "d", "h", "x", "+", "1")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5)),
          (0, (10, 2.5)), (0, (3, 1.2, 1, 1.2)), (0, (8, 1.5, 3, 1.5)), (0, (1, 2.6)), (0, (4, 1.5, 4, 1.5, 1, 1.5)),
          (0, (12, 2, 1, 2)), (0, (2, 2)), (0, (6, 1.5, 1, 1.5, 1, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)),
          (0, (10, 1.5, 1, 1.5, 3, 1.5)))
METHODS = ("ours", "ours, progressive off", "LSH", "CCA", "CCA-ITQ", "DJSRH", "UCCH", "CIRH", "UCMFH", "CAGAN",
           "CroVCA")  # in the order of the styles
SAME = {"progressive": "ours", "original": "ours, progressive off"}  # other names of methods


class LineStyle(NamedTuple):
    """How a line is drawn."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def line_styles(labels: Iterable[str]) -> dict[str, LineStyle]:
    """The style of each of the lines of a figure, by their labels.

    A method has its own. Beside methods, other labels take the styles that no method has, in their order; without any,
    they take all styles from the first one. Up to a few hundred lines no two are alike.
    """
    labels = list(labels)
    numbers = {tr(name): METHODS.index(SAME.get(name, name)) for name in (*METHODS, *SAME)}
    free = len(METHODS) if any(label in numbers for label in labels) else 0
    others = {label: free + place for place, label in enumerate(each for each in labels if each not in numbers)}
    return {label: _style(numbers[label] if label in numbers else others[label]) for label in labels}


def _style(number: int) -> LineStyle:
    lap = number // len(COLOURS)  # from the second on, colours come with other dashes and markers
    return LineStyle(list(COLOURS)[number % len(COLOURS)], DASHES[(number + lap) % len(DASHES)],
                     MARKERS[(number + 2 * lap) % len(MARKERS)])
