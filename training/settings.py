"""Settings: each with its default, its bounds and its meaning in one place, from which the command line follows."""

from __future__ import annotations

import argparse
import math
import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from common import json_text
from common.errors import InputError, Parser
from common.input_files import read_text

TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a name", list: "whole numbers"}
METAVARS = {bool: "true|false", int: "whole-number", float: "number", str: "name"}


@dataclass(frozen=True)
class Rule:
    """What must hold of a setting: ``holds(value, config)``; ``expected`` says it in words, {name} standing for a value.
    """

    holds: Callable[[object, Settings], bool]
    expected: str


def at_least(least: int, why: str = "") -> Rule:
    """``least`` or more; ``why`` is added to the message."""
    return Rule(lambda value, _: least <= value < math.inf, f"{least} or more{why}")


def between(least: float, most: float) -> Rule:
    """A number from ``least`` to ``most``."""
    return Rule(lambda value, _: least <= value <= most, f"a number from {least} to {most}")


def positive(up_to: float = math.inf) -> Rule:
    """A number above 0, finite, and at most ``up_to``."""
    return Rule(lambda value, _: 0 < value <= up_to and value < math.inf,
                "a positive number" + (f" up to {up_to}" if up_to < math.inf else ""))


def one_of(*choices: str) -> Rule:
    """One of some words."""
    return Rule(lambda value, _: value in choices, f"one of {', '.join(choices)}")


@dataclass(frozen=True)
class Note:
    """What is known of a setting besides its default."""

    group: str
    help: str
    rules: tuple[Rule, ...]
    outcome: bool


class Settings:
    """A base for classes whose attributes are settings; ``vars()`` of one holds the settings and nothing else.

    A subclass states its settings in ``__init__``: an assignment for the default, and behind it what it ``means``. At
    the end it calls :meth:`override` with what it was given.
    """

    __slots__ = ("_group", "_notes")  # beside the settings, not among them

    def __init__(self) -> None:
        self._group = ""
        self._notes: dict[str, Note] = {}

    def group(self, title: str) -> None:
        """Begin a group of settings, which ``--help`` shows together."""
        self._group = title

    def means(self, help: str, *rules: Rule, real: bool = False, outcome: bool = True) -> None:
        """Say of the setting assigned last what it means, and which rules hold for it.

        Args:
            real: whether it is a real number, so that a default of 8 stands for 8.0.
            outcome: whether it decides what a training gives. Two runs are the same training, and one can be resumed
                as the other, if all such settings are equal.
        """
        *_, name = vars(self)
        if real:
            setattr(self, name, float(getattr(self, name)))
        self._notes[name] = Note(self._group, help, rules, outcome)

    def override(self, given: dict[str, object]) -> None:
        """Set what was ``given``. Raises :class:`InputError` for an unknown setting or one of another type."""
        for name, value in given.items():
            if name not in vars(self):
                raise InputError(f"unknown setting {name!r}; the settings are {', '.join(vars(self))}")
            default = getattr(self, name)
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            if isinstance(default, list) and type(value) in (int, tuple):
                value = [value] if type(value) is int else list(value)
            if type(value) is not type(default):
                raise InputError(f"{name} = {reprlib.repr(value)}: expected {TYPES[type(default)]}, such as "
                                 f"{default!r}")
            setattr(self, name, value)
        if silent := vars(self).keys() - self._notes.keys():
            raise TypeError(f"settings without a meaning: {', '.join(sorted(silent))}; say what each means()")

    def check(self) -> None:
        """Raise :class:`InputError` for the first setting that has another type or breaks a rule.

        Settings that were assigned since are brought to what they can be, such as 8 to 8.0.
        """
        vars(self).update(vars(type(self)(**vars(self))))
        for name, note in self._notes.items():
            for rule in note.rules:
                if not rule.holds(getattr(self, name), self):
                    raise InputError(f"--{name} {getattr(self, name)}: expected {rule.expected.format(**vars(self))}")

    def outcome(self) -> dict[str, object]:
        """The settings that decide what a training gives."""
        return {name: value for name, value in vars(self).items() if self._notes[name].outcome}

    @classmethod
    def read(cls, path: str | os.PathLike) -> dict[str, object]:
        """The settings in a YAML or JSON file, by name; of a ``metrics.json`` those that decide what a training gives,
        not those of where things are and go.

        Raises:
            InputError: it can't be read, names an unknown setting, or has a value of another type.
        """
        path = Path(path)
        try:
            found = json_text.read(path) if path.suffix == ".json" else yaml.safe_load(read_text(path))
        except InputError:
            raise
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise InputError(f"{path}: cannot be read as settings: {reason}") from error
        defaults = cls()
        outcome = isinstance(found, dict) and isinstance(found.get("config"), dict)  # a metrics.json
        settings = found["config"] if outcome else found
        if not isinstance(settings, dict):
            raise InputError(f"{path}: expected settings, such as  scale_max: 8.0, or a metrics.json")
        if outcome:
            settings = {name: value for name, value in settings.items()
                        if name not in defaults._notes or defaults._notes[name].outcome}
        for name, value in settings.items():
            if isinstance(value, str) and isinstance(getattr(defaults, str(name), None), float):
                try:
                    settings[name] = float(value)  # YAML takes 1e-3 for a word
                except ValueError:
                    pass
        try:
            cls(**{str(name): value for name, value in settings.items()})
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return settings

    @classmethod
    def refuse_code(cls, path: Path, settings: dict[str, object]) -> None:
        """Raise :class:`InputError` if the settings of a file ask for code to be run: only a user may."""

    @classmethod
    def parse(cls, argv: list[str] | None, prog: str, description: str, **defaults: object) -> Settings:
        """The settings of a command line; what it doesn't give is that of the file after ``--config``, of ``defaults``,
        or its default. Raises :class:`InputError`.
        """
        files = Parser(prog=prog, add_help=False, allow_abbrev=False)
        files.add_argument("--config", type=Path, metavar="file",
                           help="take the settings of this YAML file or of a run's metrics.json, and those given here "
                                "on top; of a metrics.json not the folders, the device, and what is printed")
        given, argv = files.parse_known_args(argv)
        settings = defaults | (cls.read(given.config) if given.config else {})
        on_top = {argument.split("=")[0] for argument in argv}
        settings = {name: value for name, value in settings.items() if f"--{name}" not in on_top}
        cls.refuse_code(given.config, settings)
        before = cls(**settings)
        parser = Parser(prog=prog, description=description, allow_abbrev=False, parents=[files],
                        formatter_class=argparse.RawDescriptionHelpFormatter)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for name, default in vars(before).items():
            note = before._notes[name]
            if note.group not in groups:
                groups[note.group] = parser.add_argument_group(note.group)
            several, boolean = isinstance(default, list), isinstance(default, bool)
            kind = int if several else type(default)
            shown = " ".join(map(str, default)) if several else str(default).lower() if boolean else default
            groups[note.group].add_argument(
                f"--{name}", default=default, type=_reader(kind), nargs="+" if several else "?" if boolean else None,
                const=True if boolean else None, help=f"{note.help} (default: {shown})" if shown != "" else note.help,
                metavar=METAVARS[kind])
        found = vars(parser.parse_args(argv))
        return cls(**{name: value for name, value in found.items() if name != "config"})


def _reader(kind: type) -> Callable[[str], object]:
    """What reads a setting of a type from the command line; its complaint names the type in words."""

    def read(text: str) -> object:
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise argparse.ArgumentTypeError(f"expected {TYPES[kind]}, found {text!r}") from None

    return read
