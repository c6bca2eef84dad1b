"""The log of a training as TensorBoard events, for those who follow their trainings there."""

from __future__ import annotations

import os

from common.errors import InputError

PROTOCOLS = ("unpaired", "paired", "partners")


class TensorBoardLog:
    """The event file of a run: every epoch's entry of ``metrics.json``, and its evaluation if it has one.

    The tags are such as ``training/loss``, and ``64/unpaired/i2t/map@50``: code length, protocol, direction and measure.
    The step of an event is its epoch.

    Args:
        folder: where the event file goes; made if it isn't there.
        purge_epoch: the first epoch to be written; TensorBoard hides what an interrupted run left of it and of later
            ones.

    Raises:
        InputError: the package tensorboard is missing.
    """

    def __init__(self, folder: str | os.PathLike, purge_epoch: int = 1):
        try:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes seconds to load
        except ImportError as error:
            raise InputError(f"--tensorboard true: {error}; pip install tensorboard, or leave it out") from None
        self.writer = SummaryWriter(os.fspath(folder), purge_step=purge_epoch)

    def write(self, log_entry: dict, evaluation: dict | None = None) -> None:
        """Write what ``metrics.json`` will hold of an epoch, and flush it to the file.

        Args:
            log_entry: of ``"epochs"``: its number as ``"epoch"``, and a value for each name.
            evaluation: of ``"history"``: for each code length the measures of each protocol and direction.
        """
        values = {f"training/{name}": value for name, value in log_entry.items() if name != "epoch"}
        for bits, result in (evaluation or {}).items():
            if bits != "epoch":
                values |= {f"{bits}/{protocol}/{direction}/{measure}": value for protocol in PROTOCOLS
                           for direction, found in result.get(protocol, {}).items() for measure, value in found.items()}
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, log_entry["epoch"])
        self.writer.flush()
