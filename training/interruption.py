"""Stopping a training between two steps: Ctrl-C or SIGTERM asks for it, and the state can be saved first."""

from __future__ import annotations

import signal


class Stopped(Exception):
    """A training was asked to stop, and has done a whole number of steps."""


class StopRequest:
    """While the context lasts, remembers the first Ctrl-C or SIGTERM as ``signal``; a second one ends the program."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> StopRequest:
        self.handlers = {number: signal.signal(number, self._remember) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
