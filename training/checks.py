"""What must hold of settings and data together, found before the first folder is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from common import processes
from common.errors import InputError
from load_data import Dataset

if TYPE_CHECKING:
    from training.settings import Settings

ROWS = 1024  # compared at once


def check_data(config: Settings, data: Dataset) -> None:
    """Check that a run with these settings is possible on these data.

    Raises:
        InputError: labels are missing where mAP is all there is to measure; there are fewer queries or items than
            processes; or, for a training, the batch can't be filled or shared, or the features tell nothing apart.
    """
    if config.task in (0, 2):
        data.require_labels(f"the real-valued fusion (--task {config.task}) is tested by mAP")
    fewest = min(len(data.query), len(data.retrieval))
    if fewest < processes.size():
        raise InputError(f"{data.name}: {processes.size()} processes can't share {fewest} queries or items; "
                         f"use fewer processes")
    if config.task in (0, 1):
        _check_batch(config, data)
        for side in ("image", "text"):
            _check_features(data, side)


def _check_batch(config: Settings, data: Dataset) -> None:
    pairs = len(data.train)
    if config.batch_size > pairs:
        raise InputError(f"--batch_size {config.batch_size}: larger than the training split of {data.name}, which has "
                         f"{pairs} pairs; give at most {pairs}")
    if config.batch_size % processes.size():
        raise InputError(f"--batch_size {config.batch_size}: the batch is shared by {processes.size()} processes; "
                         f"give a multiple of {processes.size()}")


def _check_features(data: Dataset, side: str) -> None:
    features = getattr(data.train, side)
    first = normalize(features[:1], dim=1)
    if all(torch.allclose(normalize(rows, dim=1), first, atol=1e-6) for rows in features.split(ROWS)):
        raise InputError(f"{data.name}: the {side} features of all {len(features):,} training pairs are the same but for "
                         f"their length; expected features that tell items apart")
