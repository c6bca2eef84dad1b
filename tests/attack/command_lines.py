"""Command lines with wrong values, for every option of every script; prints a line of JSON for each: what came of it,
its seed, and a detail. ``python -m attack.command_lines MODULE[,...] FIRST_SEED END FOLDER``, started by
``attack.__main__``; "command lines" stands for all modules.

Scripts, commands and options are found in the parsers themselves. A command line is one that is right, with one or two
options given wrongly; the first ones are the right ones, with nothing wrong.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attack.sandbox import BEGUN, LOCKED, TRAINING, Ran, Sandbox, begin
from common.errors import MESSAGE, InputError, Parser

ROOT = Path(__file__).resolve().parent.parent.parent

# Command lines that are right, as far as a script or a command of one needs any.
SMALL = ("--query", "1", "--train", "2", "--out", "made/made.h5")
RIGHT: dict[tuple[str, ...], tuple[str, ...]] = {
    ("ICMR",): TRAINING,
    ("demo_progressive_vs_original",): (*TRAINING, "--seeds", "0"),
    ("test_progressive_hash",): (*TRAINING, "--hash_lens", "4"),
    ("load_data",): ("toy",),
    ("report",): ("results/toy/run",),
    ("export_model",): ("model.pth", "--out", "exported", "--to", "half"),
    ("benchmark",): ("--datasets", "toy", "--seeds", "1"),
    ("benchmarks.check",): ("--records_dir", str(ROOT / "docs/results"), "--data_dir", str(ROOT / "data"),
                            "--dataset", "openmoji"),
    ("benchmarks.compare",): ("results/toy/run", "results/toy/other"),
    ("benchmarks.search_speed",): ("--dataset", "toy", "--bits", "8"),
    ("search", "build"): ("--checkpoint", "model.pth", "--dataset", "toy", "--folder", "built"),
    ("search", "add"): ("--folder", "index", "--image_features", "image.npy", "--captions", "captions.txt"),
    ("search", "remove"): ("--folder", "index", "--ids", "20"),
    ("search", "update"): ("--folder", "index", "--ids", "20", "21", "22", "--image_features", "image.npy"),
    ("search", "query"): ("--folder", "index", "--item", "0"),
    ("search", "info"): ("--folder", "index"),
    ("search", "serve"): ("--folder", "index", "--port", "0"),
    ("search", "export"): ("--folder", "index", "--out", "made.parquet"),
    ("search", "load"): ("--folder", "index", "--to", "duckdb:made.db"),
    ("search", "evaluate"): ("--folder", "index", "--rerank", "60"),
    **{("extract_features", name): ("--root", f"downloads/{name}", *SMALL)
       for name in ("mirflickr", "nus-wide", "coco", "flickr30k", "flickr8k")},
    ("extract_features", "folder"): ("--images", "photos", "--captions", "photos.csv", "--out", "made/made.h5"),
    ("extract_features", "inspect"): ("toy",),
}
REFUSED = {("extract_features", "openmoji"), ("serving.load_test",)}  # these are right, but would need a network

DRAWING = ("demo_progressive_vs_original", "draw_overview"), ("test_progressive_hash", "draw_stages")  # takes seconds

NAME = "command lines"
LONG = "x" * 5000
NAMES = ("", " ", "nope", LONG, "a\nb", "a\0b", "\udcff", "-", "--", "../..", "日本", "%s{}", "'")
PATHS = (*NAMES, "photos", "captions.txt", "image.npy", "model.pth", "toy.h5", "../pipe", LOCKED, f"{LOCKED}/file",
         "/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", "captions.txt/below", "no/such/file", "x/" * 3000)
NUMBERS = ("", "x", "nan", "inf", "-inf", "1e400", "-1", "0", "1" + "0" * 30, "-1" + "0" * 30, "9" * 5000, "1.5",
           "0x10", "1e30", "1e-320", "2**3", "٣", "1\n2", "1\0", "\udcff", LONG)
CHOICES = ("", "nope", LONG, "a\nb", "a\0", "\udcff", "0", "-1")
KEPT = "/log.txt", "/training.log", ".problems.txt"  # these say what was wrong; what lies in .partial/ is gone on with
NEVER = {"nan", "inf", "-inf", "1e400"}  # no number that is asked for may be one of these


class Target(NamedTuple):
    """A script or a command of one, with all that can be given to it."""

    module: str
    command: tuple[str, ...]  # before all options
    right: tuple[str, ...]
    actions: tuple[argparse.Action, ...]
    exclusive: tuple[tuple[argparse.Action, ...], ...]  # groups of options that exclude each other

    @property
    def name(self) -> str:
        return " ".join((self.module, *self.command))


class Asked(BaseException):
    """A parser has been asked for something that no parser knows."""


def scripts() -> list[str]:
    """The modules whose ``main`` is a command line."""
    files = (path.relative_to(ROOT) for pattern in ("*.py", "benchmarks/*.py", "serving/*.py")
             for path in ROOT.glob(pattern))
    return sorted(".".join(file.with_suffix("").parts) for file in files
                  if "@exit_on_bad_input\ndef main(" in (ROOT / file).read_text(encoding="utf-8"))


def parsers_of(module: str) -> list[Parser]:
    """The parsers that a script makes, the first being the one that is asked first."""
    made: list[Parser] = []
    plain = Parser.__init__

    def init(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        made.append(self)

    Parser.__init__ = init
    try:
        importlib.import_module(module).main.__wrapped__(["--no_such_option"])
    except InputError:
        pass
    finally:
        Parser.__init__ = plain
    return made


def targets() -> Iterator[Target]:
    """Everything that is attacked."""
    for module in scripts():
        parsers = parsers_of(module)
        below = {id(child): (name, child) for parser in parsers for action in parser._actions
                 if isinstance(action, argparse._SubParsersAction) for name, child in action.choices.items()}
        own = {action.dest: action for parser in parsers if id(parser) not in below for action in parser._actions}
        groups = [group for parser in parsers for group in parser._mutually_exclusive_groups]
        if not below:
            yield target(module, (), own.values(), groups)
        for name, child in below.values():
            yield target(module, (name,), child._actions, child._mutually_exclusive_groups)


def target(module: str, command: tuple[str, ...], actions: Sequence[argparse.Action], groups: list) -> Target:
    right = RIGHT.get((module, *command), ())
    if missing := [action.option_strings[0] for action in actions
                   if action.required and action.option_strings and not {*action.option_strings} & {*right}]:
        raise AssertionError(f"RIGHT: {module} {' '.join(command)} needs {missing[0]}")
    return Target(module, command, right,
                  tuple(action for action in actions if not isinstance(action, argparse._HelpAction)),
                  tuple(tuple(group._group_actions) for group in groups))


# --- wrong command lines --------------------------------------------------------------------------------------------


def wrong_values(action: argparse.Action) -> Sequence[str]:
    """Values that are wrong for an option by its type, or at the edge of what is right."""
    if action.choices is not None:
        return CHOICES
    kind = action.type
    if kind is not None and kind not in (int, float, str, Path):  # a function that reads a value
        default = action.default[0] if isinstance(action.default, list) and action.default else action.default
        kind = type(default)
    return NUMBERS if kind in (int, float) else CHOICES if kind is bool else PATHS


def given_wrongly(action: argparse.Action, rng: random.Random) -> list[str]:
    """An option of a command line, and what follows it, given wrongly."""
    option = [rng.choice(action.option_strings)] if action.option_strings else []
    if action.nargs == 0:
        return rng.choice(([f"{option[0]}={rng.choice(CHOICES)}"], [option[0], "stray"]))
    way = rng.random()
    value = rng.choice(wrong_values(action))
    if way < 0.06 and option:
        return option  # without a value
    if way < 0.12 and option:
        return [*option, value, *option, rng.choice(wrong_values(action))]
    if way < 0.2 and action.nargs == "+":
        return [*option, value, value]
    if way < 0.6 and option:
        return [f"{option[0]}={value}"]
    return [*option, value]


def command_line(seed: int, known: Sequence[Target]) -> tuple[Target, list[str]]:
    """The target and the command line of a seed; every option has its turn before one has its next."""
    if seed < len(known):
        return known[seed], [*known[seed].command, *known[seed].right]
    rng = random.Random(seed)
    options = [(target, action) for target in known for action in target.actions]
    random.Random(seed // len(options)).shuffle(options)
    target, action = options[seed % len(options)]
    wrong = given_wrongly(action, rng)
    way = rng.random()
    if way < 0.05:
        wrong += rng.choice((["--no_such_option"], ["--no_such_option=1"], ["stray"], ["-z"], ["--"], ["-"]))
    elif way < 0.1 and target.exclusive:
        wrong += [part for other in rng.choice(target.exclusive) for part in given_wrongly(other, rng)]
    elif way < 0.3:
        wrong += given_wrongly(rng.choice(target.actions), rng)
    if not action.option_strings:  # in place of what is right
        names = {name for other in target.actions for name in other.option_strings}
        right = list(target.right)
        while right and right[0] not in names:
            del right[0]
        return target, [*target.command, *wrong, *right]
    return target, [*target.command, *target.right, *wrong]


# --- what comes of them ---------------------------------------------------------------------------------------------


def classify(target: Target, argv: Sequence[str], ran: Ran) -> tuple[str, str]:
    """What came of a command line, and what tells it from what should have come."""
    lines = ran.stderr.splitlines()
    if ran.status is None:
        return "hang", ""
    if "Traceback" in ran.stderr or ran.status not in (0, 2, BEGUN):
        return "traceback" if ran.status == 1 else f"status {ran.status}", " / ".join(lines[-2:])
    if ran.status == 2:
        errors = [line for line in lines if not line.startswith("warning: ")]
        if len(errors) != 1 or not errors[0].startswith("error: ") or not 20 < len(errors[0]) <= MESSAGE + 10:
            return "a poor message", " / ".join(lines)
        left = [name for name in ran.changed if not name.endswith(KEPT) and ".partial/" not in name]
        return ("files left", ", ".join(left)) if left else ("refused", "")
    wrong = argv[len(target.command) + len(target.right):]
    numbers = {value for action in target.actions if wrong_values(action) is NUMBERS for word in wrong
               if (value := word.split("=")[-1]) in NEVER and len(wrong) < 3
               and wrong[0].split("=")[0] in action.option_strings}
    return ("accepted", f"{numbers}") if numbers else ("read", "")


def shown(target: Target, argv: Sequence[str]) -> str:
    """A command line for people to read, long words cut short."""
    return " ".join((target.module, *(repr(word) if len(word) < 80 else f"{word[:20]!r}*{len(word)}" for word in argv)))


def main(modules: str, first: int, end: int, folder: Path) -> None:
    known = [target for target in targets() if modules == NAME or target.module in modules.split(",")]
    sandbox = Sandbox(folder)
    for module, name in DRAWING:
        setattr(importlib.import_module(module), name, begin)
    for seed in range(first, end):
        target, argv = command_line(seed, known)
        ran = sandbox.run(target.module, argv)
        outcome, detail = classify(target, argv, ran)
        if seed < len(known) and outcome != ("refused" if (target.module, *target.command) in REFUSED else "read"):
            outcome, detail = "a right line refused", ran.stderr
        if ran.changed:
            sandbox.restore()
        print(json.dumps([outcome, seed, f"{shown(target, argv)}: {detail}"]), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
