"""The TensorBoard events of a run: what its log and its evaluations say, an epoch at a time."""

from __future__ import annotations

import os

from common.errors import InputError


class TensorBoardLog:
    """Writes events into the folder ``tensorboard`` of a run; those of epochs after ``epoch`` that are there are dropped.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike, epoch: int):
        try:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes seconds to load
        except ImportError as error:
            raise InputError(f"--tensorboard true: {error}; pip install tensorboard, or leave it out") from None
        self.writer = SummaryWriter(os.path.join(folder, "tensorboard"), purge_step=epoch)

    def write(self, epoch: int, entry: dict, evaluation: dict | None) -> None:
        """Write the epoch just done: its log ``entry``, and the figures of its ``evaluation`` if it had one."""
        values = {f"training/{key}": value for key, value in entry.items() if key != "epoch"}
        for name, figures in (evaluation or {}).items():
            if name != "epoch":
                values |= {f"{name}/{kind}/{direction}/{cut}": value for kind in ("unpaired", "paired", "partners")
                           for direction, found in figures.get(kind, {}).items() for cut, value in found.items()}
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()
