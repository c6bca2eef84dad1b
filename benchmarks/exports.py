"""The tables of a Markdown text as files for papers: LaTeX (booktabs) and CSV.

Tables are made in Markdown, and what stands in them is turned into the other two here, so that all three say the same.
The best of what is compared is bold and the second best underlined (:func:`mark_best`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.atomic_files import write_atomically

_RULE = re.compile(r"\|(\s*:?-{3,}:?\s*\|)+")
_BLOCK = re.compile(r"<!--\s*results:\s*(\S+)\s*-->")
_GROUP = re.compile(r"(?P<name>\S.*) (?P<first>\d+)")  # the head of the first of several columns: "@all 16", "32"
_MARKED = re.compile(r"\*\*(?P<bold>.+?)\*\*|<ins>(?P<underlined>.+?)</ins>|`(?P<code>[^`]+)`"
                     r"|\[(?P<text>[^\]]+)\]\([^)]*\)")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$",
          "†": r"\textdagger{}", "×": r"$\times$", "²": r"$^2$", "|": r"\textbar{}", "<": "$<$", ">": "$>$",
          **{character: "\\" + character for character in "&%$#_{}"}}
_COMMANDS = {"bold": "textbf", "underlined": "underline", "code": "texttt"}


class Table(NamedTuple):
    """A table of a Markdown text; all cells are in Markdown.

    Args:
        name: what it is about, for the names of its files.
        numbers: of each column, whether it is aligned to the right.
    """

    name: str
    header: list[str]
    numbers: list[bool]
    rows: list[list[str]]


def mark_best(rows: Sequence[Sequence[str]], words: int = 1) -> list[list[str]]:
    """The cells with the largest number in bold and those with the second largest underlined, in each column but the
    first ``words``.

    Compared are numbers as they are printed, before any ``±``, so that cells that read the same are marked the same. A
    column with numbers in fewer than two rows has no best, with fewer than three no second best.
    """
    marked = [list(row) for row in rows]
    for column in range(words, max(map(len, rows), default=0)):
        values = {number: float(found[0]) for number, row in enumerate(rows)
                  if column < len(row) and (found := re.match(r"[+-]?\d+(\.\d+)?(?=$| ±)", row[column]))}
        ranked = sorted(set(values.values()), reverse=True)
        for number, value in values.items():
            if len(values) > 1 and value == ranked[0]:
                marked[number][column] = f"**{rows[number][column]}**"
            elif len(values) > 2 and value == ranked[1]:
                marked[number][column] = f"<ins>{rows[number][column]}</ins>"
    return marked


def tables_of(text: str, blocks: bool = False) -> list[Table]:
    """The tables of a Markdown text, named by the block of a document that they are in, or else by the headings above
    them, and numbered where that would name two the same.

    Args:
        blocks: only those in blocks, which benchmarks/documents.py writes.
    """
    found: list[Table] = []
    headings: list[str] = []
    block, lines = "", text.split("\n")
    for number, line in enumerate(lines):
        if heading := re.match(r"(#+) (.*)", line):
            headings[max(len(heading[1]) - 2, 0):] = [_short(heading[2])] * (len(heading[1]) > 1)
        if marker := _BLOCK.match(line):
            block = marker[1]
        elif line.startswith("<!-- end of results"):
            block = ""
        if number and _RULE.fullmatch(line) and (block or not blocks):
            name = block or "_".join(headings) or "table"
            count = sum(table.name == name or table.name.startswith(f"{name}-") for table in found)
            rows = []
            for row in lines[number + 1:]:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            found.append(Table(f"{name}-{count + 1}" if count else name, _cells(lines[number - 1]),
                               [cell.endswith(":") for cell in _cells(line)], rows))
    return found


def write(text: str, folder: Path, name: str, blocks: bool = False) -> list[Path]:
    """Write each of the :func:`tables_of` a text as ``<name>_<table>.tex`` and ``.csv``; returns the files.

    Raises:
        InputError: the folder refuses a file.
    """
    written = []
    for table in tables_of(text, blocks):
        for ending, content in ((".tex", latex(table)), (".csv", comma_separated(table))):
            path = Path(folder) / f"{name}_{table.name}{ending}"
            written.append(write_atomically(path, lambda file: file.write(content), "w"))
    return written


def latex(table: Table) -> str:
    """A ``tabular`` with the rules of booktabs; code lengths stand under the figure that they are of."""
    columns = "".join("r" if number else "l" for number in table.numbers)
    groups = _groups(table.header)
    lines = [r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    if any(name for name, _ in groups):
        above, rules, column = [], [], 1
        for name, heads in groups:
            width = len(heads)
            above.append(rf"\multicolumn{{{width}}}{{c}}{{{in_latex(name)}}}" if name else " &" * (width - 1))
            rules += [rf"\cmidrule(lr){{{column}-{column + width - 1}}}"] * bool(name)
            column += width
        lines += [_row(above), "".join(rules)]
    lines += [_row(in_latex(head) for _, heads in groups for head in heads), r"\midrule",
              *(_row(map(in_latex, row)) for row in table.rows), r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def comma_separated(table: Table) -> str:
    """Without marks; what stands behind a ``±`` in a column of its own."""
    header = [" ".join(filter(None, (name, plain(head)))) for name, heads in _groups(table.header) for head in heads]
    rows = [[plain(cell) for cell in row] for row in table.rows]
    spread = [number and any(" ± " in row[column] for row in rows) for column, number in enumerate(table.numbers)]
    lines = [[part for name, wide in zip(header, spread) for part in ([name, f"{name} ±"] if wide else [name])]]
    lines += [[part for cell, wide in zip(row, spread) for part in ((cell.split(" ± ") + [""])[:2] if wide else [cell])]
              for row in rows]
    text = _Text()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return "".join(text)


class _Text(list):
    write = list.append


def plain(cell: str) -> str:
    """A cell of Markdown without its marks."""
    return _MARKED.sub(lambda match: plain(next(filter(None, match.groups()))), cell)


def in_latex(cell: str) -> str:
    """A cell of Markdown in LaTeX."""
    found, place = [], 0
    for match in _MARKED.finditer(cell):
        kind, inside = match.lastgroup, match[match.lastgroup]
        inside = _escaped(inside).replace("-", "{-}") if kind == "code" else in_latex(inside)
        found += [_escaped(cell[place:match.start()]),
                  rf"\{_COMMANDS[kind]}{{{inside}}}" if kind in _COMMANDS else inside]
        place = match.end()
    return "".join([*found, _escaped(cell[place:])])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in re.sub(r"(?<![\w-])-(?=\d)", "−", text))


def _row(cells: object) -> str:
    return " & ".join(cells) + r" \\"


def _groups(header: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The columns by the figure that they are of: ``@all 16 | 32 | @50 16 | 32`` is ``@all`` and ``@50`` with two
    columns each; columns that are alone have no name.
    """
    groups: list[tuple[str, list[str]]] = []
    for head, after in zip(header, [*header[1:], ""]):
        if head.isdecimal() and groups and groups[-1][0]:
            groups[-1][1].append(head)
        elif after.isdecimal() and (first := _GROUP.fullmatch(head)):
            groups.append((first["name"], [first["first"]]))
        else:
            groups.append(("", [head]))
    return groups


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _short(heading: str) -> str:
    """What a heading says before a comma or a bracket, fit for the name of a file."""
    return "_".join(re.findall(r"[a-z0-9]+", re.split(", | \\(", heading.lower())[0])) or "table"
