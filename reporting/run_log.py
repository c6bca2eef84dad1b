"""The log of a training as TensorBoard events, for those who follow their trainings there."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator

from common.errors import InputError

PROTOCOLS = ("unpaired", "paired", "partners")


def require_tensorboard() -> type:
    """PyTorch's ``SummaryWriter``. Raises InputError if the package tensorboard, which it needs, is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # here: it takes seconds to load
    except ImportError as error:
        raise InputError(f"--tensorboard true: {error}; pip install tensorboard, or leave it out") from None
    return SummaryWriter


class TensorBoardLog:
    """The event file of a run: every epoch's entry of ``metrics.json``, and its evaluation if it has one.

    The tags are such as ``training/loss``, and ``64/unpaired/i2t/map@50``: code length, protocol, direction and measure.
    The step of an event is its epoch.

    Args:
        folder: where the event file goes; made if it isn't there.
        purge_epoch: the first epoch to be written; TensorBoard hides what an interrupted run left of it and of later
            ones.

    Raises:
        InputError: the package tensorboard is missing, or the folder can't be written.
    """

    def __init__(self, folder: str | os.PathLike, purge_epoch: int = 1):
        SummaryWriter = require_tensorboard()
        threading.excepthook = functools.partial(_of_other_threads, threading.excepthook)
        self.folder = folder
        with self.refused():
            self.writer = SummaryWriter(os.fspath(folder), purge_step=purge_epoch)

    def write(self, log_entry: dict, evaluation: dict | None = None) -> None:
        """Write what ``metrics.json`` will hold of an epoch, and flush it to the file. Raises InputError if it can't.

        Args:
            log_entry: of ``"epochs"``: its number as ``"epoch"``, and a value for each name.
            evaluation: of ``"history"``: for each code length the measures of each protocol and direction.
        """
        values = {f"training/{name}": value for name, value in log_entry.items() if name != "epoch"}
        for bits, result in (evaluation or {}).items():
            if bits != "epoch":
                values |= {f"{bits}/{protocol}/{direction}/{measure}": value for protocol in PROTOCOLS
                           for direction, found in result.get(protocol, {}).items() for measure, value in found.items()}
        with self.refused():
            for tag, value in values.items():
                self.writer.add_scalar(tag, value, log_entry["epoch"])
            self.writer.flush()

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Say that the folder can't be written, if it can't."""
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write the TensorBoard events: {error.strerror or error}; make "
                             f"room, or leave out --tensorboard") from error


def _of_other_threads(plain: Callable, about: threading.ExceptHookArgs) -> None:
    """Say nothing of TensorBoard's thread that ends because its file can't be written, which ``write`` says."""
    if not (issubclass(about.exc_type, OSError) and type(about.thread).__module__.startswith("tensorboard.")):
        plain(about)
