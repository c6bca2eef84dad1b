"""A small data set for tests that train, and the arguments that train on it."""

from pathlib import Path

import h5py
import numpy as np


def write_toy(folder: Path, pairs: int, queries: int, classes: int = 3, spread: float = 2, text_width: int = 5,
              shuffled: bool = False, **columns) -> Path:
    """Write ``folder``/data/toy/toy.h5, whose classes lie ``spread`` apart; returns ``folder``.

    The first pairs, or random ones, are the queries; the others are trained on and searched. ``columns`` are added, or
    take the place of the file's own; None leaves one out.
    """
    random = np.random.default_rng(0)
    label = np.eye(classes, dtype=np.uint8)[random.integers(0, classes, pairs)]
    content = {name: (random.normal(size=(pairs, width)) + spread * label @ random.normal(size=(classes, width)))
               .astype("f4") for name, width in (("image", 9), ("text", text_width))}
    rows = random.permutation(pairs) if shuffled else np.arange(pairs)
    content |= {"label": label, "query_idx": rows[:queries], "train_idx": rows[queries:],
                "retrieval_idx": rows[queries:]}
    path = folder / "data" / "toy" / "toy.h5"
    path.parent.mkdir(parents=True)
    with h5py.File(path, "w") as file:
        for name, values in (content | columns).items():
            if values is not None:
                file[name] = values
    return folder


def toy_arguments(folder: Path, *more: str) -> list[str]:
    """Train 4 and 8 bits on the data set in ``folder`` for 3 epochs; ``more`` is added, and wins."""
    return ["--dataset", "toy", "--data_dir", str(folder / "data"), "--results_dir", str(folder / "results"),
            "--checkpoint_dir", str(folder / "checkpoints"), "--hash_lens", "4", "8", "--hidden", "16",
            "--batch_size", "16", "--epoch", "3", "--device", "cpu", *more]
