"""What a training aims at: the loss of a batch, the neighbours it draws together, and the temperatures of both.

The loss is contrastive (loss.py): it pulls partners together and pushes all other pairs apart. A part of each target,
the mixing weight, goes to a pair's neighbours in the batch instead of its partner (targets.py), on many scales at once:
its 2, 4, 8, ... nearest. The weight falls from ``structure_start`` to ``structure_end`` over the training, so that
coarse differences are learned first and fine ones last. No label is used anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common import own_code, processes
from common.console import warn
from loss import BalancedContrastiveLoss, ContrastiveLoss
from training.own_loss import own_loss
from training.targets import (DIMENSIONS, MAX_TEMPERATURE, contrast_temperatures, feature_neighbours,
                              measurable, neighbour_counts, neighbour_temperature, shared_space)

NEAR_CHANCE = 0.99  # of the highest temperature, that of pairs at random, which come out slightly below it by chance

if TYPE_CHECKING:
    from training.settings import Settings


class Objective:
    """The loss of batches of training pairs.

    Args:
        config: the settings of ICMR.py; a loss of one's own has passed :meth:`try_loss`.
        image, text: the features of all training pairs as the model sees them, (n, d_i) and (n, d_t), without noise.
        hash_lens: the code lengths; none for the real-valued fusion.
        name: of the data set, for warnings.

    ``chosen`` says what follows from the training pairs: the ``temperature`` by code length, and the
    ``structure_temperature`` by number of neighbours.
    """

    def __init__(self, config: Settings, image: Tensor, text: Tensor, hash_lens: Sequence[int], name: str):
        self.config, self.hash_lens = config, list(hash_lens)
        self.chosen: dict[str, dict[str, float]] = {}
        self.shared: tuple[Tensor, Tensor] | None = None
        if max(config.structure_start, config.structure_end) > 0:
            self.shared = shared_space(image, text)
            self.chosen["structure_temperature"] = {
                str(count): neighbour_temperature(*self.shared, config.batch_size, count)
                for count in neighbour_counts(config.batch_size)}
        self.losses = {width: self._loss(temperature)
                       for width, temperature in self._temperatures(image, text, name).items()}

    def to(self, device: torch.device) -> None:
        """Bring what a step needs to a device."""
        if self.shared is not None:
            self.shared = tuple(side.to(device) for side in self.shared)
        for loss in self.losses.values():
            if isinstance(loss, nn.Module):
                loss.to(device)

    def _temperatures(self, image: Tensor, text: Tensor, name: str) -> dict[int, float]:
        """The temperature of the loss at each width: those of the codes, and of what UCMFH's fusion gives."""
        config, widths = self.config, list(self.hash_lens)
        if (config.fusion == "transformer" or not widths) and DIMENSIONS not in widths:
            widths.append(DIMENSIONS)
        if config.temperature:
            temperatures = dict.fromkeys(widths, config.temperature)
        else:
            temperatures = contrast_temperatures(image, text, widths, config.batch_size)
            if min(temperatures.values()) > NEAR_CHANCE * MAX_TEMPERATURE and measurable(len(image), config.batch_size):
                warn(f"{name}: the texts of images can't be told from other texts; are the rows of both in the same "
                     f"order?")
        self.chosen["temperature"] = {str(width): temperature for width, temperature in temperatures.items()}
        return temperatures

    def _loss(self, temperature: float) -> Callable[..., Tensor]:
        if own_code.is_own(self.config.loss):
            return own_code.load(self.config.loss)(temperature=temperature)
        if self.config.loss == "balanced":
            return BalancedContrastiveLoss(temperature, self.config.positive_weight)
        return ContrastiveLoss(temperature)

    @staticmethod
    def try_loss(config: Settings) -> None:
        """Raise :class:`InputError` if ``--loss`` names a class of one's own that can't be trained with."""
        if own_code.is_own(config.loss):
            own_loss(config.loss, with_neighbours=max(config.structure_start, config.structure_end) > 0)

    def weight(self, progress: float) -> float:
        """The mixing weight of the neighbours when ``progress``, in [0, 1], of the training is done."""
        return (1 - progress) * self.config.structure_start + progress * self.config.structure_end

    def neighbours(self, rows: Tensor) -> Tensor | None:
        """The neighbours, (B, B), of the training pairs ``rows`` (B,) by their features; None where none are wanted."""
        if self.shared is None:
            return None
        return feature_neighbours(*(side[rows] for side in self.shared),
                                  list(self.chosen["structure_temperature"].values()))

    def of_codes(self, image: dict[int, Tensor], text: dict[int, Tensor], neighbours: Tensor | None,
                 weight: float | Tensor) -> Tensor:
        """The loss of a batch's codes of images and of texts, by code length (B, bits): the mean over the lengths.

        Args:
            neighbours: (B, B), from :meth:`neighbours`.
            weight: of the neighbours, from :meth:`weight`.
        """
        return sum(self.losses[bits](image[bits], text[bits], neighbours, weight)
                   for bits in self.hash_lens) / len(self.hash_lens)

    def of_fused(self, image: Tensor, text: Tensor, neighbours: Tensor | None, weight: float | Tensor) -> Tensor:
        """The loss of what UCMFH's fusion Transformer gives for this process's part of a batch, (n, width) each."""
        return self.losses[DIMENSIONS](processes.gather(image), processes.gather(text), neighbours, weight)
