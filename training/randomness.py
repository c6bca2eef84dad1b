"""Random numbers that depend on the seed and on how far a training is, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from common import processes
from training.device import random_state, set_random_state


def derived_seed(*numbers: int) -> int:
    """A seed that depends on all the numbers, such as a run's seed and the epoch: also in a run that was interrupted."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_process(seed: int, epoch: int = 0, step: int = 0) -> None:
    """Give every process its own dropout and noise; the first has those of a run of one."""
    if processes.rank():
        torch.manual_seed(derived_seed(seed, epoch, step, processes.rank()))


def kept(device: torch.device) -> Callable[[], None]:
    """What brings the random numbers of this process and of ``device`` back to where they are now."""
    state = torch.get_rng_state(), None if device.type == "cpu" else random_state(device)

    def bring_back() -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            set_random_state(device, state[1])

    return bring_back


def drawn_texts(image_of_text: Tensor, first_text: Tensor, seed: int, epoch: int) -> Tensor:
    """The text that each image is trained with in an epoch, one of its own at random: rows, int64 (images,).

    Args:
        image_of_text, first_text: of a :class:`load_data.Split`.
    """
    counts = torch.bincount(image_of_text, minlength=len(first_text))
    random = torch.rand(len(counts), generator=torch.Generator().manual_seed(derived_seed(seed, epoch, 1)),
                        dtype=torch.float64)
    return first_text + (random * counts).long()


def order_of_pairs(pairs: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits the training pairs, int64 (pairs,)."""
    return torch.randperm(pairs, generator=torch.Generator().manual_seed(derived_seed(seed, epoch)))
