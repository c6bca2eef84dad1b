"""Settings: each with its default, its bounds and its meaning in one place, from which the command line follows."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import InputError, Parser


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

    def means(self, help: str, *rules: Rule, outcome: bool = True) -> None:
        """Say of the setting assigned last what it means, and which rules hold for it.

        Args:
            outcome: whether it decides what a training gives. Two runs are the same training, and one can be resumed
                as the other, if all such settings are equal.
        """
        *_, name = vars(self)
        self._notes[name] = Note(self._group, help, rules, outcome)

    def override(self, given: dict[str, object]) -> None:
        """Set what was ``given``. Raises :class:`InputError` for an unknown setting or one of another type."""
        for name, value in given.items():
            if name not in vars(self):
                raise InputError(f"unknown setting {name!r}; the settings are {', '.join(vars(self))}")
            default = getattr(self, name)
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            if isinstance(default, list):
                value = [value] if type(value) is int else list(value)
            if type(value) is not type(default):
                raise InputError(f"{name} = {value!r}: expected a {type(default).__name__}, such as {default!r}")
            setattr(self, name, value)
        if silent := vars(self).keys() - self._notes.keys():
            raise TypeError(f"settings without a meaning: {', '.join(sorted(silent))}; say what each means()")

    def check(self) -> None:
        """Raise :class:`InputError` for the first setting that breaks a rule."""
        for name, note in self._notes.items():
            for rule in note.rules:
                if not rule.holds(getattr(self, name), self):
                    raise InputError(f"--{name} {getattr(self, name)}: expected {rule.expected.format(**vars(self))}")

    def outcome(self) -> dict[str, object]:
        """The settings that decide what a training gives."""
        return {name: value for name, value in vars(self).items() if self._notes[name].outcome}

    @classmethod
    def parse(cls, argv: list[str] | None, prog: str, description: str) -> Settings:
        """The settings of a command line; what it doesn't give keeps its default. Raises :class:`InputError`."""
        defaults = cls()
        parser = Parser(prog=prog, description=description, allow_abbrev=False,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for name, default in vars(defaults).items():
            note = defaults._notes[name]
            if note.group not in groups:
                groups[note.group] = parser.add_argument_group(note.group)
            several, boolean = isinstance(default, list), isinstance(default, bool)
            kind = _boolean if boolean else int if several else type(default)
            shown = " ".join(map(str, default)) if several else str(default).lower() if boolean else default
            groups[note.group].add_argument(
                f"--{name}", default=default, type=kind, nargs="+" if several else "?" if boolean else None,
                const=True if boolean else None, help=f"{note.help} (default: {shown})" if shown != "" else note.help,
                metavar="N" if kind is int else "true|false" if boolean else {float: "X", str: "NAME"}[kind])
        return cls(**vars(parser.parse_args(argv)))


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"
