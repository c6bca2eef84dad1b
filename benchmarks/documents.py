"""Everything that the documents say of results, made from the records: ``python benchmark.py tables``.

:func:`write_documents` makes RESULTS.md whole and fills the blocks of the other documents. A block lies between two
lines of Markdown that a reader doesn't see, and whatever is between them is replaced:

    <!-- results: NAME -->
    <!-- end of results -->

NAME is one of the GENERATORS of benchmarks/blocks.py and benchmarks/overall.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import blocks, exports, overall, records
from benchmarks.blocks import RESULTS
from benchmarks.evidence import Evidence, gather
from benchmarks.results import results
from common.atomic_files import check_writable, written
from common.errors import InputError, Parser, exit_on_bad_input

ROOT = Path(__file__).resolve().parents[1]

# The documents with blocks, and the blocks that each of them must have.
DOCUMENTS = {"README.md": ("unseen", "headline", "scale"),
             "README.zh-CN.md": ("unseen.zh", "headline.zh", "promises.zh", "scale.zh"),
             "PROGRESSIVE_HASH_DOCUMENTATION.md": ("promises", "scale_sweep", "balanced_loss", "constants", "nested",
                                          "label_sets", "epochs"),
             "docs/search.md": ("search_speed", "rerank", "billion")}

GENERATORS = blocks.GENERATORS | overall.GENERATORS

_BEGIN, _END = re.compile(r"<!--\s*results\b:?\s*(.*?)\s*-->", re.IGNORECASE), "<!-- end of results -->"


@exit_on_bad_input
def main(argv: list[str] | None = None) -> list[Path]:
    parser = Parser(prog="benchmark.py tables", description=__doc__.split("\n\n")[0])
    parser.add_argument("--export", type=Path, metavar="DIR", help="also write every table there as LaTeX and CSV")
    options = parser.parse_args(argv)
    if options.export:
        check_writable(options.export, "export")
    written = write_documents(ROOT, **recorded(ROOT))
    for path in written:
        print(path.relative_to(ROOT))
    if options.export:
        names = [name for name in (RESULTS, *DOCUMENTS) if not name.endswith(".zh-CN.md")]  # it has the same tables
        tables = [path for name in names for path in
                  exports.write(_read(ROOT / name), options.export, Path(name).stem.lower(), blocks=name != RESULTS)]
        print(f"{options.export}: {len(tables)} files of tables")
    if not written:
        print("Every document says what the records say; nothing was written.")
    return written


def recorded(root: Path) -> dict:
    """What is recorded in ``docs/results``, as :func:`write_documents` takes it. Raises InputError for what is not a
    whole record, one without its commit among them.
    """
    folder = root / records.RESULTS
    measured = {name: records.read_measurement(path) for name in ("speed", "search")
                if (path := folder / f"{name}.json").exists()}
    return {"records": records.read_all(folder),
            "current": lambda method: records.code_digest(records.root_module(method)), **measured}


def write_documents(root: Path, records: list[dict], current: Callable[[str], str], speed: dict | None = None,
                    search: dict | None = None) -> list[Path]:
    """Make RESULTS.md and fill the blocks of the other documents; returns those that have changed.

    Args:
        root: the folder of the documents.
        records: of all trainings (benchmarks/records.py).
        current: the digest of the present code that decides a training of a method.
        speed, search: the measurements ``docs/results/speed.json`` and ``search.json``, if there are any.

    Raises:
        InputError: a document can't be read or lacks a block, a marker is wrong, records don't fit each other, or a
            folder refuses a document; the documents are as they were.
    """
    texts = stale(root, records, current, speed, search)
    with contextlib.ExitStack() as stack:  # all of them, before the first takes its place
        for path, text in texts.items():
            stack.enter_context(written(path, lambda file: file.write(text), "w"))
    return list(texts)


def stale(root: Path, records: list[dict], current: Callable[[str], str], speed: dict | None = None,
          search: dict | None = None) -> dict[Path, str]:
    """The documents that don't say what the records say, and what they should say; see :func:`write_documents`."""
    evidence = gather(records, current, speed, search)
    root = Path(root)
    found = {root / RESULTS: (_read(root / RESULTS) if (root / RESULTS).exists() else "",
                              "\n".join(results(evidence)) + "\n")}
    for name, required in DOCUMENTS.items():
        text = _read(root / name)
        found[root / name] = text, filled(name, text, evidence, required)
    return {path: new for path, (old, new) in found.items() if new != old}


def _read(path: Path) -> str:
    return records.read_text(path, "a document in UTF-8")


def filled(name: str, text: str, evidence: Evidence, required: Sequence[str] = (),
           generators: Mapping[str, Callable[[Evidence], list[str]]] = GENERATORS) -> str:
    """A document with its blocks filled anew, by the generators of these names.

    Raises:
        InputError: with the document and the line, if a marker is wrong or a required block is missing.
    """
    lines, found, begun = [], [], None
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{name}, line {number}"
        if marker := _BEGIN.fullmatch(line.strip()):
            if begun:
                raise InputError(f"{where}: a block begins within the one of line {begun}; end that with a line {_END}")
            block = marker[1]
            if block not in generators:
                raise InputError(f"{where}: no block is named {block!r}; expected one of {', '.join(generators)}")
            begun = number
            found.append(block)
            lines += [line, *generators[block](evidence)]
        elif line.strip() == _END:
            if not begun:
                raise InputError(f"{where}: a block ends that doesn't begin; begin it with a line "
                                 f"<!-- results: NAME -->")
            begun = None
            lines.append(line)
        elif not begun:
            lines.append(line)
    if begun:
        raise InputError(f"{name}, line {begun}: the block {found[-1]} isn't closed; end it with a line {_END}")
    if missing := [block for block in required if block not in found]:
        raise InputError(f"{name}, line {len(lines)}: ends without the block {missing[0]}; put the lines "
                         f"<!-- results: {missing[0]} --> and {_END} where its table belongs")
    return "\n".join(lines)
