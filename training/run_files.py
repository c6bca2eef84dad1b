"""Where a run keeps its files: the folder of its results, its models, and the state of a run in progress."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic_files import check_writable
from common.locks import alone

if TYPE_CHECKING:
    from training.settings import Settings


class RunFiles:
    """The paths of a run on a data set; tasks 1 and 3 are of hash codes, tasks 0 and 2 of the real-valued fusion."""

    def __init__(self, config: Settings, dataset: str):
        self.config, self.dataset = config, dataset
        self.kind = "hash" if config.task in (1, 3) else "real"
        self.models = Path(config.checkpoint_dir) / self.kind
        self.run = config.run_name  # empty until a run without a name claims its folder

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return Path(self.config.results_dir) / self.dataset / self.run

    @property
    def log(self) -> Path:
        """What the run printed; a resumed run writes to its end."""
        return self.results / "log.txt"

    def model(self, lengths: Sequence[int]) -> Path:
        """The file of a model with these code lengths: ``hash/<dataset>_hash.pth`` where they are nested, otherwise
        UCMFH's names, ``hash/<dataset>_hash_<bits>.pth`` and, with no code length, ``real/<dataset>_fusion.pth``.
        """
        kind = "fusion" if not lengths else "hash" if self.config.nested else f"hash_{lengths[0]}"
        return self.models / f"{self.dataset}_{kind}.pth"

    @property
    def state(self) -> Path:
        """A run in progress: ``hash/<dataset>_hash_16_32_state.pth`` or ``real/<dataset>_fusion_state.pth``."""
        kind = "hash_" + "_".join(map(str, self.config.hash_lens)) if self.kind == "hash" else "fusion"
        return self.models / f"{self.dataset}_{kind}_state.pth"

    def claim(self, written: Sequence[Path], interrupted: str | None = None) -> None:
        """Make the folders, and prove that files can be written there, before any work is done.

        A run without a name gets the folder of the ``interrupted`` run that it resumes, or one that no other run has.

        Args:
            written: the models and the state that a training writes.

        Raises :class:`InputError` if a folder refuses files, or another run is writing the same.
        """
        if written:
            check_writable(self.models, "checkpoint_dir")
        with self.locked(written):
            if not self.run and interrupted:
                self.run = interrupted
            elif not self.run:
                self.run = f"{datetime.now():%Y%m%d-%H%M%S}-{self.kind}-seed{self.config.seed}"
                self.run = unused(self.results).name
            check_writable(self.results, "results_dir")

    @contextlib.contextmanager
    def locked(self, written: Sequence[Path]) -> Iterator[None]:
        """Keep other runs from writing the same models, state or results for as long as the context lasts.

        Raises :class:`InputError` if another run is writing one of them.
        """
        with contextlib.ExitStack() as stack:
            for path in written:
                stack.enter_context(alone(path.with_name(f".{path.name}.lock"), (
                    f"{path}: another training is writing it; wait for that, or give this one a folder of its own with "
                    f"--checkpoint_dir")))
            if self.run:
                check_writable(self.results, "results_dir")
                stack.enter_context(alone(self.results / ".lock", (
                    f"{self.results}: another run is writing there; wait for that, or give this one another "
                    f"--run_name")))
            yield


def unused(folder: Path) -> Path:
    """``folder``, or with -2, -3, ... at its end where another run has it; made, so that no other takes it."""
    for number in itertools.count(1):
        try:
            path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.exists():  # a parent is a link to nowhere
                return folder
        except OSError:
            return folder  # where check_writable says why not
